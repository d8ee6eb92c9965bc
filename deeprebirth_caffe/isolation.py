"""Python that never takes code from the folder it is started in.

`python -m` and `python -c` look for modules in the current folder first: a `random.py` in a folder with somebody's net
would run. `-P` would do, but Python 3.10 has no `-P`.
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
"""What `-c` runs. Its arguments: how many folders, the folders, the module, the module's arguments."""


def module_path() -> list[str]:
    """The folders that modules come from, without the current one where nobody named it.

    A folder that PYTHONPATH names stays, made absolute: the user wants it. An empty part of PYTHONPATH, or a dot, means
    the current folder, mostly by mistake, and goes. The folder of this package stays whatever it is.
    """
    here = os.path.abspath(os.curdir)  # noqa: PTH100 - as Python writes it
    parts = _named()
    named = [os.path.abspath(part) for part in parts if part not in ("", os.curdir)]  # noqa: PTH100
    package = str(Path(__file__).resolve().parents[1])
    kept = []
    for index, part in enumerate(sys.path):
        # First stands what nobody named (of `-m` and `-c`), then PYTHONPATH, then what belongs to this Python.
        unnamed = index <= len(parts) and os.path.abspath(part) == here and here not in named  # noqa: PTH100
        if part and (not unnamed or os.path.realpath(part) == package):
            kept.append(os.path.abspath(part))  # noqa: PTH100
    if package not in map(os.path.realpath, kept):
        kept.append(package)
    return list(dict.fromkeys(kept))


def leave_out_current_folder() -> None:
    """Takes the current folder off this process's own path; see `module_path`."""
    sys.path[:] = module_path()


def python_words(module: str, arguments: Sequence[str] = ()) -> list[str]:
    """The command line that runs a module in a new Python, on our path and on nothing else.

    Args:
        module: its dotted name; it runs as `python -m` would run it.
        arguments: what it finds behind `sys.argv[0]`.
    """
    path = module_path()
    return [sys.executable, "-I", "-c", _START, str(len(path)), *path, module, *arguments]


def _named() -> list[str]:
    """The parts of PYTHONPATH, where Python reads it."""
    text = "" if sys.flags.ignore_environment else os.environ.get("PYTHONPATH", "")
    return text.split(os.pathsep) if text else []
