"""Starts Python so that it never takes code from the current folder.

`python -m` and `python -c` look for modules in the current folder first: a `random.py` beside somebody's net
would run. `-P` would prevent that, but Python 3.10 has no `-P`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

_START = (
    "import sys; n = int(sys.argv[1]); sys.path[:] = sys.argv[2:2 + n]; sys.argv[:] = sys.argv[1 + n:]; "
    "import runpy; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)
"""The program for `-c`. Arguments: the number of folders, the folders, the module, the module's arguments."""


def module_path() -> list[str]:
    """The folders of modules, without the current folder unless somebody named it.

    A folder that PYTHONPATH names stays, as an absolute path: the user wants it. An empty part of PYTHONPATH, or a dot,
    means the current folder, usually by mistake, and is left out. The folder of this package always stays.
    """
    here = os.path.abspath(os.curdir)  # noqa: PTH100 - as Python writes it
    parts = _named()
    named = [os.path.abspath(part) for part in parts if part not in ("", os.curdir)]  # noqa: PTH100
    package = str(Path(__file__).resolve().parents[1])
    kept = []
    for index, part in enumerate(sys.path):
        # First the unnamed folder (of `-m` and `-c`), then PYTHONPATH, then the folders of this Python.
        unnamed = index <= len(parts) and os.path.abspath(part) == here and here not in named  # noqa: PTH100
        if part and (not unnamed or os.path.realpath(part) == package):
            kept.append(os.path.abspath(part))  # noqa: PTH100
    if package not in map(os.path.realpath, kept):
        kept.append(package)
    return list(dict.fromkeys(kept))


def leave_out_current_folder() -> None:
    """Removes the current folder from this process's path; see `module_path`."""
    sys.path[:] = module_path()


def python_words(module: str, arguments: Sequence[str] = ()) -> list[str]:
    """The command line that runs a module in a new Python, with our path only.

    Args:
        module: the dotted name; it runs as with `python -m`.
        arguments: the rest of `sys.argv`.
    """
    path = module_path()
    return [sys.executable, "-I", "-c", _START, str(len(path)), *path, module, *arguments]


def _named() -> list[str]:
    """The parts of PYTHONPATH, if Python reads it."""
    text = "" if sys.flags.ignore_environment else os.environ.get("PYTHONPATH", "")
    return text.split(os.pathsep) if text else []
