"""From the syntax tree to messages: checks names, types and ranges against the schema."""

from __future__ import annotations

from google.protobuf.message import Message

from deeprebirth_caffe.formats.prototxt.document import Document, PrototxtError
from deeprebirth_caffe.formats.prototxt.fields import Field, Table, table_of
from deeprebirth_caffe.formats.prototxt.scalars import ForkValue
from deeprebirth_caffe.formats.prototxt.tree import BLOCK, LIST, Node


class Filler:
    """Fills messages from the nodes of one document.

    Attributes:
        unknown: dotted names of fields that the schema lacks, or whose value is a fork's own (it is only in the
            text, not in the message), in order of appearance (a dict used as an ordered set). None makes such a
            field an error.
    """

    __slots__ = ("doc", "unknown")

    def __init__(self, doc: Document, unknown: dict[str, None] | None) -> None:
        self.doc = doc
        self.unknown = unknown

    def fill(self, message: Message, nodes: list[Node], table: Table, at: int, prefix: str = "") -> None:
        """Sets the fields of `message` that `nodes` name; `at` is where its block opens."""
        text = self.doc.text
        seen: set[str] = set()
        for node in nodes:
            name = node.name
            field = table.by_name.get(name)
            if field is None:
                self._unknown(node, table, prefix)
            elif field.repeated:
                values = getattr(message, name)
                convert = field.convert
                for item in node.kids if node.kind == LIST else (node,):
                    if convert is None:
                        self._block(item, node, field)
                        self.fill(values.add(), item.kids, field.table, item.vstart, f"{prefix}{name}.")
                    else:
                        try:
                            values.append(convert(self._spelling(item, node), item.kind))
                        except ValueError as error:
                            raise self._wrong(item, name, error) from error
            else:
                if name in seen:
                    raise self.doc.error(node.start, f"'{name}' stands twice in one {table.name}; remove one of them")
                seen.add(name)
                if node.kind == LIST:
                    raise self.doc.error(node.vstart, f"'{name}' takes one value, not a list; write it without []")
                convert = field.convert
                if convert is None:
                    self._block(node, node, field)
                    sub = getattr(message, name)
                    sub.SetInParent()
                    self.fill(sub, node.kids, field.table, node.vstart, f"{prefix}{name}.")
                else:
                    if node.kind == BLOCK or not node.colon:
                        self._spelling(node, node)
                    try:
                        setattr(message, name, convert(text[node.vstart : node.end], node.kind))
                    except ValueError as error:
                        if self.unknown is not None and isinstance(error, ForkValue):
                            self.unknown[prefix + name] = None
                            continue
                        raise self._wrong(node, name, error) from error
        for name in table.required:
            if not message.HasField(name):
                raise self.doc.error(at, f"{table.name} lacks its required field '{name}'; add it")

    def _unknown(self, node: Node, table: Table, prefix: str) -> None:
        if self.unknown is None:
            raise self.doc.error(node.start, f"{table.name} has no field '{node.name}'; correct or remove it")
        self.unknown[prefix + node.name] = None

    def _wrong(self, item: Node, name: str, error: ValueError) -> PrototxtError:
        advice = "" if str(error).endswith("?") else "; correct the value"
        return self.doc.error(item.vstart, f"{name}: {error}{advice}")

    def _spelling(self, item: Node, node: Node) -> str:
        """The text of a scalar; a block, or a missing colon, is an error."""
        if item.kind == BLOCK:
            raise self.doc.error(
                item.vstart, f"'{node.name}' takes a single value, not a block; write '{node.name}: ...'"
            )
        if not node.colon:
            raise self.doc.error(node.vstart, f"expected ':' after '{node.name}'; add it")
        return self.doc.text[item.vstart : item.end]

    def _block(self, item: Node, node: Node, field: Field) -> None:
        if item.kind != BLOCK:
            raise self.doc.error(item.vstart, f"'{node.name}' takes a block; write '{node.name} {{ ... }}'")


def fill_message(doc: Document, message: Message, nodes: list[Node], at: int, strict: bool = False) -> list[str]:
    """Fills one message from the fields of one block.

    Args:
        doc: the text the nodes point into.
        message: what to fill.
        nodes: the block's fields.
        at: where the block opens, for the error about a missing required field.
        strict: make an unknown field an error.

    Returns:
        The dotted names of unknown fields, in order of appearance, each once.

    Raises:
        PrototxtError: a value does not fit its field.
    """
    unknown: dict[str, None] | None = None if strict else {}
    Filler(doc, unknown).fill(message, nodes, table_of(message.DESCRIPTOR), at)
    return list(unknown or ())
