"""What passes look for: chains of layers with one reader, and the convolutions that could take a layer in.

Every answer is either the layers found or a `str`, the reason in words why there are none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from deeprebirth_caffe.ir import Layer, Net, NetState, Value, unknown_shape
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.ops.forks import DEPTHWISE
from deeprebirth_caffe.proto import caffe_pb2 as pb

# The depthwise types of forks are convolutions with as many groups as channels.
CONV = frozenset({"Convolution", *DEPTHWISE})
LINEAR = CONV | {"Deconvolution", "InnerProduct"}
# Besides the pointwise layers: these see one position (or its channels) at a time, so a stride can move across them.
PER_POSITION = frozenset({"BatchNorm", "Scale", "Bias", "LRN"})


class Facts:
    """Answers about one net between two rewrites, each worked out once.

    Attributes:
        predicted: the predicted time of layers as they are, or why a shape is not known (`passes.costs`).
    """

    def __init__(self, net: Net) -> None:
        self.net = net
        self.trains = net.trains
        self.predicted: dict[Layer, float | str] = {}
        self._macs: dict[Layer, int | None] = {}
        self._alive: dict[Layer, frozenset[NetState]] = {}
        for view in net.views:
            for layer in view.layers:
                self._alive[layer] = self._alive.get(layer, frozenset()) | {view.state}
        # The view that shapes and costs are told in: TEST is what is deployed.
        self._views = sorted(net.views, key=lambda view: view.state.phase != "TEST")
        self._names = Counter(layer.name for layer in net.layers)
        self._writers = Counter(
            top for layer in net.layers for index, top in enumerate(layer.tops) if not layer.in_place(index)
        )
        self._shared = Counter(spec.name for layer in net.layers for spec in layer.param.param if spec.name)

    def alive(self, layer: Layer) -> frozenset[NetState]:
        """The states the layer is alive in."""
        return self._alive.get(layer, frozenset())

    def value_in(self, layer: Layer, index: int = 0) -> Value:
        """What a layer reads, in the TEST view where it is alive there."""
        return next(view.ins[layer][index] for view in self._views if layer in view.ins)

    def value_out(self, layer: Layer, index: int = 0) -> Value:
        """What a layer puts out, likewise."""
        return next(view.outs[layer][index] for view in self._views if layer in view.outs)

    def shapes_in(self, layer: Layer) -> list[Shape] | str:
        """The shapes of all bottoms, or why they are not known."""
        values = [self.value_in(layer, index) for index in range(len(layer.bottoms))]
        for value in values:
            if value.shape is None:
                return unknown_shape(value)
        return [value.shape for value in values if value.shape is not None]

    def macs(self, layer: Layer, param: pb.LayerParameter | None = None, bottom: Shape | None = None) -> int | None:
        """Multiply-adds of a layer for one image in the TEST view, or of another version of it.

        None where shapes are not known.
        """
        if param is None and bottom is None:
            if layer not in self._macs:
                self._macs[layer] = self._count(layer, layer.param, None)
            return self._macs[layer]
        return self._count(layer, layer.param if param is None else param, bottom)

    def _count(self, layer: Layer, param: pb.LayerParameter, bottom: Shape | None) -> int | None:
        kind = layer.op
        bottoms: list[Shape] | str = [bottom] if bottom is not None else self.shapes_in(layer)
        if kind is None or isinstance(bottoms, str):
            return None
        batch = next((view.batch for view in self._views if layer in view.ins), 1)
        return kind.macs(param, bottoms, kind.shapes(param, bottoms)) // batch

    def fixed(self, layer: Layer) -> str:
        """Why a layer with weights must not be rewritten, whatever its neighbours; empty when it may."""
        if reason := strange(layer):
            return reason
        if len(layer.tops) != 1:
            return f"{layer.name} has {len(layer.tops)} tops"
        if self._names[layer.name] > 1:
            return f"another layer is also named {layer.name}, so they share weights"
        shared = [spec.name for spec in layer.param.param if spec.name and self._shared[spec.name] > 1]
        if shared:
            return f'{layer.name} shares its weights "{shared[0]}" with another layer'
        if any(layer.param.loss_weight):
            return f"{layer.name} is part of the loss itself (loss_weight)"
        return ""

    def one_maker(self, blob: str) -> bool:
        """Whether only one layer of the file, whatever its phase, makes a blob of that name."""
        return self._writers[blob] == 1

    def read_by_others(self, layer: Layer) -> bool:
        """Whether what a layer reads comes from the net's input or a data layer, or somebody else reads it too."""
        for producer, top in self.net.producers(layer):
            if producer is None or (producer.op is not None and producer.op.data):
                return True
            if any(reader is not layer for reader, _ in self.net.readers(producer, top)):
                return True
        return False

    def before(self, layer: Layer, index: int = 0) -> Layer | str:
        """The one layer whose output this one reads, if this one alone reads it, in every state."""
        if index >= len(layer.bottoms):
            return f"{layer.name} has no bottom"
        found = self.net.producers(layer, index)
        name = layer.bottoms[index]
        if len(found) != 1:
            return f"{layer.name} reads {name} from different layers in different phases"
        producer, top = found[0]
        if producer is None:
            return f"{layer.name} reads the net's input {name}"
        if producer.op is not None and producer.op.data:
            return f"{layer.name} reads the data layer's {name}"
        others = [reader for reader, _ in self.net.readers(producer, top) if reader is not layer]
        if others:
            return f"another layer ({others[0].name}) reads {name}"
        if self.alive(producer) != self.alive(layer):
            return f"{producer.name} and {layer.name} are alive in different phases"
        return producer

    def after(self, layer: Layer) -> Layer | str:
        """The one layer that reads this one's only output, in every state."""
        if len(layer.tops) != 1:
            return f"{layer.name} has {len(layer.tops)} tops"
        readers = self.net.readers(layer)
        if not readers:
            return f"nobody reads {layer.tops[0]}"
        if len(readers) > 1:
            return f"{len(readers)} layers read {layer.tops[0]}"
        reader = readers[0][0]
        if self.alive(reader) != self.alive(layer):
            return f"{layer.name} and {reader.name} are alive in different phases"
        return reader


