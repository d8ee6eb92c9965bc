"""A message with its text: solver files, and the header of a net."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from deeprebirth_caffe.formats.prototxt.document import Document, read_document
from deeprebirth_caffe.formats.prototxt.edits import Edits, line_start
from deeprebirth_caffe.formats.prototxt.fields import Field
from deeprebirth_caffe.formats.prototxt.fill import fill_message
from deeprebirth_caffe.formats.prototxt.patch import patch_top
from deeprebirth_caffe.formats.prototxt.printer import field_lines
from deeprebirth_caffe.formats.prototxt.tree import BLOCK, Node, parse_tree

M = TypeVar("M", bound=Message)


class TextSource(Generic[M]):
    """One message and the text it was read from.

    Attributes:
        name: what errors call the file.
        message: the text as a message. Callers may change it; the text's meaning is kept separately.
        unknown: dotted names of the fields the schema does not have; they stay in the text.
    """

    def __init__(self, doc: Document, message: M) -> None:
        self.name = doc.name
        self.message = message
        self._doc = doc
        self._nodes = parse_tree(doc)
        self.unknown = fill_message(doc, message, self._nodes, 0)
        self._original = type(message)()
        self._original.CopyFrom(message)

    def text(self) -> str:
        """The text, unchanged. Encode it with ``errors="surrogateescape"`` to get the file's own bytes."""
        return self._doc.text

    def where(self, path: str) -> str:
        """``file:line:column`` of a field given by its dotted name; of the file where it is not set."""
        return self._doc.where(_find(self._nodes, path.split(".")))

    def render(self, message: M) -> str:
        """The text that says `message`: this text with the necessary changes."""
        text = self._doc.text
        edits = Edits(text, newline_of(text), unit_of(text, self._nodes))
        homeless = patch_top(edits, self._nodes, self._original, message)
        add_at_top(edits, homeless, self._nodes, len(text))
        return edits.apply(0, len(text))


def read_text(path: str | os.PathLike[str], message: M) -> TextSource[M]:
    """Reads a file that holds one message of the given (empty) message's type.

    Raises:
        PrototxtError: with file, line and column.
    """
    return TextSource(read_document(path), message)


def _find(nodes: Sequence[Node], path: Sequence[str]) -> int:
    """The offset of a field, its names given from the outside in; zero if it is not there."""
    for node in nodes:
        if node.name == path[0]:
            return (_find(node.kids, path[1:]) or node.start) if len(path) > 1 else node.start
    return 0


def add_at_top(edits: Edits, values: Sequence[tuple[Field, Any]], nodes: Sequence[Node], otherwise: int) -> None:
    """Inserts fields in front of the first of `nodes`, or at the offset `otherwise` where there are none."""
    if not values:
        return
    text, newline = edits.text, edits.newline
    at = otherwise
    if nodes:
        line = line_start(text, nodes[0].start)
        at = nodes[0].start if line is None else line
        while line is None and text[at - 1] in " \t\r\v\f":  # these are removed with the field
            at -= 1
    lines = [line for field, value in values for line in field_lines(field, value, "", edits.unit)]
    lead = newline if at and text[at - 1] != "\n" else ""
    edits.replace(at, at, lead + "".join(line + newline for line in lines))


def newline_of(text: str) -> str:
    """How a text's lines end."""
    first = text.find("\n")
    return "\r\n" if first > 0 and text[first - 1] == "\r" else "\n"


def unit_of(text: str, nodes: Sequence[Node]) -> str:
    """A level of a text's indentation: two spaces, unless its first indented block shows another."""
    for node in nodes:
        if node.kind == BLOCK and (outer := line_start(text, node.start)) is not None:
            for kid in node.kids:
                inner = line_start(text, kid.start)
                if inner is not None and kid.start - inner > node.start - outer:
                    return text[inner : kid.start].removeprefix(text[outer : node.start])
    return "  "
