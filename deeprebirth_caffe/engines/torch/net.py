"""A net that runs: the view's layers in order on PyTorch tensors, with Caffe's rules for losses and gradients."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.engines.torch.build import FED, READ, Builder, Step, open_sources
from deeprebirth_caffe.engines.torch.frozen import Budget, FrozenCache, Turn
from deeprebirth_caffe.engines.torch.layers.base import Lowered
from deeprebirth_caffe.engines.torch.params import Learnable, Parameters
from deeprebirth_caffe.engines.torch.still import moved_blobs
from deeprebirth_caffe.ir import Layer, Net, NetState, Value, View, Weights
from deeprebirth_caffe.ops import Shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deeprebirth_caffe.data import DataLayer

__all__ = ["AUTOMATIC", "FED", "READ", "TorchNet"]

Given = Mapping[str, "NDArray[Any] | torch.Tensor"]

AUTOMATIC = "(automatic)"
"""What Caffe calls a loss that has no top of its own."""


class TorchNet:
    """One net in one state.

    Attributes:
        view: its layers.
        inputs: the blobs that the caller feeds; one that is never given is zero, one not given again stays.
        outputs: the blobs that nobody reads, by name as in Caffe.
        images: how many records a forward pass takes; 0 where there is no data layer.
        blobs_of: each layer's learnable blobs; a tensor that layers share is the same object.
        learnable: each learnable tensor once.
        loss: the weighted total of the last forward pass.
        batch: the data of the last forward pass, by blob: what was fed, read from files or made up.
        on_layer: where set, is told each layer's name and seconds as it has run (on a GPU, only as it was started).
        frozen: what it keeps of values that never change; None: nothing.
    """

    def __init__(
        self,
        net: Net,
        state: NetState,
        *,
        device: str | torch.device = "cpu",
        precision: str = "fp32",
        seed: int | None = None,
        share: TorchNet | None = None,
        root: Path | str = ".",
        sources: bool = True,
        data_seed: int | None = None,
        entries: Collection[str] = (),
        cache: Budget | None = None,
        learns: bool = True,
    ) -> None:
        """Builds the layers, and fills what they learn.

        Args:
            net: the file.
            state: phase, level and stages; the net's own stages are added.
            device: PyTorch's name of it.
            precision: fp32, or bf16: matrix products in bfloat16, weights in float32.
            seed: of fillers, Dropout and the like; None: any.
            share: layers called like one of this net's use its blobs (a test net).
            root: where relative paths in layers start.
            sources: whether the net reads its own data; otherwise data layers are fed like inputs.
            data_seed: of shuffling, cropping and mirroring; None: as `seed`.
            entries: blobs where gradients will enter besides the losses (`backward`); what is below them learns,
                whether a loss stands behind them or not.
            cache: memory for values that never change (`frozen.FrozenCache`); None: none. What the net computes is
                the same to the bit.
            learns: whether blobs with an lr_mult above 0 may change otherwise than by `load` (a teacher's do not).

        Raises:
            EngineError: a layer cannot be run, or an entry is no blob of the net.
            NetError: the net is not sound.
        """
        self.device = torch.device(device)
        self._half = precision == "bf16"
        self.generator = torch.Generator(self.device)
        if seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(seed & (2**63 - 1))
        self.name = net.header.name
        own = frozenset(net.header.state.stage)
        self.view = View(NetState(state.phase, state.level, state.stages | own), net.header, net.layers, net.data)
        self.train = state.phase == "TRAIN"
        self._force = net.header.force_backward
        self._sources: dict[Layer, DataLayer] = {}
        self.frozen: FrozenCache | None = None
        if sources:
            picked = data_seed if data_seed is not None else self.generator.initial_seed() % 2**31
            self._sources = open_sources(self.view, Path(root), picked)
        try:
            borrowed = share.params if share is not None else None
            doors = self._doors(entries)
            built = Builder(
                self.view, self._sources, self.generator, Path(root), borrowed, force=self._force, entries=doors
            )
        except BaseException:
            self.close()
            raise
        self.params: Parameters = built.params
        self.images = built.images
        self._number, self._shapes = built.number, built.shapes
        self._names = {number: value.name for value, number in self._number.items()}
        self._steps, self._feeds, self._reached = built.steps, built.feeds, built.reached
        self.inputs = list(self._feeds)
        self._copies = {_copy_name(value): value for value in self.view.values if _is_read_loss(value)}
        self.outputs = sorted({*(value.name for value in self.view.outputs), *self._copies})
        self.blobs_of = {layer.name: tensors for layer, tensors in self.params.tensors.items() if tensors}
        self.learnable: list[Learnable] = self.params.learnable
        self.loss = torch.zeros((), device=self.device)
        self.batch: dict[str, torch.Tensor] = {}
        self._fed: dict[str, torch.Tensor] = {}
        self._roots: list[tuple[torch.Tensor, float]] = []
        self._last: dict[int, torch.Tensor] = {}
        self._outs: dict[str, torch.Tensor] = {}
        self.on_layer: Callable[[str, float], None] | None = None
        if cache is not None:
            data = {*self._feeds.values(), *(value for layer in self._sources for value in self.view.outs[layer])}
            numbers = [self._number[value] for value in data]
            self.frozen = FrozenCache(cache, self._steps, numbers, self._moved(share) if learns else (), self.train)

    # Running.

    def forward(
        self,
        inputs: Given | None = None,
        keep: Collection[str] | None = None,
        *,
        retain: bool = False,
    ) -> dict[str, torch.Tensor]:
        """Runs the net on the data at hand.

        Args:
            inputs: values of blobs that the caller feeds, from now on; their shapes may differ from the file's as far
                as the layers allow.
            keep: blobs to give back, as they are at the end; None: the outputs.
            retain: keep everything, and work out gradients that serve nothing but being looked at, so that `blob_diff`
                can tell any blob's; costs memory.

        Raises:
            EngineError: a blob does not exist, or a layer failed.
        """
        wanted = self._numbers(self.outputs if keep is None else keep)
        held = set(wanted.values())
        values: dict[int, torch.Tensor] = {}
        self._roots, self._last = [], {}
        total = torch.zeros((), device=self.device)
        self.feed(inputs or {})
        self._feed(values)
        self._read(values)
        self.batch = {self._names[number]: tensor for number, tensor in values.items()}
        kept = {number: values[number] for number in held if number in values}
        turn = None if retain else self._turn(values, held)
        with torch.set_grad_enabled(self.train or self._force):
            if retain:
                values = {number: self._with_gradient(number, tensor) for number, tensor in values.items()}
            for step in self._steps:
                passed = turn is not None and turn.passes(step)
                if turn is not None and passed:
                    values.update(turn.recall(step))
                tops = () if passed else self._run(step, values, retain)
                if not step.ins:
                    self.batch.update(zip(step.layer.tops, tops))
                for number, top, weight in zip((*step.outs, *step.nameless), tops, step.weights):
                    tensor = values[number] = self._with_gradient(number, top) if retain else top
                    if turn is not None:
                        turn.note(number, tensor)
                    if weight:
                        total += weight * tensor.detach().float().sum()
                        if tensor.requires_grad:
                            self._roots.append((tensor, weight))
                if retain:
                    continue
                for number in step.done_with:
                    if number in values:  # else nobody needed it
                        if number in held:
                            kept[number] = values[number]
                        del values[number]
                for number in step.nameless:
                    tensor = values.pop(number)
                    if number in held:
                        kept[number] = tensor
        if turn is not None:
            turn.end()
        if retain:
            self._last = dict(values)
            kept = {number: values[number] for number in held}
        self.loss = total
        outs = {name: kept[number] for name, number in wanted.items()}
        self._outs = {name: tensor for name, tensor in outs.items() if tensor.requires_grad}
        return {name: tensor.detach() for name, tensor in outs.items()}

    def _turn(self, values: dict[int, torch.Tensor], held: Collection[int]) -> Turn | None:
        """What is known of the batch at hand, and may be passed over; a net whose layers are timed runs them all."""
        if self.frozen is None or self.on_layer is not None:
            return None
        turn = self.frozen.begin(values, held, lambda step, some: self._run(step, some, False))
        for source in list(self._sources.values())[:1]:
            self.frozen.seen(source.keys)
        return turn

    def _moved(self, share: TorchNet | None) -> set[int]:
        """`id` of each blob that this net's training changes, or that of the net whose blobs it shares."""
        nets = [self] if share is None else [self, share]
        return {
            blob
            for net in nets
            for blob in moved_blobs(net._steps, {id(one.tensor): one.lr_mult for one in net.learnable})
        }

    def _with_gradient(self, number: int, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor that keeps its gradient, if anything hands one down to it."""
        if not tensor.requires_grad and number in self._reached:
            tensor = tensor.detach().requires_grad_(True)
        if tensor.requires_grad:
            tensor.retain_grad()
        return tensor

    def _run(self, step: Step, values: dict[int, torch.Tensor], retain: bool) -> Sequence[torch.Tensor]:
        run = step.lowered
        bottoms = [
            values[number] if hands_down else values[number].detach()
            for number, hands_down in zip(step.ins, step.hands_down, strict=True)
        ]
        blobs = [tensor if learns else tensor.detach() for tensor, learns in zip(step.blobs, step.learns, strict=True)]
        blobs = [
            tensor if tensor.shape == shape else tensor.reshape(shape)
            for tensor, shape in zip(blobs, step.shapes, strict=True)
        ]
        run.overwrite = step.overwrite and not retain
        if self._half and not run.half:
            bottoms = [bottom.float() for bottom in bottoms]
        begin = time.perf_counter() if self.on_layer is not None else 0.0
        try:
            with self._precision(run):
                tops = run.forward(bottoms, blobs)
        except RuntimeError as error:
            what = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise EngineError(f'layer "{step.layer.name}" ({step.layer.type}) failed in PyTorch: {what}') from error
        if self.on_layer is not None:
            self.on_layer(step.layer.name, time.perf_counter() - begin)
        if retain:
            # Each value needs a tensor of its own for its own gradient.
            known = {id(tensor) for tensor in bottoms}
            own: list[torch.Tensor] = []
            for top in tops:
                own.append(top.view_as(top) if id(top) in known else top)
                known.add(id(top))
            return own
        return tops

    def _precision(self, run: Lowered) -> Any:
        if not self._half:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=run.half, cache_enabled=False)

    def _doors(self, names: Collection[str]) -> list[Value]:
        found = {name: self.view.blob(name) for name in names}
        missing = [name for name, value in found.items() if value is None]
        if missing:
            raise EngineError(f"no gradient can enter at blob {missing[0]!r}: the net does not have it")
        return [value for value in found.values() if value is not None]

    def learns_below(self, name: str) -> bool:
        """Whether a blob of the last forward pass, which was kept, hands gradients to something that learns."""
        return name in self._outs

    def _numbers(self, names: Collection[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for name in names:
            value = self.view.blob(name) or self._copies.get(name)
            if value is not None:
                found[name] = self._number[value]
            elif name == AUTOMATIC and any(step.nameless for step in self._steps):
                found[name] = [step.nameless[-1] for step in self._steps if step.nameless][-1]
            else:
                known = list(self.view.blobs)
                some = ", ".join(known[:8]) + (f", ... ({len(known)} in all)" if len(known) > 8 else "")
                raise EngineError(f"the net has no blob {name!r}; it has {some}")
        return found

    @property
    def blobs(self) -> list[str]:
        """The names of all blobs, as pycaffe lists them, but for the copies that Caffe's own Splits make."""
        names = list(dict.fromkeys(value.name for value in self.view.values))
        return names + [AUTOMATIC] * any(step.nameless for step in self._steps)

    def shape_of(self, name: str) -> Shape:
        """The shape that a blob had when the net was built."""
        value = self.view.blob(name)
        if value is None:
            raise EngineError(f"the net has no blob {name!r}")
        return self._shapes[value]

    def feed(self, inputs: Given) -> None:
        """Sets inputs for all passes to come."""
        for name, array in inputs.items():
            if name not in self._feeds:
                raise EngineError(f"blob {name!r} is no input; this net takes {', '.join(self._feeds) or 'none'}")
            self._fed[name] = self._given(array).detach().to(self.device, torch.float32)

    def _feed(self, values: dict[int, torch.Tensor]) -> None:
        for name, value in self._feeds.items():
            if name not in self._fed:
                self._fed[name] = torch.zeros(self._shapes[value], device=self.device)
            tensor = self._fed[name]
            values[self._number[value]] = tensor.view_as(tensor)

    def _read(self, values: dict[int, torch.Tensor]) -> None:
        for layer, source in self._sources.items():
            for value, array in zip(self.view.outs[layer], source.next()):
                values[self._number[value]] = self._tensor(array)

    def _given(self, array: NDArray[Any] | torch.Tensor) -> torch.Tensor:
        return array if isinstance(array, torch.Tensor) else self._tensor(np.asarray(array))

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        ready = np.require(array, dtype=np.float32, requirements=["C", "W"])
        return torch.from_numpy(ready).to(self.device)

    # Gradients.

    def backward(self, diffs: Given | None = None, scale: float = 1.0) -> None:
        """Adds to each learnable tensor's `.grad`, from the losses' weights down.

        Args:
            diffs: where gradients enter besides, by blob: one that was kept. Where other layers read it as well, theirs
                add up with it. For a blob with layers in place it is the gradient of what the last of them left.
            scale: what the net's own losses count; with 0 their gradients are not worked out.

        Raises:
            EngineError: such a blob was not kept.
        """
        roots = self._roots if scale else []
        starts = [tensor for tensor, _ in roots]
        grads = [torch.full_like(tensor, weight * scale) for tensor, weight in roots]
        for name, array in (diffs or {}).items():
            if name not in self._outs:
                raise EngineError(
                    f"no gradient can enter at blob {name!r}: keep it, and see that something below learns"
                )
            starts.append(self._outs[name])
            grads.append(self._given(array).to(self._outs[name].dtype))
        self._roots, self._outs = [], {}
        if starts:
            torch.autograd.backward(starts, grads)

    def blob_diff(self, name: str) -> torch.Tensor:
        """A blob's gradient after `forward(retain=True)` and `backward`, as Caffe leaves it: zero where none came.

        Where layers work in place that is the gradient of what they found, not of what they left.
        """
        final = self._numbers([name])[name]
        for number in (*(self._number[value] for value in self.view.values if value.name == name), final):
            grad = self._last[number].grad
            if grad is not None:
                return grad
        return torch.zeros_like(self._last[final])

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        for each in self.learnable:
            each.tensor.grad = None

    # Weights and state.

    def load(self, weights: Weights) -> None:
        """Copies weights by layer name, as Caffe does.

        Raises:
            EngineError: a layer's blobs are others in number or shape.
        """
        self.params.load(weights)
        if self.frozen is not None:
            self.frozen.clear()

    def export(self) -> tuple[str, list[tuple[str, str, list[NDArray[np.float32]]]]]:
        """The net's name, and every layer's name, type and blobs, for `formats.caffemodel.write_caffemodel`."""
        tensors = self.params.tensors
        return self.name, [
            (layer.name, layer.type, self.params.arrays(layer) if layer in tensors else [])
            for layer in self.view.layers
        ]

    def state(self) -> dict[str, Any]:
        """Where its random numbers, its data and what layers carry from batch to batch stand, for JSON."""
        return {
            "generator": _encoded(self.generator.get_state()),
            "data": {layer.name: source.state() for layer, source in self._sources.items()},
            "carried": {
                step.layer.name: [[*tensor.shape, _encoded(tensor)] for tensor in step.lowered.carried]
                for step in self._steps
                if step.lowered.carried
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from `state`."""
        self.generator.set_state(_decoded(state["generator"], np.uint8))
        for step in self._steps:
            carried = state.get("carried", {}).get(step.layer.name, [])
            step.lowered.carried = [
                _decoded(text, np.float32).reshape(shape).to(self.device) for *shape, text in carried
            ]
        for layer, source in self._sources.items():
            if layer.name in state["data"]:
                source.restore(state["data"][layer.name])

    @property
    def sources(self) -> dict[str, DataLayer]:
        """The data layers that the net reads itself, by name."""
        return {layer.name: source for layer, source in self._sources.items()}

    def close(self) -> None:
        """Closes the data sources."""
        for source in self._sources.values():
            source.close()
        self._sources = {}
        if self.frozen is not None:
            self.frozen.clear()


def _is_read_loss(value: Value) -> bool:
    return value.copies > len(value.uses)


def _copy_name(value: Value) -> str:
    """The output that Caffe makes of a loss that is read besides: its Split's first top, which nobody else reads."""
    producer = value.producer.name if value.producer is not None else "input"
    return f"{value.name}_{producer}_{value.index}_split_0"


def _encoded(tensor: torch.Tensor) -> str:
    return base64.b64encode(tensor.cpu().contiguous().numpy().tobytes()).decode("ascii")


def _decoded(text: str, kind: type[np.generic]) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype=kind).copy())
