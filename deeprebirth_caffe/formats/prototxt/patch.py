"""The smallest change of a text that gives it another meaning.

Fields that agree keep their text. A scalar that differs has its value replaced in place, with its own quotes;
a block is patched inside. Removed fields are cut with their line; new ones come behind the last of
their name, else in the schema's order, in the indentation of their neighbours. Values of a repeated field are
matched from both ends, so removing one from the middle leaves the lines of the others alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message

from deeprebirth_caffe.formats.prototxt.edits import Edits
from deeprebirth_caffe.formats.prototxt.fields import Field, Table, table_of
from deeprebirth_caffe.formats.prototxt.printer import block_inline, field_inline, field_lines, present
from deeprebirth_caffe.formats.prototxt.scalars import format_scalar
from deeprebirth_caffe.formats.prototxt.tree import LIST, STRING, Node


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal: messages bit by bit (a NaN equals itself), scalars with their sign."""
    if isinstance(a, Message):
        return bool(a.SerializePartialToString(deterministic=True) == b.SerializePartialToString(deterministic=True))
    return bool(a == b and (a != 0 or str(a) == str(b))) or str(a) == str(b) == "nan"


class Patcher:
    """Edits the text of one block, or of the top of a file where `block` is None."""

    __slots__ = ("_block", "_edits", "_nodes", "_table")

    def __init__(self, edits: Edits, nodes: Sequence[Node], table: Table, block: Node | None) -> None:
        self._edits = edits
        self._nodes = nodes
        self._table = table
        self._block = block

    def patch(self, old: Message, new: Message) -> list[tuple[Field, Any]]:
        """Collects the edits that turn `old` into `new`.

        Returns:
            The values without a place, because the file's top has no field to put them behind.
        """
        before = {field.name: values for field, values in present(old)}
        after = {field.name: values for field, values in present(new)}
        nodes: dict[str, list[Node]] = {}
        for node in self._nodes:
            nodes.setdefault(node.name, []).append(node)
        added: list[tuple[Field, Node | None, list[Any]]] = []
        gone: set[int] = set()
        for field in self._table.fields:
            olds, news = before.get(field.name, []), after.get(field.name, [])
            spelled = nodes.get(field.name, [])
            if not olds and not field.repeated:
                # A fork's value (engine: MKL2017) is not in the message, and may be cut.
                gone.update(map(id, spelled))
                spelled = []
            if not olds and not news:
                continue
            repeated = _Repeated(self._edits, field, spelled)
            left, anchor = repeated.patch(olds, news)
            gone |= repeated.gone
            if left:
                added.append((field, anchor, left))
        alive = [node for node in self._nodes if id(node) not in gone]
        homeless: list[tuple[Field, Any]] = []
        for field, place, values in added:
            anchor = place if place is not None else self._neighbour(field, alive)
            for value in values:
                lines = field_lines(field, value, "", self._edits.unit)
                inline = field_inline(field, value)
                if anchor is not None:
                    self._edits.insert_after(anchor, self._block, lines, inline)
                elif self._block is not None:
                    self._edits.insert_first(self._block, lines, inline)
                else:
                    homeless.append((field, value))
        return homeless

    def _neighbour(self, field: Field, alive: list[Node]) -> Node | None:
        """The last field of the schema's that comes before `field`."""
        by_name = self._table.by_name
        nearest = None
        for node in alive:
            known = by_name.get(node.name)
            if known is not None and known.order <= field.order:
                nearest = node
        return nearest


