"""The text of one V1 layer, edited into today's form: all that need not change stays as it was written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from deeprebirth_caffe.formats.prototxt.edits import Edits, line_end, line_start, past_newline
from deeprebirth_caffe.formats.prototxt.layout import slots_of
from deeprebirth_caffe.formats.prototxt.scalars import format_string
from deeprebirth_caffe.formats.prototxt.tree import Node, occurrences
from deeprebirth_caffe.formats.upgrade import transform, v1
from deeprebirth_caffe.formats.upgrade.comments import comments_in
from deeprebirth_caffe.proto import caffe_pb2 as pb


def edit_layer(edits: Edits, node: Node, new: pb.LayerParameter) -> str | None:
    """Today's text of a V1 layer, or None where this layer is not written plainly enough to be edited.

    Args:
        edits: a fresh set of edits of the file's text.
        node: the layer's block; the name of its field is not looked at.
        new: what the text is to say.
    """
    text = edits.text
    for kid in node.kids:
        if kid.name == "type":
            edits.replace(kid.vstart, kid.end, format_string(new.type))
    _Params(edits, node).edit()
    if not _move_transform(edits, node, new):
        return None
    body = edits.apply(node.vstart, node.end)
    # A comment that an edit cut off, whatever it stood in: the caller prints the layer anew and places them all.
    kept = Counter(comment for _, comment in comments_in(body, 0, len(body)))
    if Counter(comment for _, comment in comments_in(text, node.vstart, node.end)) - kept:
        return None
    colon = ":" if node.colon else ""
    return f"layer{colon} {body}"


@dataclass(frozen=True)
class _Item:
    """One number of ``blobs_lr`` and its like.

    Attributes:
        field: the field of `param` it becomes.
        value: its node.
        node: the node of its field, another one where that is a list.
    """

    field: str
    value: Node
    node: Node


class _Params:
    """V1's four lists, turned into one `param` for each parameter blob at the place of its first number."""

    def __init__(self, edits: Edits, layer: Node) -> None:
        self._edits = edits
        self._specs: list[list[_Item]] = []
        for name, field in v1.PARAM_FIELDS.items():
            values = [(value, node) for node in layer.kids if node.name == name for value in occurrences(node)]
            for number, (value, node) in enumerate(values):
                if number == len(self._specs):
                    self._specs.append([])
                self._specs[number].append(_Item(field, value, node))
        self._nodes = {id(item.node): item.node for spec in self._specs for item in spec}
        self._said: set[int] = set()  # nodes whose comment is written already

    def edit(self) -> None:
        """Collects the edits."""
        homes: dict[int, list[list[_Item]]] = {}
        for spec in self._specs:
            home = min(spec, key=lambda item: item.value.start).node
            homes.setdefault(id(home), []).append(spec)
        moved: set[int] = set()  # nodes whose comment goes along
        for key, specs in homes.items():
            if self._alone(self._nodes[key]):
                moved.update(id(item.node) for spec in specs for item in spec)
        for key, node in self._nodes.items():
            if key in homes:
                self._replace(node, homes[key])
            else:
                self._remove(node, key in moved)

    def _alone(self, node: Node) -> bool:
        text = self._edits.text
        return line_start(text, node.start) is not None and line_end(text, node.stop) is not None

    def _comment(self, node: Node) -> str:
        """The comment behind a field that has its line for itself."""
        rest = line_end(self._edits.text, node.stop)
        return self._edits.text[node.stop : rest].strip() if rest is not None and self._alone(node) else ""

    def _replace(self, node: Node, specs: Sequence[Sequence[_Item]]) -> None:
        edits, text = self._edits, self._edits.text
        if not self._alone(node):
            inline = (" ".join(f"{item.field}: {_spelled(text, item.value)}" for item in spec) for spec in specs)
            edits.replace(node.start, node.stop, " ".join(f"param {{ {spec} }}" for spec in inline))
            return
        lines: list[str] = []
        for spec in specs:
            lines.append("param {")
            for item in spec:
                comment = "" if id(item.node) in self._said else self._comment(item.node)
                self._said.add(id(item.node))
                tail = f"  {comment}" if comment else ""
                lines.append(f"{edits.unit}{item.field}: {_spelled(text, item.value)}{tail}")
            lines.append("}")
        rest = line_end(text, node.stop)
        assert rest is not None  # it has its line for itself
        indent = text[text.rfind("\n", 0, node.start) + 1 : node.start]
        edits.replace(node.start, rest, f"{edits.newline}{indent}".join(lines))

    def _remove(self, node: Node, comment_moved: bool) -> None:
        edits, text = self._edits, self._edits.text
        if self._alone(node) and self._comment(node) and not comment_moved:
            edits.replace(node.start, text.index("#", node.stop), "")
        else:
            edits.remove(node)


