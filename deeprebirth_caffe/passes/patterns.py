"""What passes look for: chains of layers with one reader, and the convolutions that could take a layer in.

Every answer is either the layers found or a `str`, the reason in words why there are none.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from deeprebirth_caffe.ir import Layer, Net, NetState, Value, unknown_shape
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.rewrite import Reason


class Facts:
    """Answers about one net between two rewrites, each worked out once.

    Attributes:
        predicted: the predicted time of layers as they are, or why a shape is not known (`passes.costs`).
    """

    def __init__(self, net: Net) -> None:
        self.net = net
        self.trains = net.trains
        self.predicted: dict[Layer, float | Reason] = {}
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

    def shapes_in(self, layer: Layer) -> list[Shape] | Reason:
        """The shapes of all bottoms, or why they are not known."""
        values = [self.value_in(layer, index) for index in range(len(layer.bottoms))]
        for value in values:
            if value.shape is None:
                return Reason(unknown_shape(value))
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
        bottoms: list[Shape] | Reason = [bottom] if bottom is not None else self.shapes_in(layer)
        if kind is None or isinstance(bottoms, Reason):
            return None
        batch = next((view.batch for view in self._views if layer in view.ins), 1)
        return kind.macs(param, bottoms, kind.shapes(param, bottoms)) // batch

    def fixed(self, layer: Layer) -> Reason | None:
        """Why a layer with weights must not be rewritten, whatever its neighbours; empty when it may."""
        if reason := strange(layer):
            return reason
        if len(layer.tops) != 1:
            return Reason(f"{layer.name} has {len(layer.tops)} tops")
        if self._names[layer.name] > 1:
            return Reason(f"another layer is also named {layer.name}, so they share weights")
        shared = [spec.name for spec in layer.param.param if spec.name and self._shared[spec.name] > 1]
        if shared:
            return Reason(f'{layer.name} shares its weights "{shared[0]}" with another layer')
        if any(layer.param.loss_weight):
            return Reason(f"{layer.name} is part of the loss itself (loss_weight)")
        return None

    def one_maker(self, blob: str) -> bool:
        """Whether only one layer of the file, whatever its phase, makes a blob of that name."""
        return self._writers[blob] == 1

    def read_by_others(self, layer: Layer) -> bool:
        """Whether what a layer reads comes from the net's input or a data layer, or somebody else reads it too."""
        for producer, top in self.net.producers(layer):
            if producer is None or producer.fed:
                return True
            if any(reader is not layer for reader, _ in self.net.readers(producer, top)):
                return True
        return False

    def before(self, layer: Layer, index: int = 0) -> Layer | Reason:
        """The one layer whose output this one reads, if this one alone reads it, in every state."""
        if index >= len(layer.bottoms):
            return Reason(f"{layer.name} has no bottom")
        found = self.net.producers(layer, index)
        name = layer.bottoms[index]
        if len(found) != 1:
            return Reason(f"{layer.name} reads {name} from different layers in different phases")
        producer, top = found[0]
        if producer is None:
            return Reason(f"{layer.name} reads the net's input {name}")
        if producer.fed:
            return Reason(f"{layer.name} reads the data layer's {name}")
        others = [reader for reader, _ in self.net.readers(producer, top) if reader is not layer]
        if others:
            return Reason(f"another layer ({others[0].name}) reads {name}")
        if self.alive(producer) != self.alive(layer):
            return Reason(f"{producer.name} and {layer.name} are alive in different phases")
        return producer

    def after(self, layer: Layer) -> Layer | Reason:
        """The one layer that reads this one's only output, in every state."""
        if len(layer.tops) != 1:
            return Reason(f"{layer.name} has {len(layer.tops)} tops")
        readers = self.net.readers(layer)
        if not readers:
            return Reason(f"nobody reads {layer.tops[0]}")
        if len(readers) > 1:
            return Reason(f"{len(readers)} layers read {layer.tops[0]}")
        reader = readers[0][0]
        if self.alive(reader) != self.alive(layer):
            return Reason(f"{layer.name} and {reader.name} are alive in different phases")
        return reader


