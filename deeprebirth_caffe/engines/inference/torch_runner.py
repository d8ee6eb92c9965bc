"""The embedded engine, PyTorch, as something that only infers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deeprebirth_caffe.engines.inference.base import LibraryRunner, write_sample
from deeprebirth_caffe.engines.libraries import need

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import FloatArray
    from deeprebirth_caffe.engines.prepare import Ready

EXTRA = "torch"


def convert(ready: Ready, folder: Path) -> dict[str, Any]:
    """Writes Caffe's files, which it reads as they are."""
    write_sample(ready, folder)
    ready.write(folder)
    return {}


def load(folder: Path, facts: dict[str, Any], threads: int | None) -> LibraryRunner:
    """Opens it."""
    return TorchRunner(folder, facts, threads)


class TorchRunner(LibraryRunner):
    """A TorchNet on the processor, without gradients."""

    engine = "torch"

    def __init__(self, folder: Path, facts: dict[str, Any], threads: int | None) -> None:
        from deeprebirth_caffe.engines.torch.engine import TorchEngine

        super().__init__(folder, facts, threads)
        self._torch = need("torch", EXTRA)
        if threads is not None:
            self._torch.set_num_threads(threads)
        self._engine = TorchEngine(threads=threads)
        self._net = self._engine.load(folder / "net.prototxt", folder / "net.caffemodel")
        self._found: dict[str, Any] = {}

    def _feed(self, inputs: Mapping[str, FloatArray]) -> None:
        self._net.feed(inputs)

    def _run(self) -> None:
        from deeprebirth_caffe.engines.torch.memory import freed_memory_kept

        with freed_memory_kept(), self._torch.no_grad():
            self._found = self._net.forward(keep=self.outputs)

    def _read(self) -> dict[str, FloatArray]:
        return {name: np.asarray(tensor.float().numpy(), dtype=np.float32) for name, tensor in self._found.items()}

    def layers(self, iterations: int) -> list[tuple[str, float]] | None:
        """Mean milliseconds of each layer; in-place layers count as their own."""
        total: defaultdict[str, float] = defaultdict(float)

        def add(name: str, seconds: float) -> None:
            total[name] += 1000 * seconds

        self._feed(self.sample)
        self._net.on_layer = add
        try:
            for _ in range(iterations):
                self._run()
        finally:
            self._net.on_layer = None
        return [(name, ms / iterations) for name, ms in total.items()]

    def describe(self) -> dict[str, object]:
        return {
            "engine": self.engine,
            "version": self._torch.__version__,
            "threads": self._torch.get_num_threads(),
        }

    def close(self) -> None:
        self._net.close()
