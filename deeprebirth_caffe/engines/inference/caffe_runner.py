"""Real Caffe, in the worker process that everything else uses too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.ops import Shape

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import Array, FloatArray
    from deeprebirth_caffe.engines.prepare import Ready


def convert(ready: Ready, folder: Path) -> dict[str, Any]:
    """Writes the net and its weights."""
    ready.write(folder)
    return {}


def load(
    folder: Path, facts: dict[str, Any], threads: int | None, *, caffe: str | None = None, timeout: float | None = None
) -> CaffeRunner:
    """Starts Caffe on it."""
    return CaffeRunner(folder, facts, threads, caffe, timeout)


class CaffeRunner:
    """One net in a CaffeWorker."""

    engine = "caffe"

    def __init__(
        self, folder: Path, facts: dict[str, Any], threads: int | None, caffe: str | None, timeout: float | None
    ) -> None:
        from deeprebirth_caffe.engines.caffe.client import CaffeWorker

        self.inputs: dict[str, Shape] = {name: tuple(shape) for name, shape in facts["inputs"].items()}
        self.outputs = list(facts["outputs"])
        self._worker = CaffeWorker(caffe, threads=threads, timeout=timeout)
        self._worker.start()
        try:
            self._net = self._worker.load(folder / "net.prototxt", weights=folder / "net.caffemodel")
        except BaseException:
            self._worker.stop()
            raise

    @property
    def pid(self) -> int | None:
        """The worker's process."""
        return self._worker.pid

    def forward(self, inputs: Mapping[str, Array]) -> dict[str, FloatArray]:
        for name in self.inputs:
            if name not in inputs:
                raise EngineError(f'caffe: the net\'s input "{name}" was not given')
        return self._worker.forward(self._net, inputs, self.outputs)

    def time(self, iterations: int, warmup: int = 2) -> list[float]:
        return self._worker.time(self._net, iterations, warmup)

    def layers(self, iterations: int) -> list[tuple[str, float]] | None:
        return [(name, fmean(row)) for name, row in self._worker.time_layers(self._net, iterations)]

    def describe(self) -> dict[str, object]:
        facts: dict[str, object] = dict(self._worker.info())
        for name in ("pid", "layer_types"):
            facts.pop(name, None)
        blas = facts.get("blas")
        threads = blas.get("threads") if isinstance(blas, dict) else None
        return {"engine": self.engine, "version": facts.pop("caffe", ""), "threads": threads, **facts}

    def close(self) -> None:
        self._worker.stop()
