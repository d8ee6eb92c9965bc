"""Random numbers that depend only on seed, layer and batch (or epoch), not on threads."""

from __future__ import annotations

import zlib

import numpy as np

BATCH, EPOCH, START, FILES = range(4)
"""Purposes: crops and mirrors of a batch, the order of an epoch, the first record, the order of files."""


def generator(seed: int, layer: str, kind: int, number: int = 0, part: int = 0) -> np.random.Generator:
    """Random numbers for one purpose."""
    name = zlib.crc32(layer.encode("utf-8", "surrogatepass"))
    key = (seed % (1 << 64)) + ((kind << 32 | name) << 64)
    return np.random.Generator(np.random.Philox(key=key, counter=(number << 64) + (part << 128)))
