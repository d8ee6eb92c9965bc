"""Real Caffe with what tests alone ask of it: see `measuring_worker.py`, which this speaks with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deeprebirth_caffe.engines.caffe.client import CaffeWorker, Handle, LoadedNet, _handle, _path

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import Array, FloatArray


@dataclass(frozen=True)
class TrainResult:
    """What a training run showed.

    Attributes:
        losses: The weighted total loss of each iteration.
        outputs: For each watched blob, its mean in each iteration.
        learning_rate: The solver's rate in the first iteration.
        rates: Where measured: for each layer and parameter, the step of the first iteration divided by
            gradient and learning rate. That is `lr_mult`, read off what the solver did rather than off its
            text. 0 where the parameter did not move, None where it moved without a gradient (decay alone).
        decays: Where measured: likewise `decay_mult` times the weight decay.
    """

    losses: tuple[float, ...]
    outputs: Mapping[str, tuple[float, ...]]
    learning_rate: float
    rates: Mapping[str, tuple[float | None, ...]]
    decays: Mapping[str, tuple[float | None, ...]]


@dataclass(frozen=True)
class Gradients:
    """What a backward pass left behind: by blob, and by layer and parameter."""

    blobs: dict[str, FloatArray]
    params: dict[str, list[FloatArray]]


@dataclass(frozen=True)
class DescribedNet(LoadedNet):
    """A net inside the worker, with all that Caffe tells.

    Attributes:
        layers: Name and type of each layer, in Caffe's order, inserted Split layers included.
        params: Shapes of each layer's parameters; layers without any are left out.
        bottoms: Blobs that each layer reads.
        tops: Blobs that each layer writes.
        copies: For each blob that an inserted Split makes, the blob it copies.
        shared: For each layer that uses another one's parameters: parameter index -> (owner, its index).
        memory_required_for_data: Caffe's own figure, in bytes; None where its log could not be read.
    """

    layers: tuple[tuple[str, str], ...]
    params: dict[str, tuple[tuple[int, ...], ...]]
    bottoms: dict[str, tuple[str, ...]]
    tops: dict[str, tuple[str, ...]]
    copies: dict[str, str]
    shared: dict[str, dict[int, tuple[str, int]]]
    memory_required_for_data: int | None


class MeasuringWorker(CaffeWorker):
    """A worker that can do more.

    Attributes:
        respawn: Whether a call starts a new process where the last one has died. Its nets are gone.
    """

    script = Path(__file__).with_name("measuring_worker.py")

    def __init__(self, *args: Any, respawn: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        self.respawn = respawn

    def call(self, *args: Any, **options: Any) -> Any:
        """Starts the process anew where need be."""
        if self.respawn and self._process is None:
            self.start()
        return super().call(*args, **options)

    def _described(self, told: dict[str, Any]) -> DescribedNet:
        names = [name for name, _ in told["layers"]]
        return DescribedNet(
            **vars(super()._described(told)),
            layers=tuple((name, kind) for name, kind in told["layers"]),
            params={name: tuple(tuple(shape) for shape in shapes) for name, shapes in told["params"]},
            bottoms={name: tuple(blobs) for name, blobs in zip(names, told["bottoms"], strict=True)},
            tops={name: tuple(blobs) for name, blobs in zip(names, told["tops"], strict=True)},
            copies=told["copies"],
            shared={n: {int(i): (o[0], o[1]) for i, o in by.items()} for n, by in told["shared"].items()},
            memory_required_for_data=told["memory"],
        )

    def schema(self) -> bytes:
        """Gives pycaffe's own caffe.proto as a serialized FileDescriptorProto."""
        return self.call("schema")[1][0][1].tobytes()

    def set_params(self, net: Handle, params: Mapping[str, Sequence[Array]]) -> None:
        """Sets all parameters of the layers named; each count and shape must agree, or nothing is written."""
        arrays = [((name, i), np.asarray(a)) for name, values in params.items() for i, a in enumerate(values)]
        self.call("set_params", arrays, handle=_handle(net))

    def get_params(self, net: Handle, layers: Sequence[str] | None = None) -> dict[str, list[FloatArray]]:
        """Gives the parameters of the layers named (None: of all that have any)."""
        _, arrays = self.call("get_params", handle=_handle(net), layers=None if layers is None else list(layers))
        found: dict[str, list[FloatArray]] = {}
        for (name, _), array in arrays:
            found.setdefault(name, []).append(array)  # type: ignore[arg-type]
        return found

    def save(self, net: Handle, path: str | Path) -> None:
        """Writes the net as Caffe itself does (caffemodel)."""
        self.call("save", handle=_handle(net), path=_path(path))

    def backward(
        self, net: Handle, diffs: Mapping[str, Array] | None = None, blobs: Sequence[str] | None = None
    ) -> Gradients:
        """Runs the whole net backward after a forward pass.

        Losses start from their weights, the blobs in `diffs` from what is given, everything else from zero.
        Caffe skips what needs no gradient: an input has one only where the net says `force_backward: true`.

        Args:
            net: The net.
            diffs: Where gradients enter, by blob.
            blobs: Whose gradients to give back; None: all. Those of the parameters always come.
        """
        arrays = [(name, np.asarray(a)) for name, a in (diffs or {}).items()]
        names = None if blobs is None else list(blobs)
        _, out = self.call("backward", arrays, handle=_handle(net), blobs=names)
        by_blob: dict[str, FloatArray] = {}
        by_layer: dict[str, list[FloatArray]] = {}
        for (kind, name, _), array in out:
            if kind == "blob":
                by_blob[name] = array  # type: ignore[assignment]
            else:
                by_layer.setdefault(name, []).append(array)  # type: ignore[arg-type]
        return Gradients(blobs=by_blob, params=by_layer)

    def train(
        self,
        solver: str | Path,
        iterations: int,
        weights: str | Path | None = None,
        watch: Sequence[str] | None = None,
        *,
        seed: int | None = None,
        rates: bool = False,
        save: str | Path | None = None,
        cwd: str | Path | None = None,
        timeout: float | None = None,
    ) -> TrainResult:
        """Trains with Caffe's own solver.

        Args:
            solver: The solver's prototxt.
            iterations: Steps.
            weights: A caffemodel to start from.
            watch: Blobs of the training net to record; None: its outputs.
            seed: For fillers and data; None: whatever Caffe picks.
            rates: Whether to measure what lr_mult and weight decay each parameter really gets (plain SGD, and
                neither clip_gradients nor iter_size).
            save: Where to write the trained weights.
            cwd: Where relative paths inside the solver and the net start.
            timeout: Seconds.
        """
        r, _ = self.call(
            "train",
            timeout=timeout,
            solver=_path(solver),
            iterations=iterations,
            weights=None if weights is None else _path(weights),
            watch=None if watch is None else list(watch),
            seed=seed,
            rates=rates,
            save=None if save is None else _path(save),
            cwd=None if cwd is None else _path(cwd),
        )
        return TrainResult(
            losses=tuple(r["losses"]),
            outputs={name: tuple(values) for name, values in r["outputs"].items()},
            learning_rate=float(r["rate"] or 0.0),
            rates={name: tuple(values) for name, values in r["rates"].items()},
            decays={name: tuple(values) for name, values in r["decays"].items()},
        )
