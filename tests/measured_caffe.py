"""Real Caffe with what tests alone ask of it: see `measuring_worker.py`, which this speaks with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deeprebirth_caffe.engines.caffe.client import CaffeWorker, Handle, _handle, _path

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


class MeasuringWorker(CaffeWorker):
    """A worker that can do more."""

    script = Path(__file__).with_name("measuring_worker.py")

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
