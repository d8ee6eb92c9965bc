"""Text from files, made fit for a terminal: what every command passes its words through."""

from __future__ import annotations

from deeprebirth_caffe.workflows.publish import printable

__all__ = ["printable"]
