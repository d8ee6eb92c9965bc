"""Decodes pictures as Caffe does with OpenCV: rows of BGR or gray pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprebirth_caffe.data.libraries import need
from deeprebirth_caffe.formats.files import PICTURE_LIMIT, read_regular
from deeprebirth_caffe.formats.pictures import VARIABLE, TooLargeError, imdecode, load_opencv, most_pixels

Picture = NDArray[np.uint8]
"""Height x width (gray) or height x width x channels."""

GRAY, COLOR, NATIVE = 0, 1, -1
"""OpenCV's IMREAD_GRAYSCALE, IMREAD_COLOR and IMREAD_UNCHANGED."""


_AS_STORED = 128  # IMREAD_IGNORE_ORIENTATION
_JPEG = b"\xff\xd8"
_END_OF_JPEG = b"\xff\xd9"


class BadRecordError(ValueError):
    """A record cannot be used; the caller adds its name."""


def opencv() -> Any:
    """OpenCV; see `load_opencv`.

    Raises:
        RebirthError: it is not installed.
    """
    try:
        return load_opencv()
    except ImportError:
        return need("cv2", "reading pictures")


def decode(data: bytes, flag: int) -> Picture:
    """Decodes an encoded picture.

    Args:
        data: the file's bytes.
        flag: GRAY, COLOR or NATIVE.

    Raises:
        BadRecordError: it cannot be decoded, or has more than 8 bits a channel.
    """
    if flag != NATIVE and not data.startswith(_JPEG):
        # Caffe's OpenCV turns only JPEGs as their camera says, later versions turn other kinds too.
        flag |= _AS_STORED
    opencv()
    try:
        picture = imdecode(data, flag)
    except TooLargeError as error:
        raise BadRecordError(str(error)) from error
    if picture is None:
        raise BadRecordError("this is no picture, or a damaged one")
    if picture.dtype != np.uint8:
        raise BadRecordError(f"the picture has {8 * picture.dtype.itemsize} bits a channel, not 8")
    return np.asarray(picture, np.uint8)


def read_picture(path: Path, color: bool, size: tuple[int, int] | None = None) -> Picture:
    """Reads a picture's file, and resizes it if asked.

    Args:
        path: the file.
        color: whether to read BGR; else gray.
        size: the new height and width.

    Raises:
        BadRecordError: the file is missing or no picture.
    """
    try:
        data = read_regular(path, PICTURE_LIMIT)
    except OSError as error:
        raise BadRecordError(f"cannot read it ({error.strerror})") from error
    if data.startswith(_JPEG) and not data.endswith(_END_OF_JPEG):
        # The missing part of a JPEG's file is gray in Caffe; in memory OpenCV needs an end mark.
        data += _END_OF_JPEG
    picture = decode(data, COLOR if color else GRAY)
    if size is None:
        return picture
    cv2 = opencv()
    if size[0] * size[1] > most_pixels():
        raise BadRecordError(f"it is resized to more than {most_pixels():,} pixels; ${VARIABLE} allows more")
    return np.asarray(cv2.resize(picture, size[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)
