"""One folder for all temporary files of a command; what killed commands left of theirs is removed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_NAME = re.compile(r"rebirth-p(\d{1,10})-\w+")
_SECONDS = 60.0
"""How old a folder has to be: its owner locks it when it has made it."""


@contextlib.contextmanager
def scratch() -> Iterator[None]:
    """Lets temporary files lie in a folder of this process's own while it lasts.

    The folder is locked as long as the process lives, however that ends.
    """
    import fcntl

    before = tempfile.tempdir
    try:
        base = Path(tempfile.gettempdir())
        sweep(base)
        folder = tempfile.mkdtemp(prefix=f"rebirth-p{os.getpid()}-")
    except OSError:
        # No room, or no such folder: whoever needs one says so.
        yield
        return
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        tempfile.tempdir = folder
        yield
    finally:
        tempfile.tempdir = before
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def sweep(base: Path) -> None:
    """Removes the folders of dead processes: ours by name and owner, of no process that lives, and not locked.

    The lock counts where process numbers do not: in a container, others have other ones.

    Args:
        base: where temporary folders lie.
    """
    import fcntl

    with contextlib.suppress(OSError), os.scandir(base) as entries:
        for entry in entries:
            named = _NAME.fullmatch(entry.name)
            with contextlib.suppress(OSError):
                if named is None or not _is_left(entry.stat(follow_symlinks=False)) or _lives(int(named[1])):
                    continue
                handle = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(entry.path, ignore_errors=True)
                finally:
                    os.close(handle)


def _is_left(status: os.stat_result) -> bool:
    mine = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    return mine and time.time() - status.st_ctime > _SECONDS


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
