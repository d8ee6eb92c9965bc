"""Sizes of shapes; knows nothing of nets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

FLOAT_BYTES = 4
"""Bytes of one element: Caffe's blobs are single precision on every tool's path."""


def count(shape: Sequence[int], start: int = 0, end: int | None = None) -> int:
    """The number of elements of `shape[start:end]`; 1 for a scalar's empty shape."""
    return prod(shape[start:end])


def nbytes(shape: Sequence[int], element: int = FLOAT_BYTES) -> int:
    """The bytes that one blob of this shape takes, without its gradient."""
    return count(shape) * element


def total_bytes(shapes: Iterable[Sequence[int]], element: int = FLOAT_BYTES) -> int:
    """The bytes of several blobs together."""
    return sum(nbytes(shape, element) for shape in shapes)
