"""Long work: done in a hidden folder, resumed after an interruption, published when complete."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import atomic_write, read_regular, remove
from deeprebirth_caffe.formats.jsonfile import parse_json

_MARKER = "rebirth-data.json"
_LOCK = "lock"
_DATABASE = ("CURRENT", "data.mdb")


class Staging:
    """A hidden folder for outputs under short names.

    Attributes:
        folder: where outputs are written.
        outputs: by short name, the final path.
        resumed: whether an earlier run with the same parameters left something here.
        changed: whether a run with other parameters did; that is removed.
    """

    def __init__(self, folder: Path, outputs: Mapping[str, Path], parameters: Mapping[str, Any]) -> None:
        self.folder = folder
        self.outputs = dict(outputs)
        self._parameters = dict(parameters)
        marker = _read_marker(folder)
        self.resumed = marker is not None and marker.get("parameters") == self._parameters
        self.changed = marker is not None and not self.resumed
        self._publishing = self.resumed and marker is not None and marker.get("publishing") is True

    def place(self, name: str) -> Path:
        """The path of an output: staged, or final if a run was killed after it had moved the output."""
        staged = self.folder / name
        return self.outputs[name] if self._publishing and not staged.exists() else staged

    def begin(self, force: bool) -> None:
        """Removes what belongs to other runs, and marks the beginning of this run.

        Raises:
            RebirthError: an output already exists.
        """
        if not self._publishing:
            for path in self.outputs.values():
                _check(path, force)
        if not self.resumed:
            for path in self.folder.iterdir():
                if path.name != _LOCK:
                    remove(path)
            self._mark(publishing=False)

    def publish(self) -> None:
        """Gives every output its final name; if this is killed, the next run does the rest."""
        self._mark(publishing=True)
        for name, target in self.outputs.items():
            staged = self.folder / name
            if not staged.exists():
                continue
            if staged.is_file():
                # It may go to another disk, which a rename cannot reach.
                atomic_write(target, staged.read_bytes())
                continue
            if target.is_symlink() or target.exists():
                old = self.folder / f"old-{name}"
                remove(old)
                target.rename(old)
            staged.rename(target)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _mark(self, publishing: bool) -> None:
        marker = {"parameters": self._parameters, "publishing": publishing}
        atomic_write(self.folder / _MARKER, json.dumps(marker, indent=1) + "\n")


@contextlib.contextmanager
def staging(
    home: Path, name: str, outputs: Mapping[str, Path], parameters: Mapping[str, Any], force: bool
) -> Iterator[Staging]:
    """A Staging for a single run, in `home`, which is created if missing.

    If the block fails, the folder stays, so that the next run can go on there.

    Args:
        home: on the same disk as the new databases.
        name: of the folder in `home`.
        outputs: by short name, the final path.
        parameters: must be the same for a later run to resume this run.
        force: whether outputs may be replaced.

    Raises:
        RebirthError: another run works here, an output already exists, or nothing can be written.
    """
    folder = home / f".{name}.rebirth-data"
    try:
        home.mkdir(parents=True, exist_ok=True)
        folder.mkdir(exist_ok=True)
        with (folder / _LOCK).open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RebirthError(f"{folder}: another `rebirth data` is at work here; wait for it") from error
            work = Staging(folder, outputs, parameters)
            try:
                work.begin(force)
            except RebirthError:
                if not (folder / _MARKER).exists():
                    shutil.rmtree(folder, ignore_errors=True)
                raise
            yield work
    except OSError as error:
        where = error.filename2 or error.filename or folder
        raise RebirthError(f"{where}: cannot write it: {error.strerror or error}") from error


def _read_marker(folder: Path) -> dict[str, Any] | None:
    try:
        marker = parse_json(read_regular(folder / _MARKER))
    except (OSError, ValueError):
        return None
    return marker if isinstance(marker, dict) else {}


def _check(path: Path, force: bool) -> None:
    if not (path.is_symlink() or path.exists()):
        return
    if not force:
        raise RebirthError(f"{path}: this is there already; choose another name or add --force")
    if path.is_dir() and any(path.iterdir()) and not is_database(path):
        raise RebirthError(
            f"{path}: this is a folder and no database, so --force does not replace it; remove it yourself"
        )


def is_database(path: Path) -> bool:
    """Whether a folder is an LMDB or a LevelDB."""
    return any((path / name).exists() for name in _DATABASE)
