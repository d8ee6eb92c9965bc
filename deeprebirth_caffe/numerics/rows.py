"""The inputs of a linear layer at sampled places, as rows on the disk.

A row holds the patch at a place of an image, in the layout of the layer's weights: (channels, kernel height, kernel
width). Rows go to files and come back in chunks, so memory does not grow with their number.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from deeprebirth_caffe.errors import RebirthError

Array = npt.NDArray[Any]


class RowFile:
    """A file of float32 rows of the same width: first written completely, then read."""

    def __init__(self, path: Path, width: int) -> None:
        """Opens it."""
        self.width = width
        self.count = 0
        self._path = path
        self._file = path.open("w+b", buffering=0)

    def append(self, rows: Array) -> None:
        """Adds rows at the end.

        Args:
            rows: (rows, ...); the other axes hold as many numbers as a row has.

        Raises:
            RebirthError: they cannot be written, as on a full disk.
        """
        flat = np.ascontiguousarray(rows, dtype=np.float32).reshape(len(rows), self.width)
        left = flat.reshape(-1).view(np.uint8)
        try:
            while left.size:
                left = left[self._file.write(left.data) or 0 :]
        except OSError as error:
            raise RebirthError(
                f"{self._path.parent}: no room for temporary files ({error.strerror or error}); set TMPDIR to a larger "
                "disk, or take fewer samples or positions"
            ) from error
        self.count += len(flat)

    def chunks(self, rows: int) -> Iterator[Array]:
        """All rows from the beginning, so many at a time: (rows, width) each."""
        self._file.seek(0)
        left = self.count
        while left > 0:
            taken = min(rows, left)
            values = np.fromfile(self._file, np.float32, taken * self.width)
            yield values.reshape(taken, self.width)
            left -= taken

    def close(self) -> None:
        """Closes and removes the file."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def sample_places(seed: int, what: str, images: range, places: int, most: int) -> Array:
    """The sampled places of each image: the same for the same seed, name and image, whatever the batches.

    Args:
        seed: of the random numbers.
        what: a name on which they depend.
        images: the numbers of the images.
        places: how many an image has.
        most: how many to take.

    Returns:
        (images, min(most, places)) indices, ascending.
    """
    if places <= most:
        return np.tile(np.arange(places), (len(images), 1))
    key = zlib.crc32(what.encode("utf-8", "surrogateescape"))
    samples = [
        np.sort(np.random.default_rng((seed, key, image)).choice(places, most, replace=False, shuffle=False))
        for image in images
    ]
    return np.stack(samples) if samples else np.zeros((0, most), int)


def at_places(blob: Array, places: Array) -> Array:
    """The vectors over channels at some places.

    Args:
        blob: (images, channels, height, width), or (images, channels).
        places: (images, count) indices into height x width.

    Returns:
        (images * count, channels).
    """
    flat = blob.reshape(*blob.shape[:2], -1)
    rows: Array = np.take_along_axis(flat, places[:, None, :], axis=2).transpose(0, 2, 1).reshape(-1, blob.shape[1])
    return rows


def patches(
    blob: Array,
    places: Array,
    width: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    pad: Sequence[int],
    dilation: Sequence[int],
) -> Array:
    """The inputs of a 2-d convolution at some places of its output.

    Args:
        blob: (images, channels, height, width): its bottom.
        places: (images, count) indices into the output's height x width.
        width: of the output.
        kernel: of the convolution, height first.
        stride: height first.
        pad: height first.
        dilation: height first.

    Returns:
        (images * count, channels * kernel height * kernel width).
    """
    starts = np.stack([places // width * stride[0], places % width * stride[1]])
    taps = [np.arange(size) * step for size, step in zip(kernel, dilation, strict=True)]
    # Caffe's output may reach beyond the padded image by less than a stride; zeros there too.
    ends = [int(starts[axis].max(initial=0) + taps[axis][-1] + 1) for axis in (0, 1)]
    beyond = [max(pad[axis], ends[axis] - blob.shape[2 + axis] - pad[axis]) for axis in (0, 1)]
    padded = np.pad(blob, ((0, 0), (0, 0), (pad[0], beyond[0]), (pad[1], beyond[1])))
    rows = starts[0][:, :, None, None] + taps[0][:, None]
    columns = starts[1][:, :, None, None] + taps[1][None, :]
    images = np.arange(len(blob))[:, None, None, None]
    windows: Array = padded.transpose(0, 2, 3, 1)[images, rows, columns]
    return np.moveaxis(windows, -1, 2).reshape(places.size, -1)
