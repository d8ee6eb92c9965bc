"""OpenCV as everything here uses it: silent, and with a limit to what a picture may decode to."""

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
"""Height times width of a picture: it may be a file of a few megabytes and take gigabytes once it is decoded."""

OPENCVS_VARIABLE = "OPENCV_IO_MAX_IMAGE_PIXELS"
"""What OpenCV itself reads, when it is loaded: it knows a picture's size before it decodes it, whatever its kind."""


def most_pixels() -> int:
    """Height times width that a picture may have."""
    return environment_limit(VARIABLE, MOST_PIXELS)


@functools.cache
def load_opencv() -> Any:
    """OpenCV, told to start no threads: we have our own, and after a fork it would wait for ever for its.

    Raises:
        ImportError: it is not installed.
    """
    os.environ[OPENCVS_VARIABLE] = str(most_pixels())
    import cv2

    cv2.setNumThreads(0)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # errors are ours to tell
    return cv2


class TooLargeError(ValueError):
    """A picture has more pixels than are decoded."""


def imdecode(data: bytes, flag: int) -> Any:
    """What `cv2.imdecode` makes of an encoded picture; None where it is none, or a damaged one.

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
    """Whether a chunk of a PNG says that it is far longer than the file: OpenCV would make room for it all the same."""
    at = len(_PNG)
    while data.startswith(_PNG) and at + 4 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if length > len(data) + _SPARE:
            return True
        at += 12 + length  # length, kind and checksum around what it holds
    return False


class _Silence:
    """How many decode now, and where stderr goes meanwhile."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.stderr = -1


_silence = _Silence()
# A fork may happen while another thread holds the lock or decodes, and in the child nobody would ever end that.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _after_fork())


def _after_fork() -> None:
    global _silence
    if _silence.inside:
        os.dup2(_silence.stderr, _STDERR)
    _silence = _Silence()


@contextmanager
def _silent() -> Iterator[None]:
    """Lets nothing through that libpng and libjpeg write on file descriptor 2, past every setting.

    `rebirth` itself writes on another descriptor, see `cli.main`; so lines of other threads are not lost.
    """
    silence = _silence
    with silence.lock:
        if not silence.inside:
            # Where stderr was closed from the beginning, another file may be descriptor 2.
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
