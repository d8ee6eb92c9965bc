"""MNN, which reads Caffe files itself through its converter.

The converter is called as the function that it is. Never its command `mnnconvert`: that one installs packages and tells
its makers about each conversion.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.engines.inference.base import LibraryRunner, write_sample
from deeprebirth_caffe.engines.libraries import need, stdout_as_stderr
from deeprebirth_caffe.extras import version_of

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import FloatArray
    from deeprebirth_caffe.engines.prepare import Ready

EXTRA = "mnn"
MODEL = "net.mnn"


def convert(ready: Ready, folder: Path) -> dict[str, Any]:
    """Writes net.mnn.

    Raises:
        EngineError: MNN's converter does not take the net.
    """
    write_sample(ready, folder)
    path, weights = ready.write(folder)
    need("MNN", EXTRA)
    tools = need("_tools", EXTRA)
    model = folder / MODEL
    arguments = ["rebirth", "-f", "CAFFE", "--modelFile", str(weights), "--prototxt", str(path)]
    with stdout_as_stderr():
        done = tools.mnnconvert([*arguments, "--MNNModel", str(model), "--bizCode", "rebirth"])
    if not done or not model.exists():
        raise EngineError("mnn cannot convert the net; its converter says why on stderr")
    # A blob whose last contents an in-place layer wrote is called like the blob or like that layer.
    makers = {value.name: value.producer.name for value in ready.view.results if value.producer is not None}
    return {"names": {blob: [blob, makers[blob]] for blob in ready.outputs}}


def load(folder: Path, facts: dict[str, Any], threads: int | None) -> LibraryRunner:
    """Opens it."""
    return MnnRunner(folder, facts, threads)


class MnnRunner(LibraryRunner):
    """A session of MNN on the processor, in single precision."""

    engine = "mnn"

    def __init__(self, folder: Path, facts: dict[str, Any], threads: int | None) -> None:
        super().__init__(folder, facts, threads)
        self._mnn = need("MNN", EXTRA)
        self._net = self._mnn.Interpreter(str(folder / MODEL))
        config = {"backend": "CPU", "precision": "high", **({} if threads is None else {"numThread": threads})}
        with stdout_as_stderr():
            self._session = self._net.createSession(config)
        self._ins = self._net.getSessionInputAll(self._session)
        self._outs = self._net.getSessionOutputAll(self._session)
        for name in self.inputs:
            self._found("input", self._ins, [name])
        self._names = {blob: self._found("output", self._outs, names) for blob, names in facts["names"].items()}

    def _found(self, what: str, has: Mapping[str, Any], names: list[str]) -> str:
        for name in names:
            if name in has:
                return name
        raise EngineError(f'mnn: the converted net has no {what} "{names[0]}"; it has {", ".join(has)}')

    def _feed(self, inputs: Mapping[str, FloatArray]) -> None:
        for name, array in inputs.items():
            tensor = self._ins[name]
            if tuple(tensor.getShape()) != array.shape:
                self._net.resizeTensor(tensor, array.shape)
        with stdout_as_stderr():
            self._net.resizeSession(self._session)
        for name, array in inputs.items():
            self._ins[name].copyFrom(self._tensor(array.shape, array))

    def _tensor(self, shape: tuple[int, ...], array: FloatArray) -> Any:
        mnn = self._mnn
        return mnn.Tensor(shape, mnn.Halide_Type_Float, array, mnn.Tensor_DimensionType_Caffe)

    def _run(self) -> None:
        code = self._net.runSession(self._session)
        if code:
            raise EngineError(f"mnn cannot run the net: error {code}")

    def _read(self) -> dict[str, FloatArray]:
        found = {}
        for blob, name in self._names.items():
            tensor = self._outs[name]
            shape = tuple(tensor.getShape())
            array = np.zeros(shape, np.float32)
            host = self._tensor(shape, array)
            tensor.copyToHostTensor(host)
            found[blob] = np.array(host.getNumpyData(), np.float32).reshape(shape)
        return found

    def describe(self) -> dict[str, object]:
        return {
            "engine": self.engine,
            "version": version_of("MNN"),
            "threads": self.threads,
            "reads": "Caffe's files",
            "precision": "single",
        }

    def close(self) -> None:
        self._outs, self._ins = {}, {}
        del self._session, self._net
