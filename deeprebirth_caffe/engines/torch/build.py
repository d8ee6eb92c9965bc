"""From a view to steps that can be run: shapes, data sources, learnable blobs, gradients' ways, and memory's."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.engines.torch.graph import gradient_flow, loss_weights
from deeprebirth_caffe.engines.torch.layers.base import Lowered, Spec, make
from deeprebirth_caffe.engines.torch.params import Parameters, new_blobs
from deeprebirth_caffe.ir import Layer, Value, View
from deeprebirth_caffe.ops import Shape, UnknownShape, all_ops

if TYPE_CHECKING:
    from deeprebirth_caffe.data import DataLayer

FED = frozenset(kind.type for kind in all_ops() if kind.given)
"""Types whose tops the caller gives."""

READ = frozenset(kind.type for kind in all_ops() if kind.reads)
"""Types that read files."""


@dataclass(eq=False)
class Step:
    """A layer to run; numbers stand for values, in the order in which they come to be.

    Attributes:
        layer: the layer.
        lowered: what computes it.
        ins: its inputs.
        outs: its tops.
        nameless: the losses that it makes without a top.
        blobs: what it learns.
        shapes: the shapes of those; a shared blob may have another one elsewhere.
        hands_down: for each input, whether a gradient goes there.
        learns: for each blob, whether it gets a gradient.
        weights: the loss weight of each top, named or not.
        overwrite: whether it may write on its first input.
        done_with: the values that nobody needs afterwards.
    """

    layer: Layer
    lowered: Lowered
    ins: list[int]
    outs: list[int]
    nameless: list[int]
    blobs: list[torch.Tensor]
    shapes: list[Shape]
    hands_down: list[bool]
    learns: list[bool]
    weights: list[float]
    overwrite: bool = False
    done_with: list[int] = field(default_factory=list)


def open_sources(view: View, root: Path, seed: int) -> dict[Layer, DataLayer]:
    """Opens what a net's data layers read."""
    from deeprebirth_caffe.data import open_layer

    opened: dict[Layer, DataLayer] = {}
    try:
        for layer in view.layers:
            if layer.type in READ:
                opened[layer] = open_layer(layer.param, view.state.phase == "TRAIN", root, seed=seed)
    except BaseException:
        for source in opened.values():
            source.close()
        raise
    return opened


