"""Builds well-known nets, full size and small: `names`, `build`, `write`."""

from __future__ import annotations

from deeprebirth_caffe.zoo.design import ZooNet
from deeprebirth_caffe.zoo.registry import ZooError, build, names, write

__all__ = ["ZooError", "ZooNet", "build", "names", "write"]
