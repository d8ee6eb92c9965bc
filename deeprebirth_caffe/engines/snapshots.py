"""What the snapshots of both engines have in common: what may be saved, the room it takes, what a kill leaves."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deeprebirth_caffe.engines.base import DivergedError
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import Array

TWO_HISTORIES = ("AdaDelta", "Adam")
"""The solvers that keep two numbers for each weight; all others keep one."""

_SLACK = 1 << 20


def snapshot_room(solver: pb.SolverParameter, numbers: int) -> int:
    """About how many bytes must be free for a snapshot while it is written."""
    histories = 2 if solver.type in TWO_HISTORIES else 1
    # Real Caffe's state stands there twice for a while, before and after its weights have been renamed.
    return 4 * numbers * (1 + bool(solver.snapshot_diff) + 2 * histories) + _SLACK


def check_finite(layers: Iterable[tuple[str, Sequence[Array]]]) -> None:
    """Refuses to save weights that nobody should go on from.

    Raises:
        DivergedError: it names the first layer with a number that is none.
    """
    for name, arrays in layers:
        if not all(bool(np.isfinite(array).all()) for array in arrays):
            raise DivergedError(
                f"the weights of layer {name} have diverged, they are no numbers any more (NaN or infinite); they are "
                "not saved"
            )


def resume_path(state: Path) -> Path:
    """The file that the embedded engine leaves beside a solverstate."""
    return state.with_name(state.name + ".resume")


def workspace(prefix: Path) -> Path:
    """A new name, beside the snapshots with this prefix, for a directory to make one in; `held` makes it."""
    return prefix.with_name(f".rebirth-{prefix.name}-{secrets.token_hex(4)}.tmp")


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Makes a workspace and removes it at the end; in between `remove_leftovers` of other processes lets it be."""
    import fcntl

    folder.mkdir()
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            # Some network file systems know no locks of directories; they do without.
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(handle)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(prefix: Path) -> None:
    """Removes what a killed run with the same snapshot prefix was writing: such files are as large as whole ones.

    Raises:
        RebirthError: it cannot be removed.
    """
    name = re.escape(prefix.name)
    files = re.compile(rf"\.{name}_iter_\d+\.(caffemodel|solverstate)[.\w]*\.[0-9a-f]{{8}}\.tmp")
    folders = re.compile(rf"\.rebirth-{name}-[0-9a-f]{{8}}\.tmp")
    try:
        for one in prefix.parent.glob(".*.tmp"):
            if files.fullmatch(one.name):
                one.unlink(missing_ok=True)
            elif folders.fullmatch(one.name):
                _remove_folder(one)
    except OSError as error:
        raise RebirthError(f"{prefix.parent}: cannot remove old temporary files: {error.strerror or error}") from error


def _remove_folder(folder: Path) -> None:
    """Removes a workspace, unless a process holds it."""
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, or no locks here: then nobody can tell
        return
    else:
        shutil.rmtree(folder)
    finally:
        os.close(handle)
