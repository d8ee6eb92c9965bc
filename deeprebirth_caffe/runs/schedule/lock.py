"""One run at a time in a folder: a lock that goes away with the process, however that ends."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import read_regular_text

LOCK = "lock"

_OURS = re.compile(r"lock$|run\.json$|schedule\.yaml$|\d+-")
"""What a run calls its own things."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a run's folder.

    The file stays; what counts is the lock on it, which the system takes away when the process ends, `kill -9` or not.

    Raises:
        RebirthError: another process holds it, or there can be none here.
    """
    import fcntl

    path = folder / LOCK
    check_links(folder)
    try:
        # O_NOFOLLOW: what a link leads to would be emptied.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise RebirthError(f"{path}: this is no file; remove it")
    except OSError as error:
        raise RebirthError(f"{path}: cannot write it: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RebirthError(
                f"{folder}: another run works here ({holder(folder)}); wait for it, stop it, or choose another folder"
            ) from None
        except OSError as error:
            raise RebirthError(f"{path}: no lock can be had here: {error.strerror or error}") from error
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        os.close(handle)


def check_links(folder: Path) -> None:
    """Refuses a run's folder that holds links, pipes or devices: a run would write, or wait, somewhere else.

    Nothing here makes such a thing; the folder itself may be a link, and what else lies in it is not ours.

    Raises:
        RebirthError: it names the first one.
    """
    for here, folders, files in os.walk(folder):
        if Path(here) == folder:
            folders[:] = filter(_OURS.match, folders)
            files = list(filter(_OURS.match, files))
        for name in sorted((*folders, *files)):
            path = Path(here, name)
            mode = path.lstat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise RebirthError(
                    f"{path}: this is {'a link' if stat.S_ISLNK(mode) else 'no file'}, and a run writes into its own "
                    "files alone; remove it, or put a file in its place"
                )


def is_locked(folder: Path) -> bool:
    """Whether a run works in this folder at the moment."""
    import fcntl

    try:
        handle = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def holder(folder: Path) -> str:
    """Who wrote the lock last, for people."""
    try:
        return read_regular_text(folder / LOCK, "replace", 4096).strip() or "it does not say which"
    except OSError:
        return "it does not say which"
