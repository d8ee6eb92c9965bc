"""What the worker can do with nets, with types: load, reshape, forward, time.

Real Caffe runs in a process of its own (`process.py`, `worker.py`); nothing that happens to it happens to us.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deeprebirth_caffe.engines.base import EngineError
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
        blobs: Shape of each blob, in Caffe's order, the copies that Splits make included.
        inputs: Blobs without a producer, and those of Input layers.
        outputs: Blobs that nobody reads.
    """

    handle: int
    blobs: dict[str, tuple[int, ...]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


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
        check_call(kw, self._entered)
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
            told, _ = self.call(
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
        return self._described(told)

    def _described(self, told: dict[str, Any]) -> LoadedNet:
        """What the worker tells of a net that it has loaded."""
        return LoadedNet(
            handle=told["handle"],
            blobs={name: tuple(shape) for name, shape in told["blobs"]},
            inputs=tuple(told["inputs"]),
            outputs=tuple(told["outputs"]),
        )

    def close(self, net: Handle) -> None:
        """Frees a net; one that is gone already is no error."""
        if self.running:
            self.call("close", handle=_handle(net))

    def forward(
        self,
        net: Handle,
        inputs: Mapping[str, Array] | None = None,
        blobs: Sequence[str] | None = None,
        *,
        timeout: float | None = None,
    ) -> dict[str, FloatArray]:
        """Runs the net forward.

        Args:
            net: The net.
            inputs: Values to set first, of any blob; a layer that writes the blob overwrites them.
            blobs: Which to give back; None: all but the copies that inserted Splits make. A blob that
                in-place layers work on has its final contents.
            timeout: Seconds.
        """
        arrays = [(name, np.asarray(a)) for name, a in (inputs or {}).items()]
        names = None if blobs is None else list(blobs)
        return dict(self.call("forward", arrays, timeout=timeout, handle=_handle(net), blobs=names)[1])

    def reshape(self, net: Handle, shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
        """Reshapes input blobs and everything behind them; gives the new shape of every blob."""
        wanted = {name: [int(d) for d in shape] for name, shape in shapes.items()}
        result, _ = self.call("reshape", handle=_handle(net), shapes=wanted)
        return {name: tuple(shape) for name, shape in result["blobs"]}

    def time(self, net: Handle, iterations: int = 10, warmup: int = 2) -> list[float]:
        """Times forward passes in ms, without the layers that read data.

        They work on real numbers: inputs and weights that are zero throughout become random, labels 0, and a
        BatchNorm's empty statistics mean 0, variance 1.
        """
        result, _ = self.call("time", handle=_handle(net), iterations=iterations, warmup=warmup)
        return [float(ms) for ms in result["ms"]]

    def time_layers(self, net: Handle, iterations: int = 10, warmup: int = 2) -> list[tuple[str, list[float]]]:
        """Like `time`, but layer by layer, in Caffe's order: name and the ms of each pass."""
        result, _ = self.call("time", handle=_handle(net), iterations=iterations, warmup=warmup, per_layer=True)
        return [(name, [float(ms) for ms in row]) for name, row in result["layers"]]


def _handle(net: Handle) -> int:
    return net.handle if isinstance(net, LoadedNet) else net


def _path(path: str | Path) -> str:
    # The worker starts in our directory, but may be sent elsewhere by `cwd`.
    return str(Path(path).absolute())
