"""Finding modules: branches that fork from one blob and meet in one Concat over channels.

Found by structure. A branch is followed up from the Concat as long as each layer has one bottom, one top and one
reader; where several branches end at the same blob, that blob is the fork.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from deeprebirth_caffe.ir import Layer
from deeprebirth_caffe.ops import ConvGeometry, concat_axis, conv_geometry
from deeprebirth_caffe.passes.patterns import Facts, other_axes, sees_position, strange
from deeprebirth_caffe.rewrite import Reason, Refusal

Fork = tuple[Layer | None, int]
"""The layer that makes the forked blob (None for a net input), and which of its tops it is."""


@dataclass(frozen=True)
class Branch:
    """One way from the fork to the Concat.

    Attributes:
        position: which bottom of the Concat it is.
        layers: from the fork down; empty where the Concat reads the fork itself.
        channels: that it gives to the Concat.
    """

    position: int
    layers: tuple[Layer, ...]
    channels: int

    @cached_property
    def convs(self) -> tuple[Layer, ...]:
        return tuple(layer for layer in self.layers if layer.type == "Convolution")

    @property
    def tail(self) -> Layer:
        """The last convolution; only asked of branches that have one."""
        return self.convs[-1]

    @cached_property
    def geometry(self) -> ConvGeometry:
        return conv_geometry(self.tail.param)

    @property
    def suffix(self) -> tuple[Layer, ...]:
        """What stands behind the last convolution."""
        return self.layers[self.layers.index(self.tail) + 1 :]

    @cached_property
    def ending(self) -> tuple[bytes, ...]:
        """What stands behind the last convolution, names and weights aside."""
        return tuple(_anonymous(layer) for layer in self.suffix)

    @property
    def pool(self) -> Layer | None:
        """The pooling that it starts with, if it does."""
        return self.layers[0] if self.layers and self.layers[0].type == "Pooling" else None

    def reducer(self) -> tuple[Layer, tuple[Layer, ...]] | None:
        """The 1x1 convolution right in front of the last one, and the layers between the two."""
        if len(self.convs) < 2:
            return None
        maker = self.convs[-2]
        between = self.layers[self.layers.index(maker) + 1 : self.layers.index(self.tail)]
        geometry = conv_geometry(maker.param)
        if set(geometry.kernel) != {1} or geometry.group != 1 or not all(_carries(layer) for layer in between):
            return None
        return maker, between


@dataclass(frozen=True)
class Module:
    """A Concat and the branches that reach it from one fork.

    Attributes:
        concat: the layer where they meet.
        fork: where they part.
        branches: in the order of the Concat's bottoms; two at least.
        channels: of every bottom of the Concat, those of other forks included.
    """

    concat: Layer
    fork: Fork
    branches: tuple[Branch, ...]
    channels: tuple[int, ...]

    @property
    def all(self) -> frozenset[Layer]:
        """Every layer of it, the fork's maker not counted."""
        return frozenset(layer for branch in self.branches for layer in branch.layers) | {self.concat}


def find_modules(facts: Facts) -> Iterator[Module | Refusal]:
    """Every module, in the order of the file, or a Concat with the reason why it is none that can be judged."""
    for layer in facts.net.layers:
        if layer.type == "Concat" and len(layer.bottoms) > 1:
            if reason := strange(layer):
                yield Refusal(layer, reason)
                continue
            traced = [_trace(facts, layer, index) for index in range(len(layer.bottoms))]
            forks: dict[Fork, list[int]] = {}
            for index, found in enumerate(traced):
                if found is not None:
                    forks.setdefault(found[0], []).append(index)
            groups = {fork: positions for fork, positions in forks.items() if len(positions) > 1}
            if not groups:
                continue
            shapes = facts.shapes_in(layer)
            if isinstance(shapes, Reason):
                yield Refusal(layer, shapes)
                continue
            if concat_axis(layer.param, shapes[0]) != 1 or len(shapes[0]) != 4:
                continue
            channels = tuple(shape[1] for shape in shapes)
            for fork, positions in groups.items():
                branches = []
                for position in positions:
                    found = traced[position]
                    assert found is not None
                    branches.append(Branch(position, found[1], channels[position]))
                yield Module(layer, fork, tuple(branches), channels)


def _trace(facts: Facts, concat: Layer, index: int) -> tuple[Fork, tuple[Layer, ...]] | None:
    """The fork that a bottom comes from, and the layers from there down."""
    layers: list[Layer] = []
    reader = concat
    while True:
        makers = facts.net.producers(reader, index)
        if len(makers) != 1:
            return None
        maker = facts.before(reader, index)
        if isinstance(maker, Reason) or len(maker.bottoms) != 1 or len(maker.tops) != 1:
            return makers[0], tuple(reversed(layers))
        layers.append(maker)
        reader, index = maker, 0


def _carries(layer: Layer) -> bool:
    """Whether a layer keeps channels and positions apart, so that channels can be added or taken away."""
    return (
        len(layer.bottoms) == 1
        and not strange(layer)
        and sees_position(layer)
        and layer.type != "LRN"
        and not other_axes(layer)
    )


def host_reason(facts: Facts, branch: Branch) -> Reason | None:
    """Why a branch cannot take over another's channels; empty when it can."""
    if not branch.convs:
        return Reason("it has no convolution")
    if branch.pool is not None or any(layer.type == "Pooling" for layer in branch.layers):
        return Reason("it pools")
    return _tail_reason(facts, branch)


def guest_reason(facts: Facts, branch: Branch) -> Reason | None:
    """Why a branch's channels cannot be taken over; empty when they can."""
    if not branch.convs:
        return (
            Reason(f"{branch.pool.name} has no projection behind it")
            if branch.pool is not None
            else Reason("it has no convolution")
        )
    if len(branch.convs) != 1:
        return Reason("it is more than one convolution")
    front = branch.layers[branch.pool is not None]
    if front is not branch.tail:
        return Reason(f"{front.name} ({front.type}) stands in front of {branch.tail.name}")
    return _tail_reason(facts, branch)


def _tail_reason(facts: Facts, branch: Branch) -> Reason | None:
    tail = branch.tail
    if reason := facts.fixed(tail):
        return reason
    geometry = branch.geometry
    if len(geometry.kernel) != 2 or geometry.axis != 1:
        return Reason(f"{tail.name} is not a 2-d convolution over channels")
    if geometry.group != 1:
        return Reason(f"{tail.name} has {geometry.group} groups")
    for layer in branch.suffix:
        if not _carries(layer):
            between = Reason(f"{layer.name} ({layer.type}) stands between {tail.name} and the Concat")
            return strange(layer) or other_axes(layer) or between
        if layer.traits.learned and (reason := facts.fixed(layer)):
            return reason
    return None


def _anonymous(layer: Layer) -> bytes:
    twin = type(layer.param)()
    twin.CopyFrom(layer.param)
    for field in ("name", "bottom", "top", "param", "include", "exclude", "blobs"):
        twin.ClearField(field)
    return twin.SerializeToString(deterministic=True)