class Builder:
    """Builds a net once.

    Attributes:
        number: each value's number.
        shapes: each value's shape when the net is loaded.
        feeds: the values that the caller gives, by name.
        params: what the layers learn.
        steps: the layers to run, in order.
        reached: the values that a gradient is handed down to.
    """

    def __init__(
        self,
        view: View,
        sources: Mapping[Layer, DataLayer],
        generator: torch.Generator,
        root: Path,
        share: Parameters | None,
        *,
        force: bool,
        entries: Collection[Value] = (),
    ) -> None:
        """Builds.

        Args:
            view: the net.
            sources: its data layers that read for themselves.
            generator: of fillers and of what layers draw.
            root: where relative paths in layers start.
            share: the blobs of another net, which layers of the same names use.
            force: whether the net says `force_backward`.
            entries: values where gradients enter besides the losses.

        Raises:
            EngineError: a layer cannot be run.
        """
        self._view, self._sources, self._generator, self._root = view, sources, generator, root
        self._train = view.state.phase == "TRAIN"
        self._share = share
        self._others = {layer.name: layer for layer in share.tensors} if share is not None else {}
        self.number = {value: index for index, value in enumerate(view.values)}
        self.shapes: dict[Value, Shape] = {v: v.shape for v in view.inputs if v.shape is not None}
        self.feeds: dict[str, Value] = {value.name: value for value in view.inputs}
        self.params = Parameters()
        self.steps: list[Step] = []
        lowered: dict[Layer, Lowered] = {}
        for layer in view.layers:
            run = self._lower(layer)
            if run is not None:
                lowered[layer] = run
        counts = {layer: len(self.params.tensors.get(layer, ())) for layer in view.layers}
        flow = gradient_flow(view, counts, force, frozenset(entries))
        extra = len(self.number)
        for layer, run in lowered.items():
            weights = loss_weights(layer)
            nameless = list(range(extra, extra + len(weights) - len(layer.tops)))
            extra += len(nameless)
            self.steps.append(
                Step(
                    layer,
                    run,
                    [self.number[value] for value in view.ins[layer]],
                    [self.number[value] for value in view.outs[layer]],
                    nameless,
                    self.params.tensors[layer],
                    self.params.shapes[layer],
                    list(flow.bottoms[layer]),
                    list(flow.params[layer]),
                    weights,
                )
            )
        self._mark_learning(force)
        self.reached = {
            number
            for step in self.steps
            for number, hands_down in zip(step.ins, step.hands_down, strict=True)
            if hands_down
        }
        self._plan_memory(lowered)

    @property
    def images(self) -> int:
        """How many records a forward pass takes; 0 where there is no data layer."""
        for layer in self._view.layers:
            if layer.fed and layer.type != "Input":
                return next(iter(self.shapes[self._view.outs[layer][0]]), 1)
        return 0

    def _lower(self, layer: Layer) -> Lowered | None:
        """What computes a layer, whose blobs it makes; None where the net's caller or a data source gives the tops."""
        bottoms = [self.shapes[value] for value in self._view.ins[layer]]
        self._infer(layer, bottoms)
        if layer.type in FED or layer.type in READ:
            if layer not in self._sources:
                self.feeds.update((value.name, value) for value in self._view.outs[layer])
            return None
        shapes = [tuple(shape) for shape in layer.op.params(layer.param, bottoms)] if layer.op is not None else []
        run = make(self._spec(layer, bottoms, shapes))
        if shapes and layer.name in self._others:
            made = self._borrowed(layer, shapes)
        else:
            made = new_blobs(layer, shapes, self._generator)
            if made:
                with torch.no_grad():
                    run.start(made)
            made = [_laid_out(tensor) for tensor in made]
        self.params.add(layer, shapes, made)
        return run

    def _spec(self, layer: Layer, bottoms: Sequence[Shape], blobs: Sequence[Shape]) -> Spec:
        return Spec(layer.param, self._train, bottoms, blobs, self._generator, self._root)

    def _infer(self, layer: Layer, bottoms: list[Shape]) -> None:
        """The shapes of a layer's tops when the net is loaded."""
        if layer in self._sources:
            shapes: Sequence[Shape] = [tuple(shape) for shape in self._sources[layer].shapes]
        elif layer.op is None:
            raise EngineError(
                f'{layer.where}: layer "{layer.name}" has type {layer.type}, which Caffe 1.0 does not have'
            )
        elif layer.op.custom:
            shapes = []
            make(self._spec(layer, bottoms, ()))  # says why not
        else:
            known = [value.shape for value in self._view.outs[layer] if value.shape is not None]
            try:
                fed = layer.type in FED or layer.type in READ
                # What is read is fed here; the net may know its shapes from elsewhere.
                all_known = len(known) == len(layer.tops)
                shapes = known if fed and all_known else layer.op.shapes(layer.param, bottoms)
            except UnknownShape as error:
                if error.at_load is None:
                    raise EngineError(f"{layer.where}: {error}") from error
                shapes = error.at_load
        for value, shape in zip(self._view.outs[layer], shapes):
            self.shapes[value] = tuple(shape)

    def _borrowed(self, layer: Layer, shapes: Sequence[Shape]) -> list[torch.Tensor]:
        assert self._share is not None
        other = self._others[layer.name]
        if self._share.shapes[other] != list(shapes):
            raise EngineError(f'layer "{layer.name}" has other blobs in the test net than in the training net')
        return self._share.tensors[other]

    def _mark_learning(self, force: bool) -> None:
        if not (self._train or force):
            return
        for step in self.steps:
            for tensor, learns in zip(step.blobs, step.learns, strict=True):
                if learns:
                    tensor.requires_grad_(True)

    def _plan_memory(self, lowered: Mapping[Layer, Lowered]) -> None:
        """Which tensors are let go after which layer, and which may be written on."""
        last: dict[int, Step] = {}
        for step in self.steps:
            for number in (*step.ins, *step.outs):
                last[number] = step
            if step.ins and step.layer.in_place(0):
                producer = self._view.ins[step.layer][0].producer
                step.overwrite = producer is not None and producer in lowered and lowered[producer].fresh
        for number, step in last.items():
            step.done_with.append(number)


def _laid_out(tensor: torch.Tensor) -> torch.Tensor:
    """A 4-axis weight with its channels last, as the convolutions run fastest."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
