"""Mean and variance of each channel of a blob, merged batch by batch in double precision.

Two sets of n and m numbers with means a, b and sums of squared distances S, T have together

    mean = a + (b - a) m / (n + m)          S + T + (b - a)^2 n m / (n + m)

which stays exact if the mean is large beside the spread; sums of squares do not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Spread:
    """Mean and variance of a blob's channels.

    Attributes:
        count: how many numbers of each channel have been seen.
        mean: of each channel, (channels,).
    """

    def __init__(self, channels: int) -> None:
        """Starts without numbers."""
        self.count = 0
        self.mean = np.zeros(channels)
        self._squares = np.zeros(channels)

    def add(self, batch: Array) -> None:
        """Adds a blob: (images, channels, ...)."""
        for image in batch:  # image by image: a whole batch in double precision is large
            wide = np.asarray(image, dtype=np.float64).reshape(len(self.mean), -1)
            count, mean = wide.shape[1], wide.mean(axis=1)
            away = mean - self.mean
            total = self.count + count
            self._squares += ((wide - mean[:, None]) ** 2).sum(axis=1) + away**2 * (self.count * count / total)
            self.mean = self.mean + away * (count / total)
            self.count = total

    @property
    def variance(self) -> Array:
        """The variance of each channel, (channels,): divided by the count, as BatchNorm does in training."""
        return self._squares / max(self.count, 1)
