"""Nets: the header and the layers, each with its text, and the way back to a whole text."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from copy import copy

from deeprebirth_caffe.formats.prototxt.document import Document, PrototxtError, read_document
from deeprebirth_caffe.formats.prototxt.edits import Edits
from deeprebirth_caffe.formats.prototxt.extra import Extra, cut, extra_fields, strangers
from deeprebirth_caffe.formats.prototxt.fields import table_of
from deeprebirth_caffe.formats.prototxt.fill import fill_message
from deeprebirth_caffe.formats.prototxt.layout import home_of_each, slots_of, weave
from deeprebirth_caffe.formats.prototxt.patch import patch_block, patch_top, same
from deeprebirth_caffe.formats.prototxt.printer import message_lines
from deeprebirth_caffe.formats.prototxt.source import add_at_top, newline_of, unit_of
from deeprebirth_caffe.formats.prototxt.tree import BLOCK, LIST, Node, occurrences, parse_tree
from deeprebirth_caffe.proto import caffe_pb2 as pb

_LAYER = table_of(pb.LayerParameter.DESCRIPTOR)
_NET = table_of(pb.NetParameter.DESCRIPTOR)


class LayerSource:
    """One layer of a file.

    Attributes:
        message: its text as a message, as far as the schema knows it. Callers may change it; the text's
            meaning is kept separately.
        unknown: dotted names of fields the schema does not have (``pooling_param.ceil_mode``); they stay in
            the text.
        origin: the layer of the file; after `without` this is a copy of it.
    """

    __slots__ = ("_bytes", "_cut", "_doc", "_node", "_single", "_where", "message", "origin", "unknown")

    def __init__(self, doc: Document, node: Node, single: bool, where: str = "") -> None:
        if node.kind != BLOCK:
            raise doc.error(node.vstart, "'layer' takes a block; write 'layer { ... }'")
        self._doc = doc
        self._node = node
        self._where = where  # in the file, if the text was upgraded
        self._single = single  # false for an item of ``layer: [{...}, {...}]``
        self.message = pb.LayerParameter()
        self.unknown = fill_message(doc, self.message, node.kids, node.vstart)
        self._bytes = self.message.SerializePartialToString(deterministic=True)
        self._cut: frozenset[str] = frozenset()
        self.origin = self

    @property
    def extra(self) -> Extra:
        """The fields that the schema does not have, with their values."""
        if not self.unknown:
            return {}
        fields = extra_fields(self._doc, self._node.kids, _LAYER)
        return {path: values for path, values in fields.items() if not _within(path, self._cut)}

    def where_of(self, path: str) -> str:
        """``file:line:column`` of a field that the schema lacks; of the layer if the field is not there."""
        for name, node in () if self._where else strangers(self._doc, self._node.kids, _LAYER):
            if path == name or path.startswith(f"{name}."):
                return self._doc.where(node.start)
        return self.where

    def where_type(self) -> str:
        """``file:line:column`` of the layer's type (of the layer, where the file has an old form)."""
        if self._where:
            return self._where
        return self._doc.where(next((kid.start for kid in self._node.kids if kid.name == "type"), self._node.start))

    def without(self, paths: Iterable[str]) -> LayerSource:
        """This layer without some fields of `unknown`: `render` cuts them."""
        twin = copy(self)
        twin._cut = self._cut.union(paths)
        twin.unknown = [path for path in self.unknown if path not in twin._cut]
        return twin

    @property
    def where(self) -> str:
        """``file:line:column`` where the layer begins (in the file as it was read, whatever its form)."""
        return self._where or self._doc.where(self._node.start)

    def says(self, message: pb.LayerParameter) -> bool:
        """Whether the text says exactly `message`."""
        return not self._cut and message.SerializePartialToString(deterministic=True) == self._bytes

    def render(self, message: pb.LayerParameter) -> str:
        """The layer's text, changed as little as possible so that it says `message`; without the text around it."""
        node, text = self._node, self._doc.text
        lead = "" if self._single else "layer "
        if self.says(message):
            return lead + text[node.start : node.stop]
        edits = Edits(text, newline_of(text), unit_of(text, [node]))
        patch_block(edits, node, pb.LayerParameter.FromString(self._bytes), message)
        cut(edits, self._doc, node.kids, _LAYER, self._cut)
        patched = lead + edits.apply(node.start, node.stop)
        [written] = parse_net(patched, self._doc.name).layers
        if not written.says(message):  # never return a changed meaning, whatever the text looks like
            raise PrototxtError(f"{self.where}: this layer's text cannot be edited; write it in a plainer form")
        return patched


