"""Where a result may be written: over nothing by accident, and never over what it is made from."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from deeprebirth_caffe.errors import RebirthError


def check_output(out: Path, force: bool, inputs: Iterable[Path | None]) -> None:
    """Refuses a file that must not be written, before any work is done.

    Args:
        out: what will be written.
        force: whether a file of this name may be replaced.
        inputs: files that the command reads, and directories whose files it reads; those are never replaced.

    Raises:
        RebirthError: it is an input, there is such a file already, or it cannot be a file.
    """
    if out.is_dir():
        raise RebirthError(f"{out}: this is a directory; name the file to write")
    for path in inputs:
        if path is not None and _is_or_holds(path, out):
            raise RebirthError(f"{out}: this command reads {path}; write to another file")
    if out.exists() and not force:
        raise RebirthError(f"{out}: this file is there already; choose another or add --force")
    if not out.parent.is_dir():
        raise RebirthError(f"{out}: there is no directory {out.parent}; make it first")


def _is_or_holds(path: Path, out: Path) -> bool:
    if path.is_dir():
        return Path(os.path.realpath(out)).is_relative_to(os.path.realpath(path))
    return path.exists() and out.exists() and path.samefile(out)
