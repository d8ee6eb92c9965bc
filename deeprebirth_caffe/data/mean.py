"""The mean picture of a database, equal to compute_image_mean's to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprebirth_caffe.data.decode import BadRecordError
from deeprebirth_caffe.data.records import stored_pixels
from deeprebirth_caffe.data.writers import Database
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.proto import caffe_pb2 as pb

_STEP = 500  # records between two calls of `progress`


def mean_picture(database: Database, progress: Callable[[int], None] = lambda done: None) -> NDArray[np.float32]:
    """Adds all records in the order of their keys, in single precision, and divides by their number.

    Args:
        database: its records must have the same shape.
        progress: called with the number of records read.

    Returns:
        channels x height x width.

    Raises:
        RebirthError: there are no records, or they differ in shape.
    """
    total: NDArray[Any] | None = None
    count = 0
    for key, value in database.items():
        try:
            pixels = stored_pixels(value)
        except BadRecordError as error:
            raise RebirthError(f"mean: record {key.decode(errors='replace')}: {error}") from error
        if total is None:
            total = np.zeros(pixels.shape, np.float32)
        if pixels.shape != total.shape:
            sizes = [" x ".join(map(str, shape)) for shape in (pixels.shape, total.shape)]
            raise RebirthError(
                f"mean: record {key.decode(errors='replace')} is {sizes[0]}, the first is {sizes[1]}: a mean needs "
                "one size and as many channels everywhere; use --resize or leave --mean out"
            )
        # In order: above 2^24 sums in single precision are rounded, and the order matters.
        total += pixels
        count += 1
        if count % _STEP == 0:
            progress(count)
    if total is None:
        raise RebirthError("mean: the database has no records")
    progress(count)
    mean: NDArray[np.float32] = total / np.float32(count)
    return mean


def mean_bytes(mean: NDArray[np.float32]) -> bytes:
    """A mean picture as a binaryproto file."""
    channels, height, width = mean.shape
    blob = pb.BlobProto(num=1, channels=channels, height=height, width=width, data=mean.ravel().tolist())
    return blob.SerializeToString()
