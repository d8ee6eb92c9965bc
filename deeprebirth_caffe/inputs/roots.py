"""Solvers and nets as files: where the relative paths inside them start."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from deeprebirth_caffe.errors import RebirthError


def find_root(names: Iterable[str], file: Path) -> Path:
    """The directory from which a file's relative paths lead somewhere.

    Caffe looks from the directory it is started in, and so do we; but a solver often lies in a tree whose top it was
    written for, and is called from elsewhere.

    Args:
        names: paths inside the file; the first that is relative decides.
        file: where they stand.

    Returns:
        The working directory (as "."), if the path leads somewhere from there or from nowhere else; otherwise the
        file's own directory or the nearest of its parents from which it does.
    """
    here = Path()
    name = next((name for name in names if name and not Path(name).is_absolute()), None)
    if name is None or (here / name).exists():
        return here
    folder = Path(os.path.abspath(file)).parent  # noqa: PTH100 - without "..", and links as they are
    return next((place for place in (folder, *folder.parents) if (place / name).exists()), here)


def check_regular(file: Path) -> None:
    """Refuses a pipe where a file is read more than once.

    Raises:
        RebirthError: it is one, or something else that is no regular file.
    """
    if not file.is_file():
        raise RebirthError(f"{file}: this is a pipe or a device, and it is read more than once; save it as a file")
