"""One run at a time in a folder: a lock that goes away with the process, however that ends."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from deeprebirth_caffe.errors import RebirthError

LOCK = "lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a run's folder.

    The file stays; what counts is the lock on it, which the system takes away when the process ends, `kill -9` or not.

    Raises:
        RebirthError: another process holds it, or there can be none here.
    """
    import fcntl

    path = folder / LOCK
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
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


def is_locked(folder: Path) -> bool:
    """Whether a run works in this folder at the moment."""
    import fcntl

    try:
        handle = os.open(folder / LOCK, os.O_RDONLY)
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
        return (folder / LOCK).read_text(encoding="utf-8").strip() or "it does not say which"
    except OSError:
        return "it does not say which"
