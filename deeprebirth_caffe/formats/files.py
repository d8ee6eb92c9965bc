"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from deeprebirth_caffe.errors import RebirthError

Content = str | bytes | Callable[[BinaryIO], object]
"""What goes into a file: a text (lone surrogates as the bytes they stand for), bytes, or what writes them."""


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write that takes its name only when all is written and on the disk.

    Until then it stands under a hidden name in the same directory, and goes away if the block fails. A file
    of that name is replaced and lends its permissions. A symbolic link is followed.

    Raises:
        RebirthError: the file cannot be written.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        mode = target.stat().st_mode & 0o777 if target.exists() else None
        with temporary.open("xb") as file:
            yield file
            file.flush()
            if mode is not None:
                temporary.chmod(mode)
            os.fsync(file.fileno())
        temporary.replace(target)
        _sync_directory(target.parent)
    except OSError as error:
        raise RebirthError(f"{os.fspath(path)}: cannot write it: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write(path: str | os.PathLike[str], content: Content) -> None:
    """Writes a file whole or not at all; see `atomic_file`."""
    with atomic_file(path) as file:
        _fill(file, content)


def check_directory(directory: str | os.PathLike[str], force: bool = False) -> None:
    """Refuses a directory that `publish_directory` would refuse, so that work is not done in vain.

    Raises:
        RebirthError: it is no directory, or holds something and `force` is not set.
    """
    path = Path(directory)
    try:
        if not path.exists():
            if path.is_symlink():
                raise RebirthError(f"{path}: a link that leads nowhere; remove it or choose another directory")
            return
        if not path.is_dir():
            raise RebirthError(f"{path}: this is a file, not a directory; choose another directory")
        if not force and next(path.iterdir(), None) is not None:
            raise RebirthError(f"{path}: this directory is not empty; choose another or add --force")
    except OSError as error:
        raise RebirthError(f"{path}: cannot read this directory: {error.strerror or error}") from error


def publish_directory(staged: Mapping[str, Content], directory: str | os.PathLike[str], force: bool = False) -> None:
    """Writes files into a directory, all of them or none.

    A new directory appears at once, under its name only when it is complete. Into one that exists the files
    are moved one by one, and moved back out if that fails or is interrupted; other files in it stay.

    Args:
        staged: what to write, by name; a name may lead into a subdirectory (``a/b``).
        directory: where to; made with its parents if need be.
        force: write into a directory that is not empty, over files of the same name.

    Raises:
        RebirthError: the directory is not empty and `force` is not set, or something cannot be written.
    """
    for name in staged:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts:
            raise RebirthError(f"{name!r}: not a name inside {os.fspath(directory)}; choose another")
    check_directory(directory, force)
    target = Path(os.path.realpath(directory))
    fresh = not target.exists()
    made = _missing_parents(target) if fresh else []
    done = False
    work = (target.parent if fresh else target) / f".rebirth-{secrets.token_hex(4)}.tmp"
    try:
        if fresh:
            target.parent.mkdir(parents=True, exist_ok=True)
        work.mkdir()
        for name, content in staged.items():
            file = work / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("xb") as out:
                _fill(out, content)
                out.flush()
                os.fsync(out.fileno())
        if fresh:
            work.rename(target)
            done = True
            _sync_directory(target.parent)
        else:
            _move_in(list(staged), work, target)
            _sync_directory(target)
            done = True
    except OSError as error:
        at = error.filename2 or error.filename or target
        raise RebirthError(f"{at}: cannot write it: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if not done:
            for parent in made:
                with contextlib.suppress(OSError):
                    parent.rmdir()


def _move_in(names: list[str], work: Path, target: Path) -> None:
    """Moves files from `work` to `target`; on any failure puts everything back as it was."""
    kept = work / f"kept-{secrets.token_hex(4)}"
    undo: list[tuple[Path, Path | None]] = []
    folders: list[Path] = []
    try:
        for number, name in enumerate(names):
            place = target / name
            missing = [folder for folder in _missing_parents(place) if folder != target]
            folders.extend(reversed(missing))
            place.parent.mkdir(parents=True, exist_ok=True)
            old: Path | None = None
            if place.is_symlink() or place.exists():
                if place.is_dir() and not place.is_symlink():
                    raise IsADirectoryError(21, "a directory has this name", str(place))
                kept.mkdir(exist_ok=True)
                old = kept / str(number)
                _second_name(place, old)
            undo.append((place, old))
            (work / name).replace(place)
    except BaseException:
        for place, old in reversed(undo):
            if old is None:
                place.unlink(missing_ok=True)
            else:
                old.replace(place)
        for folder in reversed(folders):
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _second_name(place: Path, name: Path) -> None:
    """Gives a file a second name, or a copy where the file system has no links."""
    try:
        os.link(place, name, follow_symlinks=False)
    except OSError:
        shutil.copy2(place, name, follow_symlinks=False)


def _missing_parents(path: Path) -> list[Path]:
    """The parents of a path that do not exist, the nearest first."""
    missing = []
    for parent in path.parents:
        if parent.exists():
            break
        missing.append(parent)
    return missing


def _fill(file: BinaryIO, content: Content) -> None:
    if callable(content):
        content(file)
    else:
        file.write(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)


def _sync_directory(directory: Path) -> None:
    """Makes a rename last; not every system can."""
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
