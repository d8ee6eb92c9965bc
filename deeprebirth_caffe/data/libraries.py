"""Imports the libraries for pictures and HDF5 when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.extras import pip_install

_NAMES = {"cv2": "OpenCV", "h5py": "h5py", "sklearn.datasets": "scikit-learn"}


def need(module: str, purpose: str) -> Any:
    """Imports an optional library.

    Args:
        module: the name of its module.
        purpose: for the message, such as "reading pictures".

    Raises:
        RebirthError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module if module == "plyvel" else ""  # rarely needed, and not available everywhere
        raise RebirthError(f"{purpose} needs {_NAMES.get(module, module)}: {pip_install('data', package)}") from error
