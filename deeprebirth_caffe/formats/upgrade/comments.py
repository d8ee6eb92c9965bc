"""The comments of a block, each with the field it speaks of, and printing them beside the field's new form."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from deeprebirth_caffe.formats.prototxt.edits import line_start
from deeprebirth_caffe.formats.prototxt.fields import Table
from deeprebirth_caffe.formats.prototxt.printer import field_inline, present
from deeprebirth_caffe.formats.prototxt.tree import BLOCK, Node

Path = tuple[tuple[str, int], ...]
"""A field inside a block: names from the outside in, each with its place among the values of that name."""

ABOVE, OPEN, BESIDE, END = range(4)
"""Where a piece stands: above its field, behind its opening brace, behind it, as the last thing inside it."""

_COMMENT = re.compile(r""""(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|(\#[^\n]*)""")
_SHAPE = "BlobShape"


@dataclass(frozen=True)
class Piece:
    """A comment, or the text of a field that no schema knows, and where it belongs."""

    text: str
    path: Path
    mode: int


def comments_in(text: str, begin: int, end: int) -> list[tuple[int, str]]:
    """The comments of a stretch of text, with their offsets."""
    found = []
    for match in _COMMENT.finditer(text, begin, end):
        if match.group(1):
            found.append((match.start(), match.group(1).rstrip()))
    return found


def pieces_of(text: str, block: Node, table: Table) -> list[Piece]:
    """What a printed form of a block would lose: its comments, and its fields that the schema does not know."""
    alien = strangers(text, block, table, ())
    inside = [(node.start, node.stop) for node, _ in alien]
    pieces = [
        _placed(text, block.kids, at, comment, ())
        for at, comment in comments_in(text, block.vstart, block.end)
        if not any(start <= at < stop for start, stop in inside)
    ]
    return pieces + [Piece(text[node.start : node.stop], path, END) for node, path in alien]


def strangers(text: str, block: Node, table: Table, path: Path) -> list[tuple[Node, Path]]:
    """The fields inside a block that the schema does not know, each with the path of the block it stands in."""
    found: list[tuple[Node, Path]] = []
    for node, number, value in _numbered(block.kids):
        field = table.by_name.get(node.name)
        if field is None:
            if value is node or value is node.kids[0]:
                found.append((node, path))
        elif field.is_fork_value(text[value.vstart : value.end], value.kind):
            found.append((node, path))
        elif field.message_type is not None and value.kind == BLOCK:
            found.extend(strangers(text, value, field.table, (*path, (node.name, number))))
    return found


def _numbered(nodes: Sequence[Node]) -> list[tuple[Node, int, Node]]:
    """Each value of a block: its field's node, its place among those of its name, its own node."""
    counts: dict[str, int] = {}
    found = []
    for node in nodes:
        for value in node.kids if node.kind not in (BLOCK,) and node.kids else (node,):
            number = counts.get(node.name, 0)
            counts[node.name] = number + 1
            found.append((node, number, value))
    return found


def _placed(text: str, nodes: Sequence[Node], at: int, comment: str, path: Path) -> Piece:
    """Finds the field a comment speaks of: the one it stands behind, else the one it stands above."""
    before: Path | None = None
    own_line = line_start(text, at) is not None
    for node, number, value in _numbered(nodes):
        here = (*path, (node.name, number))
        if value.kind == BLOCK and value.vstart < at < value.end:
            return _placed(text, value.kids, at, comment, here)
        if value.start <= at < value.stop:
            return Piece(comment, here, BESIDE)
        if at < value.start:
            if own_line:
                return Piece(comment, here, ABOVE)
            return Piece(comment, before, BESIDE) if before is not None else Piece(comment, path, OPEN)
        before = here
    if own_line:
        return Piece(comment, path, END)
    return Piece(comment, before, BESIDE) if before is not None else Piece(comment, path, OPEN)


class _Line:
    """One printed line and what goes with it."""

    def __init__(self, indent: str, text: str) -> None:
        self.indent = indent
        self.text = text
        self.above: list[str] = []
        self.comment = ""
        self._crowded = False

    def beside(self, piece: str) -> None:
        """Adds a comment behind the line; a second one moves both above it."""
        if self.comment or self._crowded:
            self.above += [self.comment, piece] if self.comment else [piece]
            self.comment = ""
            self._crowded = True
        else:
            self.comment = piece

    def lines(self) -> list[str]:
        tail = f"  {self.comment}" if self.comment else ""
        return [*(self.indent + text for text in self.above), self.indent + self.text + tail]


class Printer:
    """Prints a layer with pieces from its old form."""

    def __init__(self, message: Message, unit: str) -> None:
        self._unit = unit
        self._lines: list[_Line] = []
        self._opens: dict[Path, _Line] = {}
        self._closes: dict[Path, _Line] = {}
        self._opens[()] = self._add("", "layer {")
        self._fields(message, (), unit)
        self._closes[()] = self._add("", "}")

    def _add(self, indent: str, text: str) -> _Line:
        line = _Line(indent, text)
        self._lines.append(line)
        return line

    def _fields(self, message: Message, path: Path, indent: str) -> None:
        for field, values in present(message):
            for number, value in enumerate(values):
                here = (*path, (field.name, number))
                if field.message_type is None or field.message_type.name == _SHAPE:
                    self._opens[here] = self._closes[here] = self._add(indent, field_inline(field, value))
                    continue
                self._opens[here] = self._add(indent, f"{field.name} {{")
                self._fields(value, here, indent + self._unit)
                self._closes[here] = self._add(indent, "}")

    def put(self, piece: Piece) -> None:
        """Places a piece; where its field is gone, at the end of the innermost block that is left."""
        path, mode = piece.path, piece.mode
        while path not in self._opens:
            path, mode = path[:-1], END
        opened, closed = self._opens[path], self._closes[path]
        if mode == ABOVE:
            opened.above.append(piece.text)
        elif mode == OPEN:
            opened.beside(piece.text)
        elif mode == BESIDE:
            closed.beside(piece.text)
        elif opened is closed:
            opened.above.append(piece.text)
        else:
            closed.above.append(self._unit + piece.text)

    def text(self, indent: str, newline: str) -> str:
        """The whole; all lines but the first begin with `indent`."""
        return f"{newline}{indent}".join(line for entry in self._lines for line in entry.lines())


def print_with(message: Any, pieces: Sequence[Piece], unit: str, indent: str, newline: str) -> str:
    """A layer in the house style, with the pieces of its old form beside their fields."""
    printer = Printer(message, unit)
    for piece in pieces:
        printer.put(piece)
    return printer.text(indent, newline)
