"""Layers and values: the def-use graph of a net in a NetState."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from deeprebirth_caffe.formats.prototxt import LayerSource
from deeprebirth_caffe.ir.errors import AbsentStateError, NetError
from deeprebirth_caffe.ir.state import NetState, included
from deeprebirth_caffe.ops import UNKNOWN, Op, Shape, ShapeError, UnknownShape, op
from deeprebirth_caffe.ops.forks import Understood, understand
from deeprebirth_caffe.proto import caffe_pb2 as pb

SILENCE = "Silence"
"""This type reads a blob only so that Caffe does not report the blob as an output."""


class Layer:
    """A layer of a file. Compared by identity: two layers may have the same name (the data layers of a train_val).

    Attributes:
        param: the layer's message; the only home of name, type, bottoms and tops.
        source: the layer's text in the file, or None for a new layer of a pass.
        stage: the row of the paper's tables (see `ir.stages`).
        understood: the known facts of a fork's type and fields (see `ops.forks`).
    """

    __slots__ = ("param", "source", "stage", "understood")

    def __init__(self, param: pb.LayerParameter, source: LayerSource | None = None, stage: str = "") -> None:
        self.param = param
        self.source = source
        self.stage = stage
        extra = source.extra if source else {}
        self.understood: Understood = understand(param.type, source.unknown if source else (), extra)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Fields that neither Caffe 1.0 nor a known fork has."""
        return self.understood.unknown

    @property
    def name(self) -> str:
        return self.param.name

    @property
    def type(self) -> str:
        return self.param.type

    @property
    def bottoms(self) -> Sequence[str]:
        return self.param.bottom

    @property
    def tops(self) -> Sequence[str]:
        return self.param.top

    @property
    def where(self) -> str:
        """file:line:column of the layer in its file, or the layer's name."""
        return self.source.where if self.source else f'layer "{self.name}"'

    @property
    def op(self) -> Op | None:
        """The facts of its type, with a fork's fields; None for an unknown type."""
        return self.understood.op if self.understood.fork else op(self.type)

    @property
    def traits(self) -> Op:
        """Its `op`; for a type that nobody here knows, one without any trait."""
        return self.op or UNKNOWN

    @property
    def own(self) -> Any:
        """The message with its type's own parameters, where `Op.block` names it; else None."""
        return getattr(self.param, self.traits.block) if self.traits.block else None

    @property
    def fed(self) -> bool:
        """Whether the layer brings data into the net."""
        return self.traits.data

    @property
    def loss(self) -> bool:
        """Whether training minimises an output of it: its loss_weight or its type says so."""
        if any(self.param.loss_weight):
            return True
        return self.traits.loss or (self.op is None and "Loss" in self.type)

    def in_place(self, index: int) -> bool:
        """Whether the index-th top overwrites the index-th bottom."""
        return index < len(self.bottoms) and index < len(self.tops) and self.tops[index] == self.bottoms[index]

    def __repr__(self) -> str:
        return f"<{self.type} {self.name!r}>"


@dataclass(eq=False)
class Value:
    """A top of a layer, until an in-place layer overwrites it.

    Attributes:
        name: the blob's name in the file; all values of a blob share it.
        producer: the layer, or None for a net-level `input`.
        index: of the producer's top.
        uses: (layer, bottom index) in the order of the file.
        shape: such as N x C x H x W; None if unknown.
        unknown: why the shape is unknown.
    """

    name: str
    producer: Layer | None
    index: int = 0
    uses: list[tuple[Layer, int]] = field(default_factory=list)
    shape: Shape | None = None
    unknown: str = ""

    @property
    def read(self) -> bool:
        """Whether any layer other than a Silence reads it."""
        return any(layer.type != SILENCE for layer, _ in self.uses)

    @property
    def weighted(self) -> bool:
        """Whether it is a loss: then Caffe itself reads it too, and keeps its gradient."""
        return self.producer is not None and _has_loss(self.producer, self.index)

    @property
    def shared(self) -> bool:
        """Whether it takes no memory: it overwrites another value, or shares that value's memory."""
        maker = self.producer
        if maker is None:
            return False
        return maker.in_place(self.index) or maker.traits.shares(maker.param)

    @property
    def copies(self) -> int:
        """The number of tops of the Split that Caffe inserts behind it; 0 without a Split.

        A loss that layers read has an additional reader, Caffe.
        """
        readers = len(self.uses) + (self.weighted and bool(self.uses))
        return readers if readers > 1 else 0