def strange(layer: Layer) -> str:
    """What about a layer is not Caffe 1.0's and keeps a pass from rewriting it; empty when there is nothing."""
    if layer.unknown:
        return f"{layer.name} has fields that Caffe 1.0 does not have ({', '.join(layer.unknown)})"
    if layer.op is None:
        return f"{layer.name} has type {layer.type}, which Caffe 1.0 does not have"
    if layer.understood.fixed:
        return (
            f"{layer.name} has a fork's fields that only its shapes are known of ({', '.join(layer.understood.fixed)})"
        )
    return ""


def any_size(facts: Facts, layer: Layer) -> bool:
    """Whether a rewrite of a layer must hold for images of every size: nothing fixes the size that it reads."""
    return facts.net.other_sizes.reach(layer)


THIS_SIZE = "and nothing fixes the size of the images (--fixed-size, where they always have the one in the file)"
"""How refusals end of what would hold at the given size alone."""


@dataclass(frozen=True)
class Hosts:
    """The linear layers in front of a layer, and all layers on the way."""

    convs: tuple[Layer, ...]
    between: tuple[Layer, ...]

    @property
    def all(self) -> frozenset[Layer]:
        return frozenset((*self.convs, *self.between))


def find_hosts(
    facts: Facts,
    layer: Layer,
    types: Collection[str] = CONV,
    *,
    through_joins: bool = True,
    through_pools: bool = False,
) -> Hosts | str:
    """Walks up from a layer to the linear layers that could take it in.

    Args:
        facts: of the net.
        layer: where to start; its first bottom is followed.
        types: the layer types that can be hosts.
        through_joins: whether a Concat or Eltwise may be passed, into each of its branches.
        through_pools: whether a Pooling may be passed.

    Returns:
        The hosts, or the reason why there are none.
    """
    convs: list[Layer] = []
    between: list[Layer] = []
    waiting: list[tuple[Layer, int]] = [(layer, 0)]
    while waiting:
        reader, index = waiting.pop()
        found = facts.before(reader, index)
        if isinstance(found, str):
            return found
        if found.type in types:
            reason = facts.fixed(found)
            if reason:
                return reason
            convs.append(found)
            continue
        reason = _in_the_way(found, through_joins=through_joins, through_pools=through_pools)
        if reason:
            return reason
        between.append(found)
        waiting += [(found, branch) for branch in reversed(range(len(found.bottoms)))]
    return Hosts(tuple(convs), tuple(between))


def _in_the_way(layer: Layer, *, through_joins: bool, through_pools: bool) -> str:
    """Why the way up to a host ends at a layer; empty when it goes on."""
    if reason := strange(layer):
        return reason
    if len(layer.tops) != 1:
        return f"{layer.name} has {len(layer.tops)} tops"
    if layer.type in ("Concat", "Eltwise"):
        if not through_joins:
            return (
                f"left alone by --paper: no convolution directly in front, {layer.name} ({layer.type}) stands between"
            )
        axis = layer.param.concat_param
        if layer.type == "Concat" and (axis.axis if not axis.HasField("concat_dim") else axis.concat_dim) not in (
            1,
            -3,
        ):
            return f"{layer.name} does not join channels"
        return ""
    if layer.type == "Pooling" and through_pools:
        return ""
    if len(layer.bottoms) == 1 and (is_pointwise(layer) or layer.type in PER_POSITION):
        return other_axes(layer)
    return f"no convolution in front: {layer.name} ({layer.type}) stands between"


def merges(layer: Layer) -> bool:
    """Whether passes go on next to a layer as far as its type is concerned, which may be a fork's."""
    return layer.op is not None and (layer.op.pointwise or layer.type in LINEAR or layer.type in PER_POSITION)


def is_pointwise(layer: Layer) -> bool:
    """Whether each number that a layer puts out depends on one number that it reads."""
    return layer.op is not None and layer.op.pointwise and not strange(layer)


def other_axes(layer: Layer, axes: int = 4) -> str:
    """What makes a Scale or Bias differ within a channel; empty where it has one number for each channel.

    Args:
        layer: any layer.
        axes: how many its bottom has.
    """
    if layer.type not in ("Scale", "Bias"):
        return ""
    param = layer.param.scale_param if layer.type == "Scale" else layer.param.bias_param
    if param.axis in (1, 1 - axes) and param.num_axes == 1:
        return ""
    return f"{layer.name} does not work by channel (axis {param.axis}, num_axes {param.num_axes})"
