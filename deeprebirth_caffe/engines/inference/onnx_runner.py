"""ONNX Runtime, on the net as our exporter writes it."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.engines.inference.base import LibraryRunner, write_sample
from deeprebirth_caffe.engines.libraries import need

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import FloatArray
    from deeprebirth_caffe.engines.prepare import Ready

EXTRA = "onnx"
MODEL = "net.onnx"


def convert(ready: Ready, folder: Path) -> dict[str, Any]:
    """Writes net.onnx at the batch of the net."""
    write_sample(ready, folder)
    return {"names": write_onnx(ready, folder / MODEL)}


def write_onnx(ready: Ready, path: Path, *, rounding: bool = False) -> dict[str, str]:
    """Writes a net with a fixed batch as ONNX; gives what each output is called there. See `to_onnx`."""
    need("onnx", EXTRA)
    from deeprebirth_caffe.to_onnx import to_onnx

    made = to_onnx(ready.net, dynamic=False, rounding=rounding)
    path.write_bytes(made.model.SerializeToString())
    return made.outputs


def load(folder: Path, facts: dict[str, Any], threads: int | None) -> LibraryRunner:
    """Opens it."""
    return OnnxRunner(folder, facts, threads)


class OnnxRunner(LibraryRunner):
    """A session of ONNX Runtime on the processor."""

    engine = "onnxruntime"

    def __init__(self, folder: Path, facts: dict[str, Any], threads: int | None) -> None:
        super().__init__(folder, facts, threads)
        self._library = need("onnxruntime", EXTRA)
        self._names = [facts["names"][name] for name in self.outputs]
        self._model = (folder / MODEL).read_bytes()
        self._session = self._open()
        self._given: dict[str, FloatArray] = {}
        self._found: list[FloatArray] = []

    def _open(self, profile: Path | None = None) -> Any:
        options = self._library.SessionOptions()
        options.log_severity_level = 3
        options.inter_op_num_threads = 1
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile)
        try:
            return self._library.InferenceSession(self._model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own classes derive from RuntimeError and from Exception, by version
            raise EngineError(f"onnxruntime cannot open the net: {' '.join(str(error).split())}") from error

    def _feed(self, inputs: Mapping[str, FloatArray]) -> None:
        self._given = dict(inputs)

    def _run(self) -> None:
        self._found = self._session.run(self._names, self._given)

    def _read(self) -> dict[str, FloatArray]:
        return dict(zip(self.outputs, self._found, strict=True))

    def layers(self, iterations: int) -> list[tuple[str, float]] | None:
        """By node of the graph as ONNX Runtime changed it: what it fused bears the name of one of the layers."""
        with tempfile.TemporaryDirectory(prefix="rebirth-profile-") as folder:
            session = self._open(Path(folder) / "profile")
            for _ in range(iterations):
                session.run(self._names, self.sample)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        total: defaultdict[str, float] = defaultdict(float)
        for event in events:
            name = str(event.get("name", ""))
            if event.get("cat") == "Node" and name.endswith("_kernel_time"):
                total[name.removesuffix("_kernel_time")] += event["dur"] / 1000
        return [(name, ms / iterations) for name, ms in total.items()]

    def describe(self) -> dict[str, object]:
        options = self._session.get_session_options()
        return {
            "engine": self.engine,
            "version": self._library.__version__,
            "threads": options.intra_op_num_threads or None,
            "providers": self._session.get_providers(),
        }

    def close(self) -> None:
        del self._session
