"""A net's text in an old form, written whole in today's form with its comments where they were.

A V1 layer is edited: its fields keep their order, spelling and comments, and what the schema does not know stays.
A V0 layer is printed anew, each comment beside the field that its own has become. The result is read back and must
say exactly what `upgrade_net` makes of the old message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deeprebirth_caffe.formats.legacy import fork_type
from deeprebirth_caffe.formats.prototxt.document import Document, PrototxtError
from deeprebirth_caffe.formats.prototxt.edits import Edits, line_end, line_start, past_newline
from deeprebirth_caffe.formats.prototxt.fields import table_of
from deeprebirth_caffe.formats.prototxt.fill import fill_message
from deeprebirth_caffe.formats.prototxt.layout import slots_of
from deeprebirth_caffe.formats.prototxt.scalars import unescape
from deeprebirth_caffe.formats.prototxt.source import newline_of, unit_of
from deeprebirth_caffe.formats.prototxt.tree import BLOCK, STRING, WORD, Node, occurrences, parse_tree
from deeprebirth_caffe.formats.upgrade import inputs, v0
from deeprebirth_caffe.formats.upgrade.comments import BESIDE, END, Piece, comments_in, pieces_of, print_with, strangers
from deeprebirth_caffe.formats.upgrade.layer_text import edit_layer
from deeprebirth_caffe.formats.upgrade.notes import Upgrade, UpgradeError
from deeprebirth_caffe.formats.upgrade.paths import from_header, from_v0, from_v1
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
        strangers: its fields that V1 does not have.
    """

    node: Node
    message: pb.V1LayerParameter
    own_type: str
    strangers: frozenset[str]


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
        self._unit = unit_of(doc.text, self._nodes)
        self._newline = newline_of(doc.text)

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
        name = message.layer.name or message.name
        for path in unknown:
            self._notes.append((node.start, f"layer \"{name}\": '{path}' is no field of this old form; it stays"))
        return _Old(node, message, own, frozenset(path for path in unknown if "." not in path))

    def result(self) -> UpgradedText:
        """Upgrades the messages, then the text, and compares."""
        doc, text = self._doc, self._doc.text
        net = pb.NetParameter()
        fill_message(doc, net, self._header_nodes, 0)
        net.layers.extend(old.message for old in self._old)
        bare = list(net.input) if not net.input_dim and not net.input_shape else []
        report = self._upgrade(net)
        if bare:  # without a shape there is nothing to make a layer of: the header keeps them
            net.input.extend(bare)
            report.notes = [note for note in report.notes if not note.text.startswith(inputs.NO_SHAPE)]
        edits = Edits(text, self._newline, self._unit)
        where: list[str] = []
        if report.places and report.places[0] is None:
            where.append(self._write_input(edits, net.layer[0]))
        elif not bare:
            self._cut_header(edits, inputs.FIELDS)
        if v0.needs_upgrade(pb.NetParameter(layers=[old.message for old in self._old])):
            self._cut_header(edits, ("state", "debug_info"))
        new_of: dict[int, pb.LayerParameter] = {}
        for layer, place in zip(net.layer, report.places, strict=True):
            if place is not None:
                if self._old[place].own_type:
                    layer.type = self._old[place].own_type
                new_of[place] = layer
                where.append(doc.where(self._old[place].node.start))
        self._write_layers(edits, new_of)
        new = edits.apply(0, len(text))
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
                name = self._old[error.layer].message.layer.name or self._old[error.layer].message.name
                raise self._doc.error(
                    self._old[error.layer].node.start, f'layer "{name}" {error.what}' if name else error.what
                ) from error
            at = next((node.start for node in self._header_nodes if node.name in inputs.FIELDS), 0)
            raise self._doc.error(at, error.what) from error

    # ------------------------------------------------------------ the layers

    def _write_layers(self, edits: Edits, new_of: dict[int, pb.LayerParameter]) -> None:
        number = 0
        for node in self._fields:
            values = occurrences(node)
            numbers = range(number, number + len(values))
            texts = [self._layer(self._old[place], new_of.get(place)) for place in numbers]
            number = numbers.stop
            # What separates fields stays, with the comments in front of it, unless the layer itself goes.
            end = node.end if any(place in new_of for place in numbers) else node.stop
            inner = [(value.start, value.end) for value in values]
            loose = [
                comment
                for at, comment in comments_in(self._doc.text, node.start, end)
                if not any(begin <= at < last for begin, last in inner)
            ]
            self._replace(edits, node, end, [piece for piece in (*loose, *texts) if piece])

    def _replace(self, edits: Edits, node: Node, end: int, texts: Sequence[str]) -> None:
        text = self._doc.text
        rest = line_end(text, end)
        if not texts and not comments_in(text, end, rest or end):
            edits.remove(node)
            return
        new = f"{edits.newline}{self._indent(node)}".join(texts)
        last = new.rpartition(edits.newline)[2]
        if comments_in(last, 0, len(last)) and text[end : end + 1] not in ("\r", "\n", ""):
            new += edits.newline
        edits.replace(node.start, end, new)

    def _indent(self, node: Node) -> str:
        line = line_start(self._doc.text, node.start)
        return self._doc.text[line : node.start] if line is not None else ""

    def _layer(self, old: _Old, new: pb.LayerParameter | None) -> str:
        """Today's text of one layer; for a padding layer that went into another, its comments."""
        text, node = self._doc.text, old.node
        if new is None:
            joint = f"{self._newline}{self._indent(node)}"
            return joint.join(comment for _, comment in comments_in(text, node.start, node.end))
        if not old.message.HasField("layer"):
            edited = edit_layer(Edits(text, self._newline, self._unit), node, new)
            if edited is not None and self._says(edited, new, old.strangers):
                return edited
        pieces = pieces_of(text, node, table_of(pb.V1LayerParameter.DESCRIPTOR))
        if old.message.HasField("layer"):
            pieces = [from_v0(piece, old.message.layer.type) for piece in pieces]
        else:
            pieces = [Piece(piece.text, from_v1(piece.path), piece.mode) for piece in pieces]
        return print_with(new, pieces, self._unit, self._indent(node), self._newline)

    def _says(self, text: str, new: pb.LayerParameter, strangers: Iterable[str]) -> bool:
        """Whether a layer's new text says what it should, fields aside that only today's form has."""
        doc = Document(text, self._doc.name)
        try:
            [node] = parse_tree(doc)
            message = pb.LayerParameter()
            fill_message(doc, message, node.kids, 0)
        except (PrototxtError, ValueError):
            return False
        return _plain(message, strangers) == _plain(new, strangers)

    # ------------------------------------------------------------ the header

    def _runs(self, names: Iterable[str]) -> list[list[Node]]:
        """Header fields of these names, those that share a line together."""
        wanted = set(names)
        runs: list[list[Node]] = []
        before: Node | None = None
        for node in self._nodes:
            if node.name in wanted:
                if runs and runs[-1][-1] is before and not self._doc.text[before.stop : node.start].strip(" \t"):
                    runs[-1].append(node)
                else:
                    runs.append([node])
            before = node
        return runs

    def _cut_header(self, edits: Edits, names: Iterable[str]) -> None:
        """Takes fields out, with the lines they fill; comments stay."""
        for run in self._runs(names):
            self._cut(edits, run, [])

    def _cut(self, edits: Edits, run: Sequence[Node], moved: Sequence[int]) -> None:
        """Takes out a run of fields, and the comment behind it if its offset is among `moved`."""
        text = self._doc.text
        first, last = run[0].start, run[-1].stop
        line, rest = line_start(text, first), line_end(text, last)
        inner = [comment for at, comment in comments_in(text, first, last) if at not in moved]
        behind = [at for at, _ in comments_in(text, last, rest or last)]
        if rest is not None and all(at in moved for at in behind):
            if line is not None and not inner:
                edits.replace(line, past_newline(text, rest), "")
            else:
                edits.replace(first, rest, edits.newline.join(inner))
        else:
            edits.replace(first, last, "".join(comment + edits.newline for comment in inner))

    def _write_input(self, edits: Edits, layer: pb.LayerParameter) -> str:
        """Puts the Input layer where the first input field stood, or in front of all layers; says where."""
        text, newline = self._doc.text, self._newline
        runs = self._runs(inputs.FIELDS)
        pieces: list[Piece] = []
        moved: list[int] = []
        counts: dict[str, int] = {}
        for run in runs:
            for node in run:
                values = max(1, len(occurrences(node)))
                path = from_header(((node.name, counts.get(node.name, 0)),))
                counts[node.name] = counts.get(node.name, 0) + values
                rest = line_end(text, node.stop)
                for at, comment in comments_in(text, node.start, node.stop if rest is None else rest):
                    pieces.append(Piece(comment, path, BESIDE))
                    moved.append(at)
                if node.kind == BLOCK:
                    alien = strangers(text, node, table_of(pb.BlobShape.DESCRIPTOR), ())
                    pieces.extend(Piece(text[one.start : one.stop], path, END) for one, _ in alien)
        body = print_with(layer, pieces, self._unit, "", newline)
        start = runs[0][0].start
        where = self._doc.where(start)
        first = self._fields[0]
        if start > first.start:
            [slot] = slots_of(text, self._nodes, [first])
            edits.replace(slot.start, slot.start, body + newline)
        else:
            run = runs.pop(0)
            rest = line_end(text, run[-1].stop)
            lead = "" if line_start(text, start) is not None else newline
            while lead and text[start - 1] in " \t":
                start -= 1
            edits.replace(
                start, run[-1].stop if rest is None else rest, lead + body + (newline if rest is None else "")
            )
        for run in runs:
            self._cut(edits, run, moved)
        return where

    # ------------------------------------------------------------ the proof

    def _compare(
        self, text: str, net: pb.NetParameter, where: Sequence[str], new_of: dict[int, pb.LayerParameter]
    ) -> None:
        """Raises an error unless the new text reads as `net`: never let a changed meaning out."""
        doc = Document(text, self._doc.name)
        nodes = parse_tree(doc)
        header = pb.NetParameter()
        fill_message(doc, header, [node for node in nodes if node.name != "layer"], 0)
        strangers = {id(layer): self._old[place].strangers for place, layer in new_of.items()}
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
            names = strangers.get(id(layer), frozenset())
            if _plain(message, names) != _plain(layer, names):
                raise PrototxtError(f"{place}: this layer's text cannot be upgraded; write it in a plainer form")


def _plain(message: pb.LayerParameter, without: Iterable[str]) -> bytes:
    """A layer's bytes without some fields, if it has such fields."""
    twin = pb.LayerParameter()
    twin.CopyFrom(message)
    known = twin.DESCRIPTOR.fields_by_name
    for name in without:
        if name in known:
            twin.ClearField(known[name].name)
    return twin.SerializePartialToString(deterministic=True)