class NetSource:
    """A net and the text it was read from.

    Attributes:
        name: what errors call the file.
        header: everything except the layers.
        layers: in the file's order.
        unknown: names of top-level fields the schema does not have; they stay in the text.
        forms: the old forms of Caffe ("V0", "V1", ...) it was upgraded from; empty for a file in today's form.
        notes: what that upgrade left out or guessed, each with its line.
    """

    def __init__(self, doc: Document) -> None:
        self.name = doc.name
        self.forms: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = ()
        self._file, self._file_nodes = doc, parse_tree(doc)  # as it was read
        self._nodes = self._file_nodes
        places: Sequence[str] = ()
        if any(node.name == "layers" for node in self._nodes):
            # Imported here: few nets need it.
            from deeprebirth_caffe.formats.upgrade.text import upgrade_text

            upgraded = upgrade_text(doc)
            self.forms, self.notes, places = upgraded.forms, upgraded.notes, upgraded.where
            doc = Document(upgraded.text, doc.name)
            self._nodes = parse_tree(doc)
        self._doc = doc
        self.header = pb.NetParameter()
        self.layers: list[LayerSource] = []
        self._header_nodes: list[Node] = []
        for node in self._nodes:
            if node.name == "layer":
                for item in occurrences(node):
                    where = places[len(self.layers)] if places else ""
                    self.layers.append(LayerSource(doc, item, item is node, where))
            else:
                self._header_nodes.append(node)
        self.unknown = fill_message(doc, self.header, self._header_nodes, 0)
        self._header = pb.NetParameter()
        self._header.CopyFrom(self.header)

    def text(self) -> str:
        """The text, unchanged; an old form is upgraded.

        Encode it with ``errors="surrogateescape"`` to get the file's own bytes.
        """
        return self._doc.text

    @property
    def extra(self) -> Extra:
        """The fields of the header that the schema does not have, with their values."""
        return extra_fields(self._doc, self._header_nodes, _NET) if self.unknown else {}

    def where_of(self, path: str) -> str:
        """``file:line:column`` of a field of the header that the schema lacks; else of the file."""
        header = [node for node in self._file_nodes if node.name not in ("layer", "layers")]
        nodes = strangers(self._file, header, _NET)
        return self._file.where(next((node.start for name, node in nodes if path.split(".")[0] == name), 0))

    def render(
        self,
        header: pb.NetParameter,
        layers: Sequence[tuple[pb.LayerParameter, LayerSource | None]],
        without: frozenset[str] = frozenset(),
    ) -> str:
        """The text of a changed net: this text with the necessary changes.

        Args:
            header: everything except the layers.
            layers: the layers in order, each with the source of its text. A source may serve
                more than once, and may come from another file.
            without: fields of the header in `unknown` to remove.

        Returns:
            A text that reads as exactly these messages. A layer that says what its source says keeps its
            text; one that differs has its source's text patched; one without a source is written in the
            file's indentation. Other layers of this file vanish with the comment directly above them.
        """
        numbers = {id(layer): number for number, layer in enumerate(self.layers)}
        wanted = [(numbers.get(id(source.origin)) if source is not None else None) for _, source in layers]
        exact = [source is not None and source.says(message) for message, source in layers]
        if header.layer or header.layers:
            header = pb.NetParameter.FromString(header.SerializePartialToString())
            header.ClearField("layer")
            header.ClearField("layers")
        if wanted == list(range(len(self.layers))) and all(exact) and same(header, self._header) and not without:
            return self._doc.text
        if any(node.kind == LIST and node.name == "layer" for node in self._nodes):
            plain = NetSource(Document(self._spread(), self.name))
            return plain.render(
                header,
                [
                    (message, _spread_source(source, None if number is None else plain.layers[number]))
                    for (message, source), number in zip(layers, wanted, strict=True)
                ],
                without,
            )
        text = self._doc.text
        slots = slots_of(text, self._nodes, [layer._node for layer in self.layers])
        edits = Edits(text, newline_of(text), unit_of(text, self._nodes))
        homeless = patch_top(edits, self._header_nodes, self._header, header)
        cut(edits, self._doc, self._header_nodes, _NET, without)
        add_at_top(edits, homeless, self._header_nodes, slots[0].start if slots else len(text))
        homes = home_of_each(wanted, exact)
        pieces: list[tuple[int | None, str]] = []
        for at, (message, source) in enumerate(layers):
            if source is None:
                pieces.append((None, self._new_layer(message, edits)))
            else:
                pieces.append((wanted[at] if homes[at] else None, source.render(message)))
        return weave(edits, slots, pieces)

    def _new_layer(self, message: pb.LayerParameter, edits: Edits) -> str:
        lines = ["layer {", *message_lines(message, edits.unit, edits.unit), "}"]
        return edits.newline.join(lines)

    def _spread(self) -> str:
        """The text with every ``layer: [{...}, {...}]`` written as layers of their own."""
        text = self._doc.text
        edits = Edits(text, newline_of(text), "  ")
        for node in self._nodes:
            if node.name == "layer" and node.kind == LIST:
                items = [f"layer {text[item.start : item.end]}" for item in node.kids]
                edits.replace(node.start, node.stop, edits.newline.join(items))
        return edits.apply(0, len(text))


def _spread_source(source: LayerSource | None, spread: LayerSource | None) -> LayerSource | None:
    """The same layer in a text where every layer is alone."""
    return source if source is None or spread is None else spread.without(source._cut)


def read_net(path: str | os.PathLike[str]) -> NetSource:
    """Reads a net's file.

    Raises:
        PrototxtError: with file, line and column.
    """
    return NetSource(read_document(path))


def _within(path: str, blocks: Iterable[str]) -> bool:
    """Whether a dotted path names one of the fields, or lies inside one."""
    return any(path == block or path.startswith(f"{block}.") for block in blocks)


def parse_net(text: str, name: str = "<text>") -> NetSource:
    """Reads a net from its text; see `read_net`."""
    return NetSource(Document(text, name))
