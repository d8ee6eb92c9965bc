"""Random starts: Caffe's Xavier filler, and He's filler, which suits whole nets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def xavier(shape: Sequence[int], rng: np.random.Generator) -> Array:
    """Caffe's XavierFiller with FAN_IN: uniform in +-sqrt(3 / fan_in), fan_in = count / shape[0]."""
    fan_in = int(np.prod(shape[1:])) or 1
    bound = np.sqrt(3.0 / fan_in)
    return rng.uniform(-bound, bound, size=tuple(shape)).astype(np.float32)


def msra(shape: Sequence[int], rng: np.random.Generator) -> Array:
    """Gaussian with variance 2 / fan_in, which keeps the scale of activations behind ReLUs in deep nets."""
    fan_in = int(np.prod(shape[1:])) or 1
    return np.asarray(rng.standard_normal(tuple(shape)) * np.sqrt(2.0 / fan_in), dtype=np.float32)
