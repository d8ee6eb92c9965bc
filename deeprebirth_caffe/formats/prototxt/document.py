"""A text with positions, to which every error and every node of the syntax tree refers."""

from __future__ import annotations

import logging
import os
from bisect import bisect_right

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import open_regular

MAX_BYTES = 256 << 20
"""A larger file is refused before it is read: no prototxt comes near this size, a caffemodel does."""

_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_HTML = ("<!doctype", "<html", "<head", "<?xml")


class PrototxtError(RebirthError):
    """A text file is wrong; the message starts with ``file:line:column``."""


class Document:
    """The text of a file, its name, and the lines of its offsets.

    Attributes:
        text: the whole text except a byte order mark, which Caffe refuses. Bytes that are not UTF-8 are
            lone surrogates (``surrogateescape``), so that encoding it the same way gives the file's own bytes.
        name: what errors call the file.
    """

    __slots__ = ("_lines", "name", "text")

    def __init__(self, text: str, name: str) -> None:
        self.text = text.removeprefix("\ufeff")
        self.name = name
        self._lines: list[int] | None = None

    def where(self, offset: int) -> str:
        """``file:line:column`` of a character, both counted from one."""
        if self._lines is None:
            lines = [0]
            find = self.text.find
            at = find("\n")
            while at >= 0:
                lines.append(at + 1)
                at = find("\n", at + 1)
            self._lines = lines
        line = bisect_right(self._lines, offset)
        return f"{self.name}:{line}:{offset - self._lines[line - 1] + 1}"

    def error(self, offset: int, message: str) -> PrototxtError:
        """The error to raise about the character at `offset`."""
        return PrototxtError(f"{self.where(offset)}: {message}")


def read_document(path: str | os.PathLike[str]) -> Document:
    """Reads a text file without changing a byte; UTF-16 and UTF-8's mark are understood.

    Raises:
        PrototxtError: it cannot be read, or is clearly no prototxt (binary, a web page).
    """
    name = os.fspath(path)
    try:
        with open_regular(name) as file:
            data = file.read(MAX_BYTES + 1)
            size = max(os.fstat(file.fileno()).st_size, len(data))
        if size > MAX_BYTES:
            raise PrototxtError(f"{name}: {size >> 20} MiB is too large for a prototxt; is it a caffemodel?")
    except OSError as error:
        raise PrototxtError(f"{name}: cannot read it: {error.strerror or error}") from error
    except ValueError as error:  # the path has a NUL
        raise PrototxtError(f"{name!r}: cannot read it: {error}") from error
    if data[:2] in _UTF16:
        try:
            data = data.decode("utf-16").encode()
        except UnicodeError as error:
            raise PrototxtError(f"{name}: this begins like a text in UTF-16, and is none; save it as UTF-8") from error
    if b"\0" in data:
        raise PrototxtError(f"{name}: this is a binary file, not a prototxt; is it a caffemodel?")
    logging.getLogger(__name__).info("read %s", name)
    text = data.decode("utf-8", "surrogateescape")
    if text[:256].lstrip("\ufeff \t\r\n").lower().startswith(_HTML):
        raise PrototxtError(f"{name}: this is a web page, not a prototxt; download the raw file")
    return Document(text, name)
