"""The libraries that reading pictures and HDF5 needs, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.extras import pip_install

_NAMES = {"cv2": "OpenCV", "h5py": "h5py", "sklearn.datasets": "scikit-learn"}


def need(module: str, purpose: str) -> Any:
    """Imports an optional library.

    Args:
        module: its module's name.
        purpose: what for, for the message: "reading pictures".

    Raises:
        RebirthError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module if module == "plyvel" else ""  # the one that is rarely needed, and not everywhere to be had
        raise RebirthError(f"{purpose} needs {_NAMES.get(module, module)}: {pip_install('data', package)}") from error