def unknown_shape(value: Value) -> str:
    """The reason of a pass that needs an unknown shape; the layer's words name a flag that helps."""
    return f"shape unknown: {value.unknown}"


class View:
    """A net in a NetState: its live layers in order, with SSA values and shapes.

    Raises:
        NetError: the layers break a rule of Caffe (an unknown bottom, a blob with two producers, …).
    """

    def __init__(
        self,
        state: NetState,
        header: pb.NetParameter,
        layers: Sequence[Layer],
        data: Mapping[Layer, Shape],
        alive_in: NetState | None = None,
    ) -> None:
        """Builds the graph.

        Args:
            state: the state that layers compute in.
            header: of the net.
            layers: of the file.
            data: (C, H, W) of a record of each data layer, if known.
            alive_in: the state that decides which layers are alive, if it is another state.
        """
        self.state = state
        alive_in = alive_in or state
        self.layers = [layer for layer in layers if included(alive_in, layer.param)]
        self._dead = [layer for layer in layers if not included(alive_in, layer.param)]
        self.inputs: list[Value] = []
        self.ins: dict[Layer, list[Value]] = {}
        self.outs: dict[Layer, list[Value]] = {}
        self._data = data
        self._latest: dict[str, Value] = {}
        self._read_inputs(header)
        for layer in self.layers:
            self._add(layer)

    @property
    def values(self) -> list[Value]:
        """Every value, net inputs first, then in the order of the layers."""
        return self.inputs + [value for layer in self.layers for value in self.outs[layer]]

    @property
    def fed(self) -> list[Value]:
        """The values from outside: the net's inputs, and the tops of data layers."""
        return [*self.inputs, *(value for layer in self.layers if layer.fed for value in self.outs[layer])]

    @cached_property
    def batch(self) -> int:
        """The number of images in a forward pass: the first dimension of the first value from outside; else 1."""
        fed = (value for value in self.values if value.producer is None or value.producer.fed)
        return next((max(1, value.shape[0]) for value in fed if value.shape), 1)

    @property
    def outputs(self) -> list[Value]:
        """The blobs that no layer reads: Caffe reports them as the net's outputs."""
        return [value for value in self.values if not value.uses]

    @property
    def silenced(self) -> list[Value]:
        """The tops of layers that only Silence layers read."""
        return [value for value in self._tops if value.uses and not value.read]

    @property
    def results(self) -> list[Value]:
        """The results of the net: its outputs from layers; without any, the values that only Silence layers read."""
        return [value for value in self._tops if not value.uses] or self.silenced

    @property
    def _tops(self) -> list[Value]:
        return [value for layer in self.layers if not layer.fed for value in self.outs[layer]]

    def blob(self, name: str) -> Value | None:
        """The last value of a blob: its contents after a forward pass."""
        return self._latest.get(name)

    @property
    def blobs(self) -> dict[str, Value]:
        """The last value of every blob."""
        return self._latest

    def _read_inputs(self, header: pb.NetParameter) -> None:
        for index, name in enumerate(header.input):
            shape: Shape | None = None
            if index < len(header.input_shape):
                shape = tuple(header.input_shape[index].dim)
            elif len(header.input_dim) >= 4 * (index + 1):
                shape = tuple(header.input_dim[4 * index : 4 * index + 4])
            value = Value(name, None, index, shape=shape)
            if shape is None:
                value.unknown = f'the net input "{name}" has no shape; give --input-shape {name}=CHANNELS,HEIGHT,WIDTH'
            if name in self._latest:
                raise NetError(f'the net input "{name}" is declared twice; remove one')
            self._latest[name] = value
            self.inputs.append(value)

    def _add(self, layer: Layer) -> None:
        for name in layer.bottoms:
            if name not in self._latest:
                raise self._dangling(layer, name)
        ins = [self._latest[name] for name in layer.bottoms]
        for index, value in enumerate(ins):
            value.uses.append((layer, index))
        outs = []
        for index, name in enumerate(layer.tops):
            before = self._latest.get(name)
            if before is not None and not layer.in_place(index):
                first = before.producer
                start = f'{layer.where}: layer "{layer.name}" produces blob "{name}", which'
                if first is None:
                    raise NetError(f'{start} the net\'s header already has as an input; remove `input: "{name}"` there')
                raise NetError(
                    f'{start} layer "{first.name}" ({first.where}) already produces in {self.state}; '
                    "give one of them another top"
                )
            if before is not None and ins[index].copies:
                raise NetError(self._overwritten(layer, ins[index]))
            value = Value(name, layer, index)
            self._latest[name] = value
            outs.append(value)
        self.ins[layer] = ins
        self.outs[layer] = outs
        self._infer(layer, ins, outs)

    def _overwritten(self, layer: Layer, value: Value) -> str:
        """Caffe puts a Split behind a blob with several readers; then no layer can overwrite it."""
        start = f'{layer.where}: layer "{layer.name}" overwrites blob "{value.name}" in place, which'
        early = next((reader.name for reader, _ in value.uses if reader is not layer), "")
        if early:
            return f'{start} layer "{early}" reads before that in {self.state}; give it a top of its own'
        return f"{start} is read more than once in {self.state}; give it a top of its own"

    def _dangling(self, layer: Layer, name: str) -> NetError:
        later = [other for other in self.layers if name in other.tops and other is not layer]
        start = f'{layer.where}: layer "{layer.name}" reads blob "{name}"'
        if name in layer.tops:
            return NetError(f"{start}, which only it produces: a cycle; give it another bottom")
        if later and self._reaches(layer, later[0]):
            return NetError(f'{start}, which layer "{later[0].name}" makes from what "{layer.name}" puts out: a cycle')
        if later:
            return NetError(
                f'{start} before layer "{later[0].name}" ({later[0].where}) produces it; put the layers in order'
            )
        start += f", which no layer produces in {self.state}"
        if other := next((dead for dead in self._dead if name in dead.tops), None):
            return AbsentStateError(f'{start}: the rules of layer "{other.name}" ({other.where}) keep it out')
        return NetError(f"{start}; check the spelling and the include rules")

    def _reaches(self, start: Layer, goal: Layer) -> bool:
        """Whether `goal` depends on `start` by blob names (the values do not exist yet)."""
        known = set(start.tops)
        live = self.layers[self.layers.index(start) + 1 :]
        grew = True
        while grew:
            grew = False
            for layer in live:
                if known.intersection(layer.bottoms) and not known.issuperset(layer.tops):
                    known.update(layer.tops)
                    grew = True
        return bool(known.intersection(goal.bottoms))

    def _infer(self, layer: Layer, ins: list[Value], outs: list[Value]) -> None:
        reason = ""
        kind = layer.op
        if kind is None:
            reason = f'layer "{layer.name}" has type {layer.type}, which Caffe 1.0 does not have'
        elif layer.unknown:
            reason = f'layer "{layer.name}" has fields that Caffe 1.0 does not have: {", ".join(layer.unknown)}'
        else:
            reason = next((value.unknown or "its shape is not known" for value in ins if value.shape is None), "")
        if kind is not None and reason and not layer.unknown and not layer.understood.fork:
            try:  # rules without shapes are checked in any case, so that no code meets a Pooling without a bottom
                kind.check_counts(layer.param, len(ins))
            except ShapeError as error:
                raise NetError(f"{layer.where}: {error}") from error
        if kind is not None and not reason:
            bottoms = [value.shape for value in ins if value.shape is not None]
            try:
                shapes = kind.shapes(layer.param, bottoms, datum=self._data.get(layer))
                with contextlib.suppress(UnknownShape):
                    kind.params(layer.param, bottoms)  # the rules hold with and without weights
            except UnknownShape as error:
                reason = str(error)
            except ShapeError as error:
                if not layer.understood.fork:
                    raise NetError(f"{layer.where}: {error}") from error
                reason = str(error)  # a rule of one fork need not hold in another
            else:
                for value, shape in zip(outs, shapes):
                    value.shape = tuple(shape)
        for value in outs:
            if value.shape is None:
                value.unknown = reason or "its shape is not known"


def _has_loss(layer: Layer, index: int) -> bool:
    weights = layer.param.loss_weight
    if index < len(weights):
        return bool(weights[index])
    return layer.traits.loss and index == 0
