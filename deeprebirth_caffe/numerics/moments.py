"""The second moment E[x x'] of a layer's inputs, summed in double precision, batch by batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

MAX_WHOLE = 4096
"""With more inputs than this only the diagonal is kept: E[x_i^2]."""


class SecondMoment:
    """The second moment of a blob.

    Attributes:
        count: how many vectors have been seen.
    """

    def __init__(self, size: int) -> None:
        """Starts from nothing."""
        self.count = 0
        self._sum = np.zeros((size, size) if size <= MAX_WHOLE else size)

    def add(self, vectors: Array) -> None:
        """Adds vectors.

        Args:
            vectors: (images, size, places): a vector for each place of each image.
        """
        for image in vectors:
            wide = np.asarray(image, dtype=np.float64)
            self._sum += wide @ wide.T if self._sum.ndim == 2 else (wide**2).sum(axis=1)
        self.count += vectors.shape[0] * vectors.shape[2]

    @property
    def value(self) -> Array:
        """(size, size), or its diagonal (size,)."""
        return self._sum / max(self.count, 1)
