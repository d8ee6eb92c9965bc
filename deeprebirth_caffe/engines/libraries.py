"""Optional libraries: imported when they are needed, with one line that says what to type where they are missing."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.extras import pip_install


def need(module: str, extra: str) -> Any:
    """Imports a module.

    Args:
        module: its name; typed as anything, for most of them have no types.
        extra: which extra of this package brings it.

    Raises:
        EngineError: it is not installed, or does not start.
    """
    try:
        with stdout_as_stderr():
            return importlib.import_module(module)
    except ImportError as error:
        if importlib.util.find_spec(module) is None:
            text = f"{module} is not installed: {pip_install(extra)}"
        else:
            text = f"{module} is installed but does not start: {' '.join(str(error).split())}"
        raise EngineError(text) from error


def place_of(module: str, extra: str) -> Path:
    """The directory of a package, without importing it.

    Raises:
        EngineError: it is not installed.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise EngineError(f"{module} is not installed: {pip_install(extra)}")
    return Path(spec.origin).parent


@contextlib.contextmanager
def stdout_as_stderr() -> Iterator[None]:
    """What compiled code prints meanwhile goes to stderr: stdout is for results."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