def _spelled(text: str, value: Node) -> str:
    return text[value.vstart : value.end]


def _move_transform(edits: Edits, layer: Node, new: pb.LayerParameter) -> bool:
    """Moves old transformation fields to `transform_param`; false where that takes more than moving."""
    text = edits.text
    homes = {node.name: node for node in layer.kids if node.name in (*transform.HOMES.values(), "transform_param")}
    target = homes.pop("transform_param", None)
    name = next((home for home in transform.HOMES.values() if new.HasField(home)), "")
    missing = [
        field
        for field in (name, "transform_param")
        if field and new.HasField(field) and not (homes.get(field) if field == name else target)
    ]
    home = homes.get(name)
    moving: list[Node] = []
    if home is not None and new.HasField("transform_param"):
        moving = [kid for kid in home.kids if kid.name in transform.FIELDS]
    if not moving:
        for field in missing:
            _append(edits, layer, field)
        return True
    assert home is not None
    if target is not None and {kid.name for kid in target.kids} & {kid.name for kid in moving}:
        return False
    plain = line_start(text, home.end - 1) is not None and line_end(text, home.stop) is not None
    if target is not None:
        plain = plain and line_start(text, target.end - 1) is not None
    chunks: list[str] = []
    for slot, kid in zip(slots_of(text, home.kids, moving), moving, strict=True):
        if slot.end == slot.stop and text[slot.stop - 1 : slot.stop] != "\n":
            plain = False  # shares its line
        chunks.append(text[slot.start : slot.end] if plain else text[kid.start : kid.end])
        if plain:
            edits.replace(slot.start, slot.end, "")
        else:
            edits.remove(kid)
    if not plain:
        inline = " ".join(text[kid.start : kid.end] for kid in moving)
        if target is None:
            edits.replace(home.stop, home.stop, f" transform_param {{ {inline} }}")
        else:
            edits.replace(target.end - 1, target.end - 1, f" {inline} ")
        return True
    if target is not None:
        at = line_start(text, target.end - 1)
        assert at is not None
        edits.replace(at, at, "".join(chunks))
        return True
    rest = line_end(text, home.stop)
    assert rest is not None
    line = line_start(text, home.start)
    indent = text[line : home.start] if line is not None else ""
    at = past_newline(text, rest)
    lead = "" if at > rest else edits.newline
    block = f"{indent}transform_param {{{edits.newline}{''.join(chunks)}{indent}}}{edits.newline}"
    edits.replace(at, at, lead + block)
    return True


def _append(edits: Edits, layer: Node, field: str) -> None:
    """Adds an empty message as the last field of a layer."""
    text = edits.text
    at = layer.end - 1
    line = line_start(text, at)
    if line is not None and layer.kids and line_start(text, layer.kids[-1].start) is not None:
        indent = text[text.rfind("\n", 0, layer.kids[-1].start) + 1 : layer.kids[-1].start]
        edits.replace(line, line, f"{indent}{field} {{ }}{edits.newline}")
    else:
        edits.replace(at, at, f" {field} {{ }} ")
