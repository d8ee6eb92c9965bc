"""What the engines that are libraries in this process share."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.ops import Shape

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import Array, FloatArray
    from deeprebirth_caffe.engines.prepare import Ready

SAMPLE = "sample.npz"
"""Random inputs, in the order of the net's inputs: what passes are timed on."""


def write_sample(ready: Ready, folder: Path) -> None:
    """Writes the inputs that `time` runs on."""
    from deeprebirth_caffe.engines.prepare import random_inputs

    given = random_inputs(ready)
    # By number: a blob's name need not be a file's.
    np.savez(folder / SAMPLE, *(given[name] for name in ready.inputs))


class LibraryRunner(ABC):
    """A runner of which an engine's module only says how to feed, run and read."""

    engine: str

    def __init__(self, folder: Path, facts: dict[str, Any], threads: int | None) -> None:
        self.inputs: dict[str, Shape] = {name: tuple(shape) for name, shape in facts["inputs"].items()}
        self.shapes: dict[str, Shape] = {name: tuple(shape) for name, shape in facts["outputs"].items()}
        self.outputs = list(self.shapes)
        self.threads = threads
        with np.load(folder / SAMPLE) as sample:
            self.sample: dict[str, FloatArray] = dict(zip(self.inputs, sample.values(), strict=True))

    @abstractmethod
    def _feed(self, inputs: Mapping[str, FloatArray]) -> None:
        """Sets all inputs."""

    @abstractmethod
    def _run(self) -> None:
        """One forward pass on what was fed last."""

    @abstractmethod
    def _read(self) -> dict[str, FloatArray]:
        """What the last pass put out."""

    def forward(self, inputs: Mapping[str, Array]) -> dict[str, FloatArray]:
        """Runs the net once.

        Raises:
            EngineError: an input is missing or has another shape, or the engine gave back something else than outputs.
        """
        given: dict[str, FloatArray] = {}
        for name, shape in self.inputs.items():
            if name not in inputs:
                raise EngineError(f'{self.engine}: the net\'s input "{name}" was not given')
            given[name] = np.ascontiguousarray(inputs[name], dtype=np.float32)
            if given[name].shape != shape:
                raise EngineError(f'{self.engine}: input "{name}" is {given[name].shape}, the net takes {shape}')
        self._feed(given)
        self._run()
        found = self._read()
        result: dict[str, FloatArray] = {}
        for name, shape in self.shapes.items():
            array = np.array(found[name], dtype=np.float32)
            # Engines drop and add axes of length 1; another number of elements is another result.
            if array.size != int(np.prod(shape)):
                raise EngineError(f'{self.engine}: output "{name}" is {array.shape}, in Caffe it is {shape}')
            result[name] = array.reshape(shape)
        return result

    def time(self, iterations: int, warmup: int = 2) -> list[float]:
        """Milliseconds of each pass on seeded random input; feeding it is not counted, as in Caffe."""
        self._feed(self.sample)
        for _ in range(warmup):
            self._run()
        found = []
        for _ in range(iterations):
            begin = time.perf_counter()
            self._run()
            found.append((time.perf_counter() - begin) * 1000)
        return found

    def layers(self, iterations: int) -> list[tuple[str, float]] | None:
        """Mean milliseconds of each layer; None where the engine does not say."""
        return None

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """Version, threads, and whatever else decides its speed."""

    @abstractmethod
    def close(self) -> None:
        """Frees what it holds."""
