"""OpenCV's DNN module. OpenCV 4 reads Caffe files itself; OpenCV 5 cannot any more, so it gets our ONNX export."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.engines.inference.base import LibraryRunner, write_sample
from deeprebirth_caffe.engines.libraries import need

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import FloatArray
    from deeprebirth_caffe.engines.prepare import Ready

EXTRA = "opencv"
MODEL = "net.onnx"


def convert(ready: Ready, folder: Path) -> dict[str, Any]:
    """Writes Caffe's files for OpenCV 4, net.onnx for OpenCV 5."""
    write_sample(ready, folder)
    if hasattr(need("cv2", EXTRA).dnn, "readNetFromCaffe"):
        ready.write(folder)
        tops: dict[str, tuple[str, int]] = {}
        for value in ready.view.results:
            if value.name in ready.outputs and value.producer is not None:
                tops[value.name] = value.producer.name, value.index
        return {"reads": "caffe", "tops": tops}
    from deeprebirth_caffe.engines.inference.onnx_runner import write_onnx

    return {"reads": "onnx", "tops": {blob: (name, 0) for blob, name in write_onnx(ready, folder / MODEL).items()}}


def load(folder: Path, facts: dict[str, Any], threads: int | None) -> LibraryRunner:
    """Opens it."""
    return OpenCvRunner(folder, facts, threads)


class OpenCvRunner(LibraryRunner):
    """A cv2.dnn.Net on the processor."""

    engine = "opencv"

    def __init__(self, folder: Path, facts: dict[str, Any], threads: int | None) -> None:
        super().__init__(folder, facts, threads)
        self._cv2 = need("cv2", EXTRA)
        if threads is not None:
            self._cv2.setNumThreads(threads)
        self._reads = facts["reads"]
        self._tops = {blob: (str(layer), int(index)) for blob, (layer, index) in facts["tops"].items()}
        self._wanted = list(dict.fromkeys(self._tops[blob][0] for blob in self.outputs))
        try:
            self._net = self._open(folder)
        except self._cv2.error as error:
            raise self._failed("read", error) from error
        self._found: dict[str, list[FloatArray]] = {}

    def _open(self, folder: Path) -> Any:
        if self._reads == "caffe":
            net = self._cv2.dnn.readNetFromCaffe(str(folder / "net.prototxt"), str(folder / "net.caffemodel"))
            net.setPreferableBackend(self._cv2.dnn.DNN_BACKEND_OPENCV)
            net.setPreferableTarget(self._cv2.dnn.DNN_TARGET_CPU)
            return net
        return self._cv2.dnn.readNetFromONNX(str(folder / MODEL))

    def _failed(self, what: str, error: Exception) -> EngineError:
        return EngineError(f"opencv cannot {what} the net: {' '.join(str(error).split())}")

    def _feed(self, inputs: Mapping[str, FloatArray]) -> None:
        for name, array in inputs.items():
            self._net.setInput(array, name)

    def _run(self) -> None:
        try:
            if self._reads == "caffe":
                found = self._net.forwardAndRetrieve(self._wanted)
            else:
                found = [[array] for array in self._net.forward(self._wanted)]
        except self._cv2.error as error:
            raise self._failed("run", error) from error
        self._found = dict(zip(self._wanted, found, strict=True))

    def _read(self) -> dict[str, FloatArray]:
        found = {}
        for blob, (layer, index) in self._tops.items():
            if index >= len(self._found[layer]):
                raise EngineError(f'opencv does not give output {index} of layer "{layer}"')
            found[blob] = np.asarray(self._found[layer][index])
        return found

    def layers(self, iterations: int) -> list[tuple[str, float]] | None:
        """By layer; what was fused into the one before it shows no time of its own."""
        names = self._net.getLayerNames()
        self._feed(self.sample)
        total = np.zeros(len(names))
        for _ in range(iterations):
            self._run()
            _, ticks = self._net.getPerfProfile()
            ticks = np.asarray(ticks, np.float64).reshape(-1)
            if len(ticks) != len(names):
                return None
            total += ticks
        rows = zip(names, 1000 * total / self._cv2.getTickFrequency() / iterations, strict=True)
        return [(str(name), float(ms)) for name, ms in rows]

    def describe(self) -> dict[str, object]:
        return {
            "engine": self.engine,
            "version": self._cv2.__version__,
            "threads": self._cv2.getNumThreads(),
            "reads": "Caffe's files" if self._reads == "caffe" else "our ONNX export",
        }

    def close(self) -> None:
        del self._net
