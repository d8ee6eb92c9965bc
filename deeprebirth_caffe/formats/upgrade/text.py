"""A net's text in an old form, with its layers printed anew in today's.

What stands between the layers stays, the comments in front of them too; those inside a layer go. The result is read
back and must say exactly what `upgrade_net` makes of the old message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.message import Message

from deeprebirth_caffe.formats.legacy import fork_type
from deeprebirth_caffe.formats.prototxt.document import Document, PrototxtError
from deeprebirth_caffe.formats.prototxt.edits import Edits, line_start
from deeprebirth_caffe.formats.prototxt.extra import strangers
from deeprebirth_caffe.formats.prototxt.fields import Table, table_of
from deeprebirth_caffe.formats.prototxt.fill import fill_message
from deeprebirth_caffe.formats.prototxt.layout import slots_of
from deeprebirth_caffe.formats.prototxt.printer import field_lines, present
from deeprebirth_caffe.formats.prototxt.scalars import unescape
from deeprebirth_caffe.formats.prototxt.source import newline_of, unit_of
from deeprebirth_caffe.formats.prototxt.tree import BLOCK, STRING, WORD, Node, occurrences, parse_tree
from deeprebirth_caffe.formats.upgrade import inputs, v0
from deeprebirth_caffe.formats.upgrade.notes import Upgrade, UpgradeError
from deeprebirth_caffe.proto import caffe_pb2 as pb

_V1_WORDS = set(pb.V1LayerParameter.LayerType.keys())


@dataclass(frozen=True)
class UpgradedText:
    """The result.

    Attributes:
        text: the whole file in today's form.
        where: ``file:line:column`` in the old text of each layer of the new one.
        forms: the old forms that were found.
        notes: what is worth saying, each with its place.
    """

    text: str
    where: tuple[str, ...]
    forms: tuple[str, ...]
    notes: tuple[str, ...]


def upgrade_text(doc: Document) -> UpgradedText:
    """Upgrades a text whose layers are ``layers``.

    Raises:
        PrototxtError: with its line, what keeps it from being upgraded.
    """
    return _Upgrader(doc).result()


@dataclass(frozen=True)
class _Old:
    """One ``layers { ... }`` of the file.

    Attributes:
        node: its block.
        message: what it says.
        own_type: its type in today's spelling where Caffe's V1 does not have it.
        strangers: the texts of the fields that V1 does not have, by the dotted path of their block in today's form.
        unknown: names of those that stand in the layer itself: today's form may have them.
    """

    node: Node
    message: pb.V1LayerParameter
    own_type: str
    strangers: Mapping[str, Sequence[str]]
    unknown: frozenset[str]

    @property
    def name(self) -> str:
        return self.message.layer.name or self.message.name


class _Upgrader:
    def __init__(self, doc: Document) -> None:
        self._doc = doc
        self._nodes = parse_tree(doc)
        self._fields = [node for node in self._nodes if node.name == "layers"]
        self._header_nodes = [node for node in self._nodes if node.name != "layers"]
        for node in self._header_nodes:
            if node.name == "layer":
                raise doc.error(
                    node.start, "this file has both 'layers' and 'layer'; write all layers in one form, best as 'layer'"
                )
        self._notes: list[tuple[int, str]] = []
        self._old = [self._read(value) for node in self._fields for value in occurrences(node)]
        self._edits = Edits(doc.text, newline_of(doc.text), unit_of(doc.text, self._nodes))

    def _read(self, node: Node) -> _Old:
        if node.kind != BLOCK:
            raise self._doc.error(node.vstart, "'layers' takes a block; write 'layers { ... }'")
        own = ""
        kids = node.kids
        for kid in kids:
            word = self._doc.text[kid.vstart : kid.end]
            if kid.name == "type" and kid.colon and kid.kind in (WORD, STRING) and word not in _V1_WORDS:
                own = fork_type(word) if kid.kind == WORD else unescape(word).decode("utf-8", "replace")
                kids = [other for other in kids if other is not kid]
                self._notes.append((kid.vstart, f'Caffe\'s V1 has no layer type {word}; taken for "{own}"'))
        message = pb.V1LayerParameter()
        unknown = fill_message(self._doc, message, kids, node.vstart)
        texts: dict[str, list[str]] = {}
        for block, found in self._strangers(kids, table_of(pb.V1LayerParameter.DESCRIPTOR)).items():
            texts.setdefault(_today(block, message.layer.type), []).extend(found)
        old = _Old(node, message, own, texts, frozenset(path for path in unknown if "." not in path))
        for path in unknown:
            self._notes.append((node.start, f"layer \"{old.name}\": '{path}' is no field of this old form; it stays"))
        return old

    def _strangers(self, nodes: Sequence[Node], table: Table) -> dict[str, list[str]]:
        """The texts of the fields that a message type does not know, by the dotted path of their block."""
        found: dict[str, list[str]] = {}
        for path, node in strangers(self._doc, nodes, table):
            found.setdefault(path.rpartition(".")[0], []).append(self._doc.text[node.start : node.stop])
        return found

    def result(self) -> UpgradedText:
        """Upgrades the messages, then the text, and compares."""
        doc, edits = self._doc, self._edits
        net = pb.NetParameter()
        fill_message(doc, net, self._header_nodes, 0)
        net.layers.extend(old.message for old in self._old)
        bare = list(net.input) if not net.input_dim and not net.input_shape else []
        report = self._upgrade(net)
        if bare:  # without a shape there is nothing to make a layer of: the header keeps them
            net.input.extend(bare)
            report.notes = [note for note in report.notes if not note.text.startswith(inputs.NO_SHAPE)]
        input_nodes = [node for node in self._header_nodes if node.name in inputs.FIELDS and not bare]
        where: list[str] = []
        if report.places and report.places[0] is None:
            where.append(doc.where(input_nodes[0].start))
            self._write_input(net.layer[0], input_nodes)
        else:
            for node in input_nodes:
                edits.remove(node)
        if any(old.message.HasField("layer") for old in self._old):
            for node in self._header_nodes:
                if node.name in ("state", "debug_info"):
                    edits.remove(node)
        new_of: dict[int, pb.LayerParameter] = {}
        for layer, place in zip(net.layer, report.places, strict=True):
            if place is not None:
                if self._old[place].own_type:
                    layer.type = self._old[place].own_type
                new_of[place] = layer
                where.append(doc.where(self._old[place].node.start))
        self._write_layers(new_of)
        new = edits.apply(0, len(doc.text))
        self._compare(new, net, where, new_of)
        for note in report.notes:
            at = self._old[note.layer].node.start if note.layer is not None else 0
            self._notes.append((at, f'layer "{note.name}": {note.text}' if note.name else note.text))
        notes = tuple(f"{doc.where(at)}: {what}" for at, what in sorted(self._notes, key=lambda pair: pair[0]))
        return UpgradedText(new, tuple(where), tuple(report.forms), notes)

    def _upgrade(self, net: pb.NetParameter) -> Upgrade:
        from deeprebirth_caffe.formats.upgrade import upgrade_net

        try:
            return upgrade_net(net)
        except UpgradeError as error:
            if error.layer is not None:
                old = self._old[error.layer]
                what = f'layer "{old.name}" {error.what}' if old.name else error.what
                raise self._doc.error(old.node.start, what) from error
            at = next((node.start for node in self._header_nodes if node.name in inputs.FIELDS), 0)
            raise self._doc.error(at, error.what) from error

    def _write_layers(self, new_of: Mapping[int, pb.LayerParameter]) -> None:
        """Replaces each ``layers``; a padding layer that went into another one goes with its line."""
        place = 0
        for node in self._fields:
            texts = []
            for _ in occurrences(node):
                if place in new_of:
                    texts.append(self._layer(new_of[place], self._old[place].strangers, node.start))
                place += 1
            if texts:
                indent = self._indent(node.start)
                self._edits.replace(node.start, node.stop, f"{self._edits.newline}{indent}".join(texts))
            else:
                self._edits.remove(node)

    def _write_input(self, layer: pb.LayerParameter, nodes: Sequence[Node]) -> None:
        """Puts the Input layer where the first input field stood, or in front of all layers."""
        shapes = self._strangers(nodes, table_of(pb.NetParameter.DESCRIPTOR))
        texts = {"input_param.shape": [text for found in shapes.values() for text in found]} if shapes else {}
        start, first = nodes[0].start, self._fields[0]
        body = self._layer(layer, texts, start)
        if start > first.start:
            [slot] = slots_of(self._doc.text, self._nodes, [first])
            self._edits.replace(slot.start, slot.start, body + self._edits.newline)
        else:
            self._edits.replace(start, nodes[0].stop, body)
            nodes = nodes[1:]
        for node in nodes:
            self._edits.remove(node)

    def _indent(self, at: int) -> str:
        line = line_start(self._doc.text, at)
        return self._doc.text[line:at] if line is not None else ""

    def _layer(self, layer: pb.LayerParameter, strange: Mapping[str, Sequence[str]], at: int) -> str:
        """A layer in the house style, to stand at an offset, with its strangers at the ends of their blocks."""
        unit = self._edits.unit
        homeless = {path: list(texts) for path, texts in strange.items()}
        lines = _lines(layer, unit, unit, homeless, "")
        lines += [unit + text for texts in homeless.values() for text in texts]  # their block is gone
        return f"{self._edits.newline}{self._indent(at)}".join(["layer {", *lines, "}"])

    def _compare(
        self, text: str, net: pb.NetParameter, where: Sequence[str], new_of: Mapping[int, pb.LayerParameter]
    ) -> None:
        """Raises an error unless the new text reads as `net`: never let a changed meaning out."""
        doc = Document(text, self._doc.name)
        nodes = parse_tree(doc)
        header = pb.NetParameter()
        fill_message(doc, header, [node for node in nodes if node.name != "layer"], 0)
        unknown = {id(layer): self._old[place].unknown for place, layer in new_of.items()}
        layers = [node for node in nodes if node.name == "layer"]
        wanted = pb.NetParameter()
        wanted.CopyFrom(net)
        wanted.ClearField("layer")
        if header != wanted or len(layers) != len(net.layer):
            raise self._doc.error(0, "this text cannot be upgraded; write it in a plainer form")
        for node, layer, place in zip(layers, net.layer, where, strict=True):
            message = pb.LayerParameter()
            try:
                fill_message(doc, message, node.kids, node.vstart)
            except PrototxtError as error:
                reason = str(error).removeprefix(self._doc.name).partition(": ")[2]
                raise PrototxtError(f"{place}: in today's form of this layer {reason}") from error
            names = unknown.get(id(layer), frozenset())
            if _plain(message, names) != _plain(layer, names):
                raise PrototxtError(f"{place}: this layer's text cannot be upgraded; write it in a plainer form")


def _today(block: str, kind: str) -> str:
    """The path of a block of an old layer in its new form; `kind` is the layer's type if it is of V0."""
    block = block.removeprefix("layer").removeprefix(".")
    target, homes = v0.RULES.get(block, (block, {}))
    home = homes.get(kind)
    return f"{home}.{target}" if home else target


def _lines(message: Message, indent: str, unit: str, strange: dict[str, list[str]], path: str) -> list[str]:
    """The fields of a message, and the strangers of each block behind them, which are taken out of `strange`."""
    lines: list[str] = []
    for field, values in present(message):
        here = f"{path}.{field.name}" if path else field.name
        for value in values:
            if field.message_type is not None and any(f"{block}.".startswith(f"{here}.") for block in strange):
                inner = _lines(value, indent + unit, unit, strange, here)
                lines += [f"{indent}{field.name} {{", *inner, f"{indent}}}"]
            else:
                lines += field_lines(field, value, indent, unit)
    return lines + [indent + text for text in strange.pop(path, [])]


def _plain(message: pb.LayerParameter, without: Iterable[str]) -> bytes:
    """A layer's bytes without some fields, if it has such fields."""
    twin = pb.LayerParameter()
    twin.CopyFrom(message)
    known = twin.DESCRIPTOR.fields_by_name
    for name in without:
        if name in known:
            twin.ClearField(known[name].name)
    return twin.SerializePartialToString(deterministic=True)
