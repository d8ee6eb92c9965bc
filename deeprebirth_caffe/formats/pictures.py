"""OpenCV as everything here uses it: silent, and with a limit to what a picture may decode to."""

from __future__ import annotations

import functools
import os
from typing import Any

from deeprebirth_caffe.formats.files import environment_limit

VARIABLE = "REBIRTH_MAX_PIXELS"
"""The environment variable that allows larger pictures."""

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


def is_too_large(error: BaseException) -> bool:
    """Whether OpenCV refused a picture because of its size."""
    return "CV_IO_MAX_IMAGE" in str(error)
