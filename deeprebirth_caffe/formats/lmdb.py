"""Reads LMDB files without the library, which trusts every page number: a damaged file ends its process with SIGBUS.

This module walks the tree of the main database in order, checks each page before it follows it, and reads nothing
beyond the file. It opens no lock and writes nothing; many may read a file at once, before and after a fork. The
layout is that of LMDB's data version 1 on 64-bit little-endian machines (`mdb.c`).
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import open_regular

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_PAGE = struct.Struct("<QHHHH")  # number, pad, flags, end of the index, begin of the nodes
_OVERFLOW = struct.Struct("<QHHI")  # number, pad, flags, how many pages
_META = struct.Struct("<IIQQ48xI2HQQQQQQQ")  # magic, version, address, size, the main database, last page, transaction
_NODE = struct.Struct("<HHHH")  # two halves of a size, flags, size of the key
_NUMBER = struct.Struct("<Q")
_BRANCH, _LEAF, _BIG, _META_PAGE = 1, 2, 4, 8
_ELSEWHERE = 1  # of a node: its value has pages of its own
_PAGE_SIZES = [1 << power for power in range(9, 16)]
_OTHER_ORDERS = 0x7F  # of a database: several records of one key, numbers as keys, and so on
_DEEPEST = 32
_NO_PAGE = 2**64 - 1


@dataclass
class _Level:
    """A page on the way down, and the node to follow next."""

    page: int
    count: int
    node: int


class LmdbCursor:
    """A place in a database. The first record follows the last.

    Attributes:
        entries: the number of records by the file's own count.
    """

    def __init__(self, path: Path) -> None:
        """Opens a database at its first record.

        Raises:
            RebirthError: the file is no database, damaged, cut off or empty.
        """
        data = path / "data.mdb" if path.is_dir() else path
        try:
            with open_regular(data) as file:
                self._view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except FileNotFoundError as error:
            raise RebirthError("no LMDB: it has no data.mdb") from error
        except PermissionError as error:
            raise RebirthError("no permission to read its data.mdb") from error
        except OSError as error:
            raise RebirthError(f"no LMDB: {error.strerror or error}") from error
        except ValueError as error:
            raise RebirthError("no LMDB, or a damaged one: its data.mdb is empty") from error
        self._levels: list[_Level] = []
        self._key = b""
        self._value = self._view[:0]
        self._open()
        self._first()
        if len(self._view) < (self._last + 1) * self._size:
            # The library does not write a free last page, so the file may be right; this walk tells now.
            while self._next():
                pass
            self._first()

    def key(self) -> bytes:
        """The key of the current record."""
        return self._key

    def value(self) -> memoryview:
        """The current record; the view is valid while the cursor is open."""
        return self._value

    def advance(self) -> None:
        """Goes to the next record, and from the last to the first.

        Raises:
            RebirthError: the file is damaged there.
        """
        if not self._next():
            self._first()

    def seek(self, key: bytes) -> bool:
        """Goes to the record of a key; returns whether there is one.

        Raises:
            RebirthError: the file is damaged on the way there.
        """
        self._levels = []
        self._enter(self._root)
        while True:
            level = self._levels[-1]
            leaf = len(self._levels) == self._depth
            # The last node of a branch whose key is not beyond (its first has none); of a leaf the first not before.
            low, high = (0, level.count) if leaf else (1, level.count)
            while low < high:
                middle = (low + high) // 2
                name = self._node(level.page, middle)[2]
                if name < key if leaf else name <= key:
                    low = middle + 1
                else:
                    high = middle
            level.node = low if leaf else low - 1
            if leaf:
                break
            self._enter(self._child(level))
        if self._levels[-1].node == self._levels[-1].count:
            return False
        self._down()
        return self._key == key

    def close(self) -> None:
        """Closes the file once nobody holds a record of it."""
        self._levels = []
        self._value = self._view = memoryview(b"")

    def _open(self) -> None:
        """Reads the newer of the two heads of the file."""
        size, heads = 0, []
        for number in (0, 1):
            start = number * size
            if len(self._view) < start + _PAGE.size + _META.size:
                raise _damaged(f"its data.mdb has {len(self._view)} bytes")
            flags = _PAGE.unpack_from(self._view, start)[2]
            head = _META.unpack_from(self._view, start + _PAGE.size)
            if not flags & _META_PAGE or head[0] != _MAGIC:
                raise _damaged("it does not begin as one")
            if head[1] != _VERSION:
                raise RebirthError(f"an LMDB of version {head[1]}, and version {_VERSION} is what Caffe reads")
            if not number:
                # The size of pages stands in the record of the database of free pages, which is left out in _META.
                size = struct.unpack_from("<I", self._view, _PAGE.size + 24)[0]
                if size not in _PAGE_SIZES:
                    raise _damaged(f"its pages have {size} bytes")
            heads.append(head)
        newest = max(heads, key=lambda head: int(head[-1]))
        _, _, _, _, _, flags, self._depth, _, _, _, self.entries, self._root, self._last, _ = newest
        self._size = size
        if flags & _OTHER_ORDERS:
            raise RebirthError("an LMDB with several records of one key, or another order, which Caffe does not write")
        if self._root == _NO_PAGE:
            raise RebirthError("this LMDB is empty")
        if not 1 <= self._depth <= _DEEPEST:
            raise _damaged(f"its tree has {self._depth} levels")

    def _first(self) -> None:
        self._levels = []
        self._enter(self._root)
        self._down()

    def _next(self) -> bool:
        """Goes to the next record; returns whether there is one."""
        while self._levels:
            level = self._levels[-1]
            level.node += 1
            if level.node < level.count:
                before = self._key
                self._down()
                if self._key <= before:
                    raise _damaged("its keys are not in order")
                return True
            self._levels.pop()
        return False

    def _down(self) -> None:
        """From a node of the last level to the first record below it."""
        while len(self._levels) < self._depth:
            self._enter(self._child(self._levels[-1]))
        leaf = self._levels[-1]
        size, flags, self._key, start = self._node(leaf.page, leaf.node)
        if flags & ~_ELSEWHERE:
            raise _damaged("it holds another database")
        if flags:
            if start + _NUMBER.size > leaf.page + self._size:
                raise _damaged("a record lies outside its page")
            number = _NUMBER.unpack_from(self._view, start)[0]
            page = self._page(number, _BIG)
            pages = _OVERFLOW.unpack_from(self._view, page)[3]
            start = page + _PAGE.size
            if number + pages > self._last + 1 or start + size > page + pages * self._size:
                raise _damaged("a record lies outside its pages")
            self._need(page + pages * self._size)
        elif start + size > leaf.page + self._size:
            raise _damaged("a record lies outside its page")
        self._value = self._view[start : start + size]

    def _page(self, number: int, kind: int) -> int:
        """The offset of a page, after checking that it exists and is of that kind."""
        if not 1 < number <= self._last:
            raise _damaged(f"it points to page {number} of {self._last + 1}")
        start: int = number * self._size
        self._need(start + self._size)
        stored, _, flags, _, _ = _PAGE.unpack_from(self._view, start)
        if stored != number or flags & (_BRANCH | _LEAF | _BIG | _META_PAGE) != kind:
            raise _damaged(f"page {number} is none of its tree")
        return start

    def _need(self, end: int) -> None:
        if end > len(self._view):
            raise RebirthError(
                f"truncated: its data.mdb has {len(self._view)} bytes of at least {end}; copy or make it anew"
            )

    def _enter(self, number: int) -> None:
        """Goes a level down, to the first node of a page."""
        page = self._page(number, _LEAF if len(self._levels) + 1 == self._depth else _BRANCH)
        _, _, _, end, begin = _PAGE.unpack_from(self._view, page)
        count = (end - _PAGE.size) // 2
        if not count or not _PAGE.size < end <= begin <= self._size:
            raise _damaged(f"page {number} has no nodes")
        self._levels.append(_Level(page, count, 0))

    def _node(self, page: int, index: int) -> tuple[int, int, bytes, int]:
        """(size of the value, flags, key, where the value begins) of a node; of a branch the first two are a page."""
        offset = struct.unpack_from("<H", self._view, page + _PAGE.size + 2 * index)[0]
        start = page + offset
        if offset < _PAGE.size or offset + _NODE.size > self._size:
            raise _damaged("a node lies outside its page")
        low, high, flags, length = _NODE.unpack_from(self._view, start)
        if offset + _NODE.size + length > self._size:
            raise _damaged("a key lies outside its page")
        start += _NODE.size
        return low | high << 16, flags, bytes(self._view[start : start + length]), start + length

    def _child(self, level: _Level) -> int:
        size, flags, _, _ = self._node(level.page, level.node)
        return size | flags << 32


def _damaged(why: str) -> RebirthError:
    return RebirthError(f"no LMDB, or a damaged one: {why}; copy or make it anew")
