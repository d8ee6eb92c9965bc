"""Random weights, under the name by which workflows know them; engines fill nets too."""

from __future__ import annotations

from deeprebirth_caffe.engines.random_weights import random_weights

__all__ = ["random_weights"]
