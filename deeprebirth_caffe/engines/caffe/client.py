"""What the worker can do, with types: load, forward, backward, train, time.

Real Caffe runs in a process of its own (`process.py`, `worker.py`); nothing that happens to it happens to us.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deeprebirth_caffe.engines.base import EngineError, TrainResult
from deeprebirth_caffe.engines.caffe.plain_files import plain_net, plain_weights
from deeprebirth_caffe.engines.caffe.process import WorkerProcess
from deeprebirth_caffe.engines.caffe.python_layers import check_call

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import Array, FloatArray


@dataclass(frozen=True)
class LoadedNet:
    """A net inside the worker.

    Attributes:
        handle: What the worker knows it by.
        path: The file it came from.
        layers: Name and type of each layer, in Caffe's order, inserted Split layers included.
        blobs: Shape of each blob, in Caffe's order, the copies that Splits make included.
        params: Shapes of each layer's parameters; layers without any are left out.
        inputs: Blobs without a producer, and those of Input layers.
        outputs: Blobs that nobody reads.
        bottoms: Blobs that each layer reads.
        tops: Blobs that each layer writes.
        copies: For each blob that an inserted Split makes, the blob it copies.
        shared: For each layer that uses another one's parameters: parameter index -> (owner, its index).
        memory_required_for_data: Caffe's own figure, in bytes; None where its log could not be read.
    """

    handle: int
    path: Path
    layers: tuple[tuple[str, str], ...]
    blobs: dict[str, tuple[int, ...]]
    params: dict[str, tuple[tuple[int, ...], ...]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    bottoms: dict[str, tuple[str, ...]]
    tops: dict[str, tuple[str, ...]]
    copies: dict[str, str] = field(default_factory=dict)
    shared: dict[str, dict[int, tuple[str, int]]] = field(default_factory=dict)
    memory_required_for_data: int | None = None


@dataclass(frozen=True)
class Gradients:
    """What a backward pass left behind: by blob, and by layer and parameter."""

    blobs: dict[str, FloatArray]
    params: dict[str, list[FloatArray]]


Handle = LoadedNet | int


class CaffeWorker(WorkerProcess):
    """A running pycaffe process; use it with `with`, so that it ends in any case.

    Nets are named by the LoadedNet that `load` gave (or its handle). It is not for several threads at once.
    """

    _entered = ""

    def call(
        self, op: str, arrays: Iterable[tuple[Any, Array]] = (), *, timeout: float | None = None, **kw: Any
    ) -> tuple[dict[str, Any], list[tuple[Any, Array]]]:
        """As the process does it; nothing that would run Python layers gets there unless the user allows them."""
        check_call(op, kw, self._entered)
        result = super().call(op, arrays, timeout=timeout, **kw)
        if op == "enter":
            self._entered = kw["cwd"]
        return result

    def info(self) -> dict[str, Any]:
        """Tells versions, the matrix library ("blas") and "layer_types".

        Of an OpenBLAS it tells the libraries, config, core, threads, and who chose the core: chosen_by ("user",
        "rebirth", "openblas"), and openblas_picks, where that was asked.
        """
        facts = self.call("info")[0]
        if "core" in facts["blas"]:
            facts["blas"].update(chosen_by=self.kernels.by, openblas_picks=self.kernels.own)
        return facts

    def schema(self) -> bytes:
        """Gives pycaffe's own caffe.proto as a serialized FileDescriptorProto."""
        return self.call("schema")[1][0][1].tobytes()

    def enter(self, directory: str | Path) -> None:
        """Goes to a directory for good: there start the paths inside nets whose data layers open files as they run."""
        self.call("enter", cwd=_path(directory))

    def load(
        self,
        net: str | Path,
        phase: str = "TEST",
        weights: str | Path | None = None,
        level: int = 0,
        stages: Sequence[str] = (),
        *,
        seed: int | None = None,
        cwd: str | Path | None = None,
        timeout: float | None = None,
    ) -> LoadedNet:
        """Loads a net.

        Args:
            net: The prototxt. Data layers need their sources, so it usually has Input layers instead.
            phase: "TEST" or "TRAIN".
            weights: A caffemodel; layers it does not name keep their fillers' values.
            level: NetState's level.
            stages: NetState's stages.
            seed: For the fillers; None: whatever Caffe picks.
            cwd: Where relative paths inside the net start; those given here start in our own directory.
            timeout: Seconds.
        """
        if phase not in ("TRAIN", "TEST"):
            raise EngineError(f"phase must be TRAIN or TEST, not {phase!r}")
        with tempfile.TemporaryDirectory(prefix="rebirth-caffe-") as folder:
            r, _ = self.call(
                "load",
                timeout=timeout,
                net=str(plain_net(Path(_path(net)), Path(folder))),
                phase=phase,
                weights=None if weights is None else str(plain_weights(Path(_path(weights)), Path(folder))),
                level=level,
                stages=list(stages),
                seed=seed,
                cwd=None if cwd is None else _path(cwd),
            )
        names = [name for name, _ in r["layers"]]
        return LoadedNet(
            handle=r["handle"],
            path=Path(net),
            layers=tuple((name, kind) for name, kind in r["layers"]),
            blobs={name: tuple(shape) for name, shape in r["blobs"]},
            params={name: tuple(tuple(s) for s in shapes) for name, shapes in r["params"]},
            inputs=tuple(r["inputs"]),
            outputs=tuple(r["outputs"]),
            bottoms={name: tuple(b) for name, b in zip(names, r["bottoms"], strict=True)},
            tops={name: tuple(t) for name, t in zip(names, r["tops"], strict=True)},
            copies=r["copies"],
            shared={n: {int(i): (o[0], o[1]) for i, o in by.items()} for n, by in r["shared"].items()},
            memory_required_for_data=r["memory"],
        )

    def close(self, net: Handle) -> None:
        """Frees a net; one that is gone already is no error."""
        if self.running:
            self.call("close", handle=_handle(net))

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

    def forward(
        self,
        net: Handle,
        inputs: Mapping[str, Array] | None = None,
        blobs: Sequence[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        *,
        timeout: float | None = None,
    ) -> dict[str, FloatArray]:
        """Runs the net forward.

        Args:
            net: The net.
            inputs: Values to set first, of any blob; a layer that writes the blob overwrites them.
            blobs: Which to give back; None: all but the copies that inserted Splits make. A blob that
                in-place layers work on has its final contents.
            start: First layer to run.
            end: Last layer to run.
            timeout: Seconds.
        """
        arrays = [(name, np.asarray(a)) for name, a in (inputs or {}).items()]
        names = None if blobs is None else list(blobs)
        _, out = self.call("forward", arrays, timeout=timeout, handle=_handle(net), blobs=names, start=start, end=end)
        return dict(out)

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

    def reshape(self, net: Handle, shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
        """Reshapes input blobs and everything behind them; gives the new shape of every blob."""
        wanted = {name: [int(d) for d in shape] for name, shape in shapes.items()}
        result, _ = self.call("reshape", handle=_handle(net), shapes=wanted)
        return {name: tuple(shape) for name, shape in result["blobs"]}

    def fill(self, net: Handle, seed: int = 0) -> list[str]:
        """Fills inputs with normal random values, and weights that are zero throughout with random ones.

        Labels become 0 and a BatchNorm's empty statistics mean 0, variance 1.

        Returns:
            The layers whose weights were filled.
        """
        return [str(name) for name in self.call("fill", handle=_handle(net), seed=seed)[0]["filled"]]

    def time(self, net: Handle, iterations: int = 10, warmup: int = 2, seed: int = 0) -> list[float]:
        """Times forward passes in ms, without the layers that read data, after `fill`: on real numbers."""
        result, _ = self.call("time", handle=_handle(net), iterations=iterations, warmup=warmup, seed=seed)
        return [float(ms) for ms in result["ms"]]

    def time_layers(
        self, net: Handle, iterations: int = 10, warmup: int = 2, seed: int = 0
    ) -> list[tuple[str, list[float]]]:
        """Like `time`, but layer by layer, in Caffe's order: name and the ms of each pass."""
        result, _ = self.call(
            "time", handle=_handle(net), iterations=iterations, warmup=warmup, seed=seed, per_layer=True
        )
        return [(name, [float(ms) for ms in row]) for name, row in result["layers"]]

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


def _handle(net: Handle) -> int:
    return net.handle if isinstance(net, LoadedNet) else net


def _path(path: str | Path) -> str:
    # The worker starts in our directory, but may be sent elsewhere by `cwd`.
    return str(Path(path).absolute())
