"""Reads the key-value databases that Caffe writes: LMDB, and LevelDB through plyvel.

A process cannot open a LevelDB twice, so all its readers share a handle.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.extras import pip_install
from deeprebirth_caffe.formats.lmdb import LmdbCursor


class Cursor(Protocol):
    """A place in a database. The first record follows the last."""

    def key(self) -> bytes:
        """The key of the current record."""
        ...

    def value(self) -> bytes | memoryview:
        """The current record; the view is valid while the cursor is open."""
        ...

    def advance(self) -> None:
        """Goes to the next record, and from the last to the first."""
        ...

    def seek(self, key: bytes) -> bool:
        """Goes to the record of a key; returns whether there is one."""
        ...

    def close(self) -> None:
        """Closes the database."""
        ...


def open_cursor(path: Path, backend: str) -> Cursor:
    """Opens a database for reading, at its first record.

    Args:
        path: the directory (LMDB: or the only file).
        backend: ``LMDB`` or ``LEVELDB``.

    Raises:
        RebirthError: the database is missing, locked, damaged, empty or no database, or a library is missing. The
            caller adds the layer to the text.
    """
    try:
        path.stat()
    except FileNotFoundError as error:
        raise RebirthError("not found") from error
    except OSError as error:
        raise RebirthError(f"cannot be reached ({error.strerror})") from error
    return LmdbCursor(path) if backend == "LMDB" else _LevelCursor(path)


def first_record(path: Path, backend: str) -> bytes:
    """The first record of a database, without changing the database.

    Opening a LevelDB locks it and writes into it, so this opens links to its files instead.

    Raises:
        RebirthError: as `open_cursor`.
    """
    with tempfile.TemporaryDirectory() as name:
        if backend == "LEVELDB" and (path / "CURRENT").is_file():
            path = _linked(path, Path(name))
        cursor = open_cursor(path, backend)
        try:
            return bytes(cursor.value())
        finally:
            cursor.close()


def _linked(path: Path, folder: Path) -> Path:
    for file in path.iterdir():
        if file.suffix in (".ldb", ".sst", ".log"):
            (folder / file.name).symlink_to(file.resolve())
        elif file.name == "CURRENT" or file.name.startswith("MANIFEST-"):
            shutil.copyfile(file, folder / file.name)
    return folder


class _Shared:
    """An open database and the number of its users."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.process = os.getpid()
        self.users = 0


_shared: dict[Path, _Shared] = {}
_lock = threading.Lock()
# A fork may happen while another thread holds the lock; in the child nobody would ever release it.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _renew_lock())


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


def _acquire(path: Path) -> _Shared:
    name = path.resolve()
    with _lock:
        shared = _shared.get(name)
        if shared is not None and shared.process != os.getpid():
            raise RebirthError(
                "a LevelDB that was open before a fork cannot be read after it; open it in the new process"
            )
        if shared is None:
            shared = _shared[name] = _Shared(_open_leveldb(name))
        shared.users += 1
        return shared


def _release(shared: _Shared) -> None:
    with _lock:
        shared.users -= 1
        if shared.users or shared.process != os.getpid():
            return
        for name in [name for name, store in _shared.items() if store is shared]:
            del _shared[name]
        shared.handle.close()


class _LevelCursor:
    def __init__(self, path: Path) -> None:
        self._shared = _acquire(path)
        try:
            self._iterator = self._shared.handle.raw_iterator()
            self._guard(self._iterator.seek_to_first)
            if not self._iterator.valid():
                raise RebirthError("this LevelDB is empty")
        except BaseException:
            _release(self._shared)
            raise

    @staticmethod
    def _guard(move: Callable[[], None]) -> None:
        import plyvel

        try:
            move()
        except plyvel.Error as error:
            raise RebirthError(f"this LevelDB is damaged ({_text(error)})") from error

    def key(self) -> bytes:
        return bytes(self._iterator.key())

    def value(self) -> bytes:
        return bytes(self._iterator.value())

    def advance(self) -> None:
        self._guard(self._iterator.next)
        if not self._iterator.valid():
            self._guard(self._iterator.seek_to_first)

    def seek(self, key: bytes) -> bool:
        self._guard(lambda: self._iterator.seek(key))
        return bool(self._iterator.valid()) and self.key() == key

    def close(self) -> None:
        if self._shared.process == os.getpid():
            self._iterator.close()
        _release(self._shared)


def _open_leveldb(path: Path) -> Any:
    try:
        import plyvel
    except ImportError as error:
        raise RebirthError(f"reading a LevelDB needs plyvel: {pip_install('data', 'plyvel')}") from error
    if not (path / "CURRENT").is_file():
        raise RebirthError("no LevelDB: it has no file CURRENT")
    try:
        return plyvel.DB(str(path), create_if_missing=False, max_open_files=100)
    except plyvel.Error as error:
        text = _text(error)
        if "ermission" in text or "Read-only" in text:
            raise RebirthError(f"opening a LevelDB takes permission to write into it ({text})") from error
        if "lock" in text:
            raise RebirthError("locked: another process has this LevelDB open; wait for it or end it") from error
        raise RebirthError(f"no LevelDB, or a damaged one ({text})") from error


def _text(error: Exception) -> str:
    text = error.args[0] if error.args else ""
    return " ".join((text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)).split())
