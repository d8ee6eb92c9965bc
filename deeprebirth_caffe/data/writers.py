"""Writes LMDB and LevelDB as Caffe does; committed records survive a kill."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from deeprebirth_caffe.data.libraries import need
from deeprebirth_caffe.errors import RebirthError

BACKENDS = ("lmdb", "leveldb")
Batch = Sequence[tuple[bytes, bytes]]

_FIRST_MAP = 64 << 20
_CANNOT_WRITE = "cannot write it: {}; make room, and the same command goes on where it was"
_CANNOT_READ = "cannot read the existing database: {}; remove it and start again"


class Database(ABC):
    """A database that takes records in the order of their keys. Use it with `with`."""

    def __init__(self, path: Path, library: Any) -> None:
        """Args:
        path: of the database.
        library: the module that reads and writes it.
        """
        self._path = path
        self._library = library

    @contextlib.contextmanager
    def _explained(self, text: str) -> Iterator[None]:
        try:
            yield
        except (OSError, self._library.Error) as error:
            said = error.args[0] if error.args else error
            what = said.decode(errors="replace") if isinstance(said, bytes) else str(error)  # plyvel's are bytes
            raise RebirthError(f"{self._path}: {text.format(what)}") from error

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def put(self, batch: Batch) -> None:
        """Adds records, all or none.

        Raises:
            RebirthError: they cannot be written; earlier batches are safe.
        """

    @abstractmethod
    def items(self) -> Generator[tuple[bytes, bytes], None, None]:
        """All records in the order of their keys."""

    @abstractmethod
    def each_key(self) -> Generator[bytes, None, None]:
        """All keys, in order."""

    @abstractmethod
    def close(self) -> None:
        """Closes it."""


def open_database(path: Path, backend: str) -> Database:
    """Opens a database, or creates it.

    Raises:
        RebirthError: it cannot be opened, or its library is missing.
    """
    return _Lmdb(path) if backend == "lmdb" else _LevelDb(path)


class _Lmdb(Database):
    def __init__(self, path: Path) -> None:
        super().__init__(path, need("lmdb", "an LMDB"))
        with self._explained(_CANNOT_READ):
            if not path.exists():
                path.mkdir(0o744)
            self._map = max(_FIRST_MAP, 2 * _size(path / "data.mdb"))
            self._env = self._library.open(str(path), map_size=self._map, mode=0o664, readahead=False)

    def put(self, batch: Batch) -> None:
        with self._explained(_CANNOT_WRITE):
            while True:
                try:
                    self._put(batch)
                    return
                except self._library.MapFullError:
                    self._map *= 2
                    self._env.set_mapsize(self._map)

    def _put(self, batch: Batch) -> None:
        with self._env.begin(write=True) as transaction:
            for key, value in batch:
                # Appending fills the pages: with small records the file is half as large.
                if not transaction.put(key, value, append=True):
                    raise RebirthError(f"{self._path}: key {key!r} is not behind those that are there")

    def items(self) -> Generator[tuple[bytes, bytes], None, None]:
        with self._explained(_CANNOT_READ), self._env.begin() as transaction, transaction.cursor() as cursor:
            for key, value in cursor:
                yield bytes(key), bytes(value)

    def each_key(self) -> Generator[bytes, None, None]:
        with self._explained(_CANNOT_READ), self._env.begin() as transaction, transaction.cursor() as cursor:
            for key in cursor.iternext(keys=True, values=False):
                yield bytes(key)

    def close(self) -> None:
        self._env.close()


class _LevelDb(Database):
    def __init__(self, path: Path) -> None:
        super().__init__(path, need("plyvel", "a LevelDB"))
        with self._explained(_CANNOT_READ):
            # Caffe's settings, except the buffer: its 256 MiB may be in memory twice.
            self._db = self._library.DB(
                str(path), create_if_missing=True, block_size=65536, write_buffer_size=64 << 20, max_open_files=100
            )

    def put(self, batch: Batch) -> None:
        with self._explained(_CANNOT_WRITE), self._db.write_batch(transaction=True, sync=True) as writer:
            for key, value in batch:
                writer.put(key, value)

    def items(self) -> Generator[tuple[bytes, bytes], None, None]:
        with self._explained(_CANNOT_READ), self._db.iterator() as items:
            yield from items

    def each_key(self) -> Generator[bytes, None, None]:
        with self._explained(_CANNOT_READ), self._db.iterator(include_value=False) as keys:
            yield from keys

    def close(self) -> None:
        self._db.close()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
