"""Fields that the schema lacks, as plain values: a fork of Caffe wrote them, and they are known by name.

Forks give the same field different numbers and types, so no message can hold them. A field is its dotted
path (a block is a prefix) with its values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from deeprebirth_caffe.formats.prototxt.document import Document
from deeprebirth_caffe.formats.prototxt.edits import Edits
from deeprebirth_caffe.formats.prototxt.fields import Table
from deeprebirth_caffe.formats.prototxt.scalars import unescape
from deeprebirth_caffe.formats.prototxt.tree import BLOCK, NUMBER, STRING, Node, occurrences

Scalar = bool | int | float | str
Extra = Mapping[str, tuple[Scalar, ...]]
"""Dotted path -> values in order. A block has an entry without values, so that `permute_param {}` is kept."""

_MAX_DIGITS = 40


def strangers(doc: Document, nodes: Sequence[Node], table: Table, prefix: str = "") -> Iterator[tuple[str, Node]]:
    """The outermost fields that a message type does not know, with their dotted paths, in the order of the text.

    A field of the schema with a value that only a fork has (engine: MKL2017) counts too.
    """
    for node in nodes:
        field = table.by_name.get(node.name)
        path = prefix + node.name
        if field is None:
            yield path, node
        elif field.message_type is not None:
            for item in occurrences(node):
                yield from strangers(doc, item.kids, field.table, f"{path}.")
        elif any(field.is_fork_value(doc.text[item.vstart : item.end], item.kind) for item in occurrences(node)):
            yield path, node


def extra_fields(doc: Document, nodes: Sequence[Node], table: Table) -> Extra:
    """Everything in a block that its message type does not know."""
    fields: dict[str, list[Scalar]] = {}
    for path, node in strangers(doc, nodes, table):
        _collect(doc, path, node, fields)
    return {path: tuple(values) for path, values in fields.items()}


def _collect(doc: Document, path: str, node: Node, fields: dict[str, list[Scalar]]) -> None:
    values = fields.setdefault(path, [])
    for item in occurrences(node):
        if item.kind == BLOCK:
            for kid in item.kids:
                _collect(doc, f"{path}.{kid.name}", kid, fields)
        else:
            values.append(_value(doc.text[item.vstart : item.end], item.kind))


def _value(text: str, kind: int) -> Scalar:
    """The most likely value of a spelling; its text if it is no number."""
    if kind == STRING:
        return unescape(text).decode("utf-8", "replace")
    if kind != NUMBER:
        return {"true": True, "false": False}.get(text, text)
    if len(text) > _MAX_DIGITS:
        return text
    try:
        return int(text, 0)
    except ValueError:
        try:
            return float(text.rstrip("fF"))
        except ValueError:
            return text


def cut(edits: Edits, doc: Document, nodes: Sequence[Node], table: Table, paths: frozenset[str]) -> None:
    """Removes the outermost unknown fields of those paths from a text."""
    for path, node in strangers(doc, nodes, table):
        if path in paths:
            edits.remove(node)
