"""Reads only regular files; writes files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from deeprebirth_caffe.errors import RebirthError, UsageError

log = logging.getLogger(__name__)

Content = str | bytes | Callable[[BinaryIO], object]
"""The content of a file: text (lone surrogates as the bytes they stand for), bytes, or a function that writes them."""


TEXT_LIMIT = 256 << 20
"""Bytes of a text (a list, JSON, labels) that are read; `$REBIRTH_MAX_FILE` (in MiB) allows more."""

PICTURE_LIMIT = 2**31 - 2**16
"""Bytes of a picture's file that are read: as many as a database record holds."""


def open_regular(path: str | os.PathLike[str], limit: int | None = None) -> BinaryIO:
    """Opens a regular file for reading. Reading a pipe, a device or a socket might never end.

    Args:
        path: the file; a link to one is followed.
        limit: the most bytes it may have; None: any number.

    Raises:
        OSError: it cannot be opened, is no regular file, or is larger; `strerror` is written for people.
        ValueError: the path has a NUL.
    """
    # O_NONBLOCK: a pipe without a writer would not even open.
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY))  # noqa: SIM115
    try:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, f"this is {_kind(status.st_mode)}, not a file; save it as a file", path)
        if limit is not None and status.st_size > limit:
            raise OSError(errno.EFBIG, _too_large(status.st_size, limit), path)
        os.set_blocking(file.fileno(), True)
    except BaseException:
        file.close()
        raise
    return file


def read_regular(path: str | os.PathLike[str], limit: int | None = None) -> bytes:
    """Reads a regular file whole; see `open_regular`.

    Args:
        path: the file.
        limit: the most bytes it may have; None: `text_limit()`.
    """
    most = text_limit() if limit is None else limit
    with open_regular(path, most) as file:
        data = file.read(most + 1)  # a growing file and /proc report no true size
    if len(data) > most:
        raise OSError(errno.EFBIG, _too_large(len(data), most), path)
    return data


def read_regular_text(path: str | os.PathLike[str], errors: str = "surrogateescape", limit: int | None = None) -> str:
    """Reads a regular file as UTF-8, with one line feed at the end of each line and no byte order mark.

    See `read_regular`.

    Raises:
        UnicodeDecodeError: the file is no UTF-8, and `errors` is "strict".
    """
    text = read_regular(path, limit).decode("utf-8-sig", errors)
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def text_limit() -> int:
    """Bytes of a text that are read: TEXT_LIMIT, or `$REBIRTH_MAX_FILE` in MiB."""
    return environment_limit("REBIRTH_MAX_FILE", TEXT_LIMIT >> 20) << 20


def environment_limit(name: str, otherwise: int) -> int:
    """A limit that the user may set by an environment variable, as a whole number above zero.

    Raises:
        UsageError: the variable is no such number.
    """
    text = os.environ.get(name, "").strip()
    if not text:
        return otherwise
    if not (text.isascii() and text.isdigit() and len(text) <= 15 and int(text)):
        raise UsageError(f"${name} is {text[:40]!r}; set it to a whole number above zero, or unset it")
    return int(text)


