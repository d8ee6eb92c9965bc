"""Where results may be written: never over what they are made from, and never beside what an older result left."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import Content, atomic_file, check_directory, publish_directory, read_regular

STDOUT = Path("-")
"""The output that is no file but standard output."""
MANIFEST = "manifest.json"
"""What lists the files of a result."""
DERIVED = ("refit.caffemodel",)
"""Files that other commands make of a result in its own directory: they go when it goes."""
SHOWN = 4
"""How many files a note names before it only counts them."""

_standard: list[TextIO] = []

_SNAPSHOT = re.compile(r".+_iter_\d+\.(caffemodel|solverstate)(\.h5)?(\.resume)?")


def check_output(out: Path, force: bool, inputs: Iterable[Path | None]) -> None:
    """Refuses a file that must not be written, before any work is done.

    Args:
        out: what will be written; `STDOUT` always may be.
        force: whether a file of this name may be replaced.
        inputs: files that the command reads, and directories whose files it reads; those are never replaced.

    Raises:
        RebirthError: it is an input, there is such a file already, or it cannot be a file.
    """
    if out == STDOUT:
        return
    if out.is_dir():
        raise RebirthError(f"{out}: this is a directory; name the file to write")
    check_inputs([out], inputs)
    if out.exists() and not force:
        raise RebirthError(f"{out}: this file is there already; choose another or add --force")
    if not out.parent.is_dir():
        raise RebirthError(f"{out}: there is no directory {out.parent}; make it first")


def check_inputs(outputs: Iterable[Path], inputs: Iterable[Path | None]) -> None:
    """Refuses to write over what a command reads, or to remove it, whether --force is given or not.

    Args:
        outputs: files that the command writes or removes.
        inputs: files that it reads, and directories whose files it reads.

    Raises:
        RebirthError: an output is an input; it names both.
    """
    there = {_identity(out): out for out in outputs}
    for path in inputs:
        if path is None:
            continue
        found = there.get(_identity(path))
        if found is None and path.is_dir():
            found = next((out for out in there.values() if _holds(path, out)), None)
        if found is not None:
            raise RebirthError(
                f"{found}: this command reads {path}, and would replace or remove it; write to another place"
            )


def _identity(path: Path) -> tuple[int, int] | str:
    """What two names of one file have in common; of a file that is not there, the name itself."""
    try:
        facts = path.stat()
    except (OSError, ValueError):
        return os.path.realpath(path)
    return facts.st_dev, facts.st_ino


def _holds(folder: Path, out: Path) -> bool:
    return Path(os.path.realpath(out)).is_relative_to(os.path.realpath(folder))


@contextlib.contextmanager
def output_file(out: Path) -> Iterator[BinaryIO]:
    """A file to write that appears when all is written; `STDOUT` gets all of it then."""
    if out != STDOUT:
        with atomic_file(out) as file:
            yield file
        return
    buffer = io.BytesIO()
    yield buffer
    stream = _standard[-1] if _standard else sys.stdout
    stream.flush()
    stream.buffer.write(buffer.getvalue())
    stream.buffer.flush()


@contextlib.contextmanager
def standard_output(stream: TextIO) -> Iterator[None]:
    """Says where `STDOUT` leads in the block, wherever words go in it."""
    _standard.append(stream)
    try:
        yield
    finally:
        _standard.pop()


def write_output(out: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all, or to standard output; see `output_file`."""
    with output_file(out) as file:
        file.write(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)


@dataclass(frozen=True)
class Place:
    """A directory that takes a result, which replaces an older one whole.

    Attributes:
        directory: it.
        force: whether it may hold something already.
        names: all files that the command could write there. Those of them that a result lacks go, and so do files that
            an older result's manifest lists; everything else stays, and `notes` names it.
    """

    directory: Path
    force: bool
    names: tuple[str, ...]

    def check(self, inputs: Iterable[Path | None] = ()) -> None:
        """Refuses the directory before any work is done.

        Raises:
            RebirthError: it is not empty and `force` is not set, or the command reads what it would replace or remove.
        """
        check_directory(self.directory, self.force)
        known = [self.directory / name for name in sorted(self._known())]
        check_inputs(known, [path for path in inputs if _is_file(path)])

    def notes(self, written: Collection[str]) -> list[str]:
        """What people should know of files that are in the directory already."""
        gone = self._gone(written)
        found = [f"{self.directory}: removed, for it is an older result's: {_some(gone)}"] if gone else []
        there = sorted(one.name for one in self.directory.iterdir()) if self.directory.is_dir() else []
        rest = [name for name in there if name not in gone and name not in written and not name.startswith(".")]
        snapshots = [name for name in rest if _SNAPSHOT.fullmatch(name)]
        others = [name for name in rest if name not in snapshots]
        if snapshots:
            found.append(
                f"{self.directory}: snapshots of an older net stay there; remove them if nobody needs them: "
                f"{_some(snapshots)}"
            )
        if others:
            found.append(f"{self.directory}: stays there, and is no part of this result: {_some(others)}")
        return found

    def publish(self, files: Mapping[str, Content]) -> None:
        """Writes a result, all of it or nothing, and removes what is left of an older one.

        Args:
            files: by name.

        Raises:
            RebirthError: something cannot be written.
        """
        publish_directory(files, self.directory, self.force, self._gone(files))

    def _gone(self, written: Collection[str]) -> list[str]:
        """Files of an older result that the new one does not have."""
        return [name for name in sorted(self._known() - set(written)) if _is_file(self.directory / name)]

    def _known(self) -> set[str]:
        """What this command could write, and what an older result has."""
        listed = listed_files(self.directory)
        return {*self.names, *listed, *((MANIFEST, *DERIVED) if listed else ())}


def listed_files(directory: Path) -> set[str]:
    """The files right in a directory that the manifest of a result there lists, if there is one."""
    try:
        manifest: Any = json.loads(read_regular(directory / MANIFEST))
        outputs = manifest["outputs"] if "rebirth" in manifest else {}
        listed = [name for key, name in outputs.items() if key != "directory"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()
    # A file of somebody else's making might list anything.
    return {name for name in listed if isinstance(name, str) and name and Path(name).name == name}


def _is_file(path: Path | None) -> bool:
    return path is not None and (path.is_file() or path.is_symlink())


def _some(names: Collection[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(list(names)[:SHOWN]) + more
