"""Nets as pictures, stage by stage: alone, or before and after, what is gone on the left and what is new on the right.

Layers are compared by name, since a rewritten layer always has a new one. One that overwrites its input in place is
written into the box of the layer it belongs to. Boxes stand as deep as their longest way from the stage's inputs; a
branch keeps its column, and a layer in which branches meet stands in their middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.ir import SILENCE, Layer, Net, View
from deeprebirth_caffe.pages.document import render, short

BOX, TALL, ACROSS, DOWN, EDGE = 122, 36, 132, 58, 4
"""Width and height of a box, from one column and row to the next, and the rim of a picture, in pixels."""
LETTERS = 16
"""Of a line in a box."""


@dataclass
class Box:
    """A layer, with those that overwrite what it puts out.

    Attributes:
        layer: the first of them.
        more: the others.
        parents: boxes of the same stage that it reads.
    """

    layer: Layer
    more: list[Layer] = field(default_factory=list)
    parents: list[Box] = field(default_factory=list)
    column: float = 0.0
    row: int = 0

    @property
    def names(self) -> list[str]:
        return [self.layer.name, *(layer.name for layer in self.more)]

    @property
    def corner(self) -> tuple[float, float]:
        """Its upper left one, in pixels."""
        return EDGE + ACROSS * self.column, EDGE + DOWN * self.row

    def label(self, stage: str) -> tuple[str, str]:
        """What is written into it: its name within the stage, and what it is."""
        name = self.layer.name
        if name.startswith(stage) and len(name) > len(stage):
            name = name[len(stage) :].lstrip("/_-.") or name
        kinds = dict.fromkeys(layer.type for layer in self.more if layer.type != "Dropout")
        what = _what(self.layer) + "".join(f" + {kind}" for kind in kinds)
        return short(name, LETTERS), short(what, LETTERS + 4)


@dataclass(frozen=True)
class Panel:
    """One stage.

    Attributes:
        stage: its name.
        before: the picture; empty where the net before does not have the stage.
        after: likewise.
        gone: layers that only the net before has.
        new: layers that only the net after has.
        layers: how many layers it had and has.
    """

    stage: str
    before: str
    after: str
    gone: tuple[str, ...]
    new: tuple[str, ...]
    layers: tuple[int, int]

    @property
    def changed(self) -> bool:
        """Whether anything in it did."""
        return bool(self.gone or self.new)


def page(net: Net, title: str, before: Net | None = None) -> str:
    """A page for a browser that draws a net.

    Args:
        net: what is drawn.
        title: of the page.
        before: the net that it was, to be drawn beside it.

    Raises:
        RebirthError: a net is not sound.
    """
    return render("drawing.html", title=title, panels=panels(before or net, net), compared=before is not None)


def panels(before: Net, after: Net) -> list[Panel]:
    """Every stage of two nets, in order.

    Raises:
        RebirthError: a net is not sound.
    """
    views = [_view(net) for net in (before, after)]
    known = [{layer.name for layer in view.layers} for view in views]
    stages = [_by_stage(view) for view in views]
    found = []
    for stage in dict.fromkeys([*stages[0], *stages[1]]):
        old, new = (one.get(stage, []) for one in stages)
        gone = [layer.name for layer in old if layer.name not in known[1]]
        made = [layer.name for layer in new if layer.name not in known[0]]
        left = _picture(_boxes(views[0], old), stage, set(gone), "gone")
        right = _picture(_boxes(views[1], new), stage, set(made), "new")
        found.append(Panel(stage, left, right, tuple(gone), tuple(made), (len(old), len(new))))
    return found


def _view(net: Net) -> View:
    """In TEST, where the net has that."""
    try:
        return next((view for view in net.views if view.state.phase == "TEST"), net.views[0])
    except RebirthError as error:
        raise RebirthError(f"no picture can be made of this net: {error}") from error


def _by_stage(view: View) -> dict[str, list[Layer]]:
    """Layers that compute; what gives data, and judges of what a net says, belong to no stage."""
    found: dict[str, list[Layer]] = {}
    for layer in view.layers:
        kind = layer.traits
        if not (kind.data or kind.loss or kind.metric or layer.type == SILENCE):
            found.setdefault(layer.stage or layer.name, []).append(layer)
    return found


def _boxes(view: View, layers: Sequence[Layer]) -> list[Box]:
    """Boxes with their places."""
    box_of: dict[Layer, Box] = {}
    boxes: list[Box] = []
    for layer in layers:
        makers = [value.producer for value in view.ins[layer]]
        parents = [box_of[maker] for maker in makers if maker is not None and maker in box_of]
        if parents and len(layer.bottoms) == 1 and layer.in_place(0):
            box_of[layer] = parents[0]
            parents[0].more.append(layer)
            continue
        box = box_of[layer] = Box(layer, parents=list({id(parent): parent for parent in parents}.values()))
        boxes.append(box)
    _place(boxes)
    return boxes


def _place(boxes: Sequence[Box]) -> None:
    taken: set[tuple[float, int]] = set()
    followed: set[int] = set()
    columns = 0
    for box in boxes:
        box.row = 1 + max((parent.row for parent in box.parents), default=-1)
        if len(box.parents) > 1:
            box.column = sum(parent.column for parent in box.parents) / len(box.parents)
        elif box.parents and id(box.parents[0]) not in followed:
            box.column = box.parents[0].column
            followed.add(id(box.parents[0]))
        else:
            box.column = float(columns)
        while any(row == box.row and abs(column - box.column) < 1 for column, row in taken):
            box.column += 1
        columns = max(columns, int(box.column) + 1)
        taken.add((box.column, box.row))


def _picture(boxes: Sequence[Box], stage: str, marked: set[str], kind: str) -> str:
    if not boxes:
        return ""
    edges = []
    for box in boxes:
        x, y = box.corner
        for parent in box.parents:
            left, top = parent.corner
            # Down its own column first: a straight line over several rows would seem to end at a box on its way.
            edges.append((left + BOX / 2, top + TALL, y + TALL - DOWN, x + BOX / 2, y))
    return render(
        "net.svg",
        width=2 * EDGE + BOX + ACROSS * max(box.column for box in boxes),
        height=2 * EDGE + TALL + DOWN * max(box.row for box in boxes),
        wide=BOX,
        tall=TALL,
        edges=edges,
        boxes=boxes,
        stage=stage,
        marked=marked,
        kind=kind,
    )


def _what(layer: Layer) -> str:
    """A layer's kind in a few letters."""
    if layer.traits.convolution or layer.type == "Deconvolution":
        conv = layer.param.convolution_param
        kernel = _size(conv.kernel_size, conv.kernel_h, conv.kernel_w)
        kind = "" if layer.type == "Convolution" else "deconv "
        return f"{kind}{kernel}{_stride(conv.stride, conv.stride_h, conv.stride_w)}, {conv.num_output}"
    if layer.type == "InnerProduct":
        return f"fc, {layer.param.inner_product_param.num_output}"
    if layer.type == "Pooling":
        pool = layer.param.pooling_param
        if pool.global_pooling:
            return "pool, global"
        kernel = _size([pool.kernel_size], pool.kernel_h, pool.kernel_w)
        return f"pool {kernel}{_stride([pool.stride], pool.stride_h, pool.stride_w)}"
    return layer.type


def _size(both: Sequence[int], high: int, wide: int) -> str:
    """3x3, or 1x7."""
    if high or wide:
        return f"{high}x{wide}"
    return "x".join(map(str, both if len(both) != 1 else (both[0], both[0])))


def _stride(both: Sequence[int], high: int, wide: int) -> str:
    """Nothing where it is 1, one number where it is the same both ways."""
    sides = [high, wide] if high or wide else list(both)
    if set(sides) <= {1}:
        return ""
    return f" /{sides[0]}" if len(set(sides)) == 1 else f" /{'x'.join(map(str, sides))}"