class _Repeated:
    """The values of a field: kept, changed, removed and new. A singular field has at most one."""

    __slots__ = ("_edits", "_field", "_nodes", "gone")

    def __init__(self, edits: Edits, field: Field, nodes: list[Node]) -> None:
        self._edits = edits
        self._field = field
        self._nodes = nodes
        self.gone: set[int] = set()

    def patch(self, olds: list[Any], news: list[Any]) -> tuple[list[Any], Node | None]:
        """Edits values in place.

        Returns:
            The values still to add, and the node to put them behind (None: no field of this name is left).
        """
        places = [(item, node) for node in self._nodes for item in (node.kids if node.kind == LIST else (node,))]
        assert len(places) == len(olds), "the message is not the text's own"
        head, tail = _common(olds, news)
        changed = min(len(olds), len(news)) - head - tail
        drop = range(head + changed, len(olds) - tail)
        add = news[head + changed : len(news) - tail]
        behind = places[head + changed - 1] if head + changed else None
        lists = {id(places[i][1]): places[i][1] for i in drop if places[i][1].kind == LIST}
        if add and behind is not None and behind[1].kind == LIST:
            lists[id(behind[1])] = behind[1]
        for i in range(head, head + changed):
            if id(places[i][1]) not in lists:
                self._change(self._edits, places[i][0], olds[i], news[i])
        for i in drop:
            node = places[i][1]
            if node.kind != LIST:
                self._edits.remove(node)
                self.gone.add(id(node))
        for node in lists.values():
            texts: list[str] = []
            for i, (item, owner) in enumerate(places):
                if owner is not node:
                    continue
                if i not in drop:
                    texts.append(self._item(item, olds[i], news[i] if head <= i < head + changed else olds[i]))
                if add and behind is not None and item is behind[0]:
                    texts.extend(self._new_item(value) for value in add)
            if texts:
                self._edits.replace(node.vstart, node.end, f"[{', '.join(texts)}]")
            else:
                self._edits.remove(node)
                self.gone.add(id(node))
        if add and behind is not None and behind[1].kind == LIST:
            return [], None
        return add, behind[1] if behind is not None else None

    def _item(self, item: Node, old: Any, new: Any) -> str:
        """The text of one item of a short list."""
        inner = Edits(self._edits.text, self._edits.newline, self._edits.unit)
        if not same(old, new):
            self._change(inner, item, old, new)
        return inner.apply(item.vstart, item.end)

    def _new_item(self, value: Any) -> str:
        if self._field.message_type is not None:
            return block_inline(value)
        return format_scalar(self._field.descriptor, value)

    def _change(self, edits: Edits, item: Node, old: Any, new: Any) -> None:
        if same(old, new):
            return
        if self._field.message_type is not None:
            homeless = Patcher(edits, item.kids, self._field.table, item).patch(old, new)
            assert not homeless
            return
        quote = edits.text[item.vstart] if item.kind == STRING else '"'
        edits.replace(item.vstart, item.end, format_scalar(self._field.descriptor, new, quote))


def _common(olds: list[Any], news: list[Any]) -> tuple[int, int]:
    """How many values at the front and at the back stay."""
    most = min(len(olds), len(news))
    head = 0
    while head < most and same(olds[head], news[head]):
        head += 1
    # No field precedes a new first value: then the values shift through the lines.
    if head == 0 and len(news) > len(olds):
        return 0, 0
    tail = 0
    while tail < most - head and same(olds[-1 - tail], news[-1 - tail]):
        tail += 1
    return head, tail


def patch_block(edits: Edits, block: Node, old: Message, new: Message) -> None:
    """Edits a block that said `old` so that it says `new`; fields outside the schema stay."""
    homeless = Patcher(edits, block.kids, table_of(old.DESCRIPTOR), block).patch(old, new)
    assert not homeless


def patch_top(edits: Edits, nodes: Sequence[Node], old: Message, new: Message) -> list[tuple[Field, Any]]:
    """Edits the top-level fields of a file in the same way.

    Args:
        edits: where the edits go.
        nodes: the top-level fields of `old` and `new`.
        old: their present meaning.
        new: their new meaning.

    Returns:
        The values without a field to put them behind; the caller puts them at the top of the file.
    """
    return Patcher(edits, nodes, table_of(old.DESCRIPTOR), None).patch(old, new)
