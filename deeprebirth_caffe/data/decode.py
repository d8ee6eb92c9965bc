"""Pictures, as Caffe has OpenCV read them: rows of BGR or gray pixels."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprebirth_caffe.data.libraries import need

Picture = NDArray[np.uint8]
"""Height x width (gray) or height x width x channels."""

GRAY, COLOR, NATIVE = 0, 1, -1
"""OpenCV's IMREAD_GRAYSCALE, IMREAD_COLOR and IMREAD_UNCHANGED."""


_AS_STORED = 128  # IMREAD_IGNORE_ORIENTATION
_JPEG = b"\xff\xd8"
_END_OF_JPEG = b"\xff\xd9"


class BadRecordError(ValueError):
    """One record cannot be used; whoever knows its name says which."""


@functools.cache
def opencv() -> Any:
    """OpenCV, told to start no threads: we have our own, and after a fork it would wait for ever for its."""
    cv2 = need("cv2", "reading pictures")
    cv2.setNumThreads(0)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # errors are ours to tell
    return cv2


def decode(data: bytes, flag: int) -> Picture:
    """Decodes an encoded picture.

    Args:
        data: the file's bytes.
        flag: GRAY, COLOR or NATIVE.

    Raises:
        BadRecordError: it cannot be decoded, or has more than 8 bits a channel.
    """
    if flag != NATIVE and not data.startswith(_JPEG):
        # Caffe's OpenCV turns JPEGs as a camera says, later ones other kinds of pictures, too.
        flag |= _AS_STORED
    picture = _try(data, flag)
    if picture is None:
        raise BadRecordError("this is no picture, or a damaged one")
    if picture.dtype != np.uint8:
        raise BadRecordError(f"the picture has {8 * picture.dtype.itemsize} bits a channel, not 8")
    return np.asarray(picture, np.uint8)


def read_picture(path: Path, color: bool, size: tuple[int, int] | None = None) -> Picture:
    """Reads a picture's file, and resizes it if told.

    Args:
        path: the file.
        color: whether to read it as BGR; else as gray.
        size: the new height and width.

    Raises:
        BadRecordError: it is not there or no picture.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadRecordError(f"cannot read it ({error.strerror})") from error
    if data.startswith(_JPEG) and not data.endswith(_END_OF_JPEG):
        # What is missing of a JPEG's file is gray in Caffe; in memory OpenCV wants to see an end.
        data += _END_OF_JPEG
    picture = decode(data, COLOR if color else GRAY)
    if size is None:
        return picture
    cv2 = opencv()
    return np.asarray(cv2.resize(picture, size[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)


def _try(data: bytes, flag: int) -> Any:
    cv2 = opencv()
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flag) if data else None
    except cv2.error:
        return None