def strange(layer: Layer) -> Reason | None:
    """What about a layer is not Caffe 1.0's and keeps a pass from rewriting it; empty when there is nothing."""
    if layer.unknown:
        return Reason(f"{layer.name} has fields that Caffe 1.0 does not have ({', '.join(layer.unknown)})")
    if layer.op is None:
        return Reason(f"{layer.name} has type {layer.type}, which Caffe 1.0 does not have")
    if layer.understood.fixed:
        return Reason(
            f"{layer.name} has a fork's fields that only its shapes are known of ({', '.join(layer.understood.fixed)})"
        )
    return None


def any_size(facts: Facts, layer: Layer) -> bool:
    """Whether a rewrite of a layer must hold for images of every size: nothing fixes the size that it reads."""
    return facts.net.other_sizes.reach(layer)


THIS_SIZE = "and nothing fixes the size of the images (--fixed-size, where they always have the one in the file)"
"""How refusals end of what would hold at the given size alone."""


@dataclass(frozen=True)
class Hosts:
    """The linear layers in front of a layer, and all layers on the way.

    Attributes:
        convs: the linear layers.
        between: the others.
        macs: multiply-adds of the linear ones; None where some are not known.
    """

    convs: tuple[Layer, ...]
    between: tuple[Layer, ...]
    macs: int | None

    @property
    def all(self) -> frozenset[Layer]:
        return frozenset((*self.convs, *self.between))


def find_hosts(
    facts: Facts,
    layer: Layer,
    *,
    linear: bool = False,
    through_joins: bool = True,
    through_pools: bool = False,
) -> Hosts | Reason:
    """Walks up from a layer to the linear layers that could take it in.

    Args:
        facts: of the net.
        layer: where to start; its first bottom is followed.
        linear: whether any linear layer can be a host; else convolutions alone.
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
        if isinstance(found, Reason):
            return found
        if found.traits.linear if linear else found.traits.convolution:
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
    macs = [facts.macs(conv) for conv in convs]
    return Hosts(tuple(convs), tuple(between), sum(n or 0 for n in macs) if None not in macs else None)


def _in_the_way(layer: Layer, *, through_joins: bool, through_pools: bool) -> Reason | None:
    """Why the way up to a host ends at a layer; empty when it goes on."""
    if reason := strange(layer):
        return reason
    if len(layer.tops) != 1:
        return Reason(f"{layer.name} has {len(layer.tops)} tops")
    if layer.traits.joins:
        if not through_joins:
            return Reason(
                f"left alone by --paper: no convolution directly in front, {layer.name} ({layer.type}) stands between"
            )
        axis = layer.param.concat_param
        if layer.type == "Concat" and (axis.axis if not axis.HasField("concat_dim") else axis.concat_dim) not in (
            1,
            -3,
        ):
            return Reason(f"{layer.name} does not join channels")
        return None
    if layer.type == "Pooling" and through_pools:
        return None
    if len(layer.bottoms) == 1 and sees_position(layer):
        return other_axes(layer)
    return Reason(f"no convolution in front: {layer.name} ({layer.type}) stands between")


def merges(layer: Layer) -> bool:
    """Whether passes go on next to a layer as far as its type is concerned, which may be a fork's."""
    return layer.traits.pointwise or layer.traits.linear or layer.traits.per_position


def is_pointwise(layer: Layer) -> bool:
    """Whether each number that a layer puts out depends on one number that it reads."""
    return layer.traits.pointwise and not strange(layer)


def sees_position(layer: Layer) -> bool:
    """Whether a layer sees one position at a time, so that a stride can move across it."""
    return is_pointwise(layer) or layer.traits.per_position


def other_axes(layer: Layer, axes: int = 4) -> Reason | None:
    """What makes a Scale or Bias differ within a channel; empty where it has one number for each channel.

    Args:
        layer: any layer.
        axes: how many its bottom has.
    """
    param = layer.own if layer.traits.affine else None
    if param is None:
        return None
    if param.axis in (1, 1 - axes) and param.num_axes == 1:
        return None
    return Reason(f"{layer.name} does not work by channel (axis {param.axis}, num_axes {param.num_axes})")
