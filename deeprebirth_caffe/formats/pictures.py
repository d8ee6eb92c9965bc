"""OpenCV, silent, and with a limit to the size of a decoded picture."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from deeprebirth_caffe.formats.files import environment_limit

VARIABLE = "REBIRTH_MAX_PIXELS"
"""The environment variable that allows larger pictures."""

_STDERR = 2
_PNG = b"\x89PNG\r\n\x1a\n"
_SPARE = 1 << 20

MOST_PIXELS = 100_000_000
"""The most pixels of a picture: a file of a few megabytes can take gigabytes once it is decoded."""

OPENCVS_VARIABLE = "OPENCV_IO_MAX_IMAGE_PIXELS"
"""OpenCV reads this when it is loaded: it knows the size of any picture before it decodes it."""


def most_pixels() -> int:
    """The most pixels that a picture may have."""
    return environment_limit(VARIABLE, MOST_PIXELS)


@functools.cache
def load_opencv() -> Any:
    """OpenCV without its own threads: we have threads, and after a fork OpenCV would wait for its own for ever.

    Raises:
        ImportError: it is not installed.
    """
    os.environ[OPENCVS_VARIABLE] = str(most_pixels())
    import cv2

    cv2.setNumThreads(0)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # we report errors ourselves
    return cv2


class TooLargeError(ValueError):
    """A picture has too many pixels to decode."""


def imdecode(data: bytes, flag: int) -> Any:
    """Decodes a picture with `cv2.imdecode`; None if it is damaged or no picture.

    Raises:
        ImportError: OpenCV is not installed.
        TooLargeError: it has too many pixels.
    """
    cv2 = load_opencv()
    if not data or _is_bloated_png(data):
        return None
    with _silent():
        try:
            return cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        except cv2.error as error:
            if "CV_IO_MAX_IMAGE" in str(error):
                raise TooLargeError(
                    f"the picture has more than {most_pixels():,} pixels; ${VARIABLE} allows more"
                ) from error
            return None


def _is_bloated_png(data: bytes) -> bool:
    """Whether a chunk of a PNG claims to be far longer than the file: OpenCV would allocate memory for it."""
    at = len(_PNG)
    while data.startswith(_PNG) and at + 4 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if length > len(data) + _SPARE:
            return True
        at += 12 + length  # length, kind and checksum around the content
    return False


class _Silence:
    """How many threads decode now, and where stderr goes meanwhile."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.stderr = -1


_silence = _Silence()
# A fork may happen while another thread holds the lock or decodes; in the child nobody would ever end that.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _after_fork())


def _after_fork() -> None:
    global _silence
    if _silence.inside:
        os.dup2(_silence.stderr, _STDERR)
    _silence = _Silence()


@contextmanager
def _silent() -> Iterator[None]:
    """Drops what libpng and libjpeg write to file descriptor 2, which no setting stops.

    `rebirth` itself writes to another descriptor (see `cli.main`), so lines of other threads are not lost.
    """
    silence = _silence
    with silence.lock:
        if not silence.inside:
            # If stderr was closed at the start, descriptor 2 may be another file.
            silence.stderr = -1 if sys.__stderr__ is None else os.dup(_STDERR)
            if silence.stderr >= 0:
                nothing = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nothing, _STDERR)
                os.close(nothing)
        silence.inside += 1
    try:
        yield
    finally:
        with silence.lock:
            silence.inside -= 1
            if not silence.inside and silence.stderr >= 0:
                os.dup2(silence.stderr, _STDERR)
                os.close(silence.stderr)