def _too_large(size: int, limit: int) -> str:
    return f"it has {size:,} bytes, and at most {limit:,} are read (docs/security.md)"


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((words for test, words in kinds if test(mode)), "something else")


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write. It gets its name only when all of it is on the disk.

    Until then it has a hidden name in the same directory, and it is removed if the block fails. A file
    of that name is replaced, and its permissions are kept from the first byte on. A symbolic link is followed. Nothing
    but a file is replaced; `/dev/null` and `/dev/stdout` are written into at the end.

    Raises:
        RebirthError: the file cannot be written.
    """
    if os.fspath(path) in _STREAMS:
        held = io.BytesIO()
        yield held
        _STREAMS[os.fspath(path)](held.getvalue())
        return
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        mode = _mode_to_keep(target, os.fspath(path))
        with _new_file(temporary, 0o666 if mode is None else mode) as file:
            yield file
            file.flush()
            if mode is not None:
                temporary.chmod(mode)
            os.fsync(file.fileno())
        temporary.replace(target)
        _sync_directory(target.parent)
        log.info("wrote %s", os.fspath(path))
    except OSError as error:
        raise RebirthError(f"{os.fspath(path)}: cannot write it: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _new_file(path: Path, mode: int) -> BinaryIO:
    """A new file to write, with its permissions from the start."""
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode))


def _to_stdout(data: bytes) -> None:
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "wb") as out:
        out.write(data)


_STREAMS: dict[str, Callable[[bytes], object]] = {os.devnull: len, "/dev/stdout": _to_stdout}
"""Paths that cannot be replaced, and how to write into them."""


def _mode_to_keep(target: Path, name: str) -> int | None:
    """The permissions of the file to replace; None where there is none.

    Raises:
        RebirthError: what is there must not be replaced.
    """
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        raise RebirthError(f"{name}: cannot write it: this is {_kind(mode)}, not a file; name another")
    return mode & 0o777


def atomic_write(path: str | os.PathLike[str], content: Content) -> None:
    """Writes a file whole or not at all; see `atomic_file`."""
    with atomic_file(path) as file:
        _fill(file, content)


def check_directory(directory: str | os.PathLike[str], force: bool = False) -> None:
    """Refuses a directory that `publish_directory` would refuse, before any work is done.

    Raises:
        RebirthError: it is no directory, or is not empty and `force` is not set.
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


def publish_directory(
    staged: Mapping[str, Content], directory: str | os.PathLike[str], force: bool = False, gone: Sequence[str] = ()
) -> None:
    """Writes files into a directory, all of them or none.

    A new directory gets its name only when it is complete. Files are moved into an existing directory one by one,
    and moved back out if that fails or is interrupted; other files in it stay.

    Args:
        staged: contents by file name; a name may lead into a subdirectory (``a/b``).
        directory: where to write; it and its parents are created if missing.
        force: write into a directory that is not empty, over files of the same name.
        gone: names of files directly in the directory, to remove once the others are there.

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
    parents = _missing_parents(target) if fresh else []
    done = False
    work = (target.parent if fresh else target) / f".rebirth-{secrets.token_hex(4)}.tmp"
    try:
        if fresh:
            target.parent.mkdir(parents=True, exist_ok=True)
        # Nobody else may look into it before each file has the permissions of the file it replaces.
        work.mkdir(mode=0o777 if fresh else 0o700)
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
            _move_in(list(staged), work, target, gone)
            _sync_directory(target)
            done = True
        log.info("wrote %s: %s", os.fspath(directory), ", ".join(staged))
    except OSError as error:
        at = error.filename2 or error.filename or target
        raise RebirthError(f"{at}: cannot write it: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if not done:
            for parent in parents:
                with contextlib.suppress(OSError):
                    parent.rmdir()


def _move_in(names: list[str], work: Path, target: Path, gone: Sequence[str]) -> None:
    """Moves files from `work` to `target`, and `gone` out of it; a failure restores everything."""
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
                mode = place.lstat().st_mode
                if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
                    raise OSError(errno.EEXIST, f"{_kind(mode)} has this name", str(place))
                if stat.S_ISREG(mode):
                    (work / name).chmod(mode & 0o777)
                kept.mkdir(exist_ok=True)
                old = kept / str(number)
                _second_name(place, old)
            undo.append((place, old))
            (work / name).replace(place)
        for name in gone:
            kept.mkdir(exist_ok=True)
            place, old = target / name, kept / f"gone-{len(undo)}"
            place.replace(old)
            undo.append((place, old))
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


def remove(path: Path) -> None:
    """Removes a file, a link or a whole folder; what is not there is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
    """Makes a rename durable; not every system can."""
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
