"""ncnn, on what pnnx makes of our ONNX export: single precision throughout."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.engines.inference.base import LibraryRunner, write_sample
from deeprebirth_caffe.engines.inference.onnx_runner import write_onnx
from deeprebirth_caffe.engines.libraries import need, place_of
from deeprebirth_caffe.extras import version_of

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import FloatArray
    from deeprebirth_caffe.engines.prepare import Ready

EXTRA = "ncnn"
MODEL = "net.onnx"
PARTS = {
    "ncnnparam": "net.ncnn.param",
    "ncnnbin": "net.ncnn.bin",
    "ncnnpy": "ncnn.py",
    "pnnxparam": "pnnx.param",
    "pnnxbin": "pnnx.bin",
    "pnnxpy": "pnnx.py",
    "pnnxonnx": "pnnx.onnx",
}
"""What pnnx writes; unless it is told, it does so beside its input under names of its own."""

TYPES = ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage", "int8_inference")
"""What would make ncnn compute in less than single precision, where this version has it."""

_INPUT = re.compile(r'ex\.input\("in(\d+)", ncnn\.Mat\(.*batch_index=(\d+)\)')
_OUTPUT = re.compile(r"\bout(\d+)\.numpy\(batch_index=(\d+)\)")


def convert(ready: Ready, folder: Path) -> dict[str, Any]:
    """Writes net.ncnn.param and net.ncnn.bin.

    Raises:
        EngineError: pnnx does not take the net, or leaves something of it to no layer that ncnn has.
    """
    write_sample(ready, folder)
    write_onnx(ready, folder / MODEL, rounding=True)
    shapes = ",".join("[" + ",".join(map(str, shape)) + "]" for shape in ready.inputs.values())
    # The module itself imports torch; the program in it needs nothing.
    program = place_of("pnnx", EXTRA) / "pnnx"
    arguments = [str(program), MODEL, f"inputshape={shapes}", "fp16=0", "optlevel=2"]
    done = subprocess.run(
        [*arguments, *(f"{key}={file}" for key, file in PARTS.items())],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        errors="replace",
        check=False,
    )
    text = done.stdout.strip().splitlines()
    ignored = [line for line in text if line.startswith("ignore ")]
    if done.returncode or not (folder / "net.ncnn.bin").exists() or ignored:
        last = ignored[0] if ignored else text[-1] if text else "it printed nothing"
        raise EngineError(f"pnnx cannot convert the net for ncnn: {' '.join(last.split())}")
    script = (folder / PARTS["ncnnpy"]).read_text(encoding="utf-8")
    return {"ins": _batch_axes(_INPUT, script), "outs": _batch_axes(_OUTPUT, script)}


def _batch_axes(pattern: re.Pattern[str], script: str) -> list[int]:
    """Where pnnx found the batch of each input or output: ncnn keeps that axis apart from the others.

    The script that pnnx writes to try the result is the only place where it says so.
    """
    return [int(axis) for _, axis in sorted((int(index), axis) for index, axis in pattern.findall(script))]


def load(folder: Path, facts: dict[str, Any], threads: int | None) -> LibraryRunner:
    """Opens it."""
    return NcnnRunner(folder, facts, threads)


class NcnnRunner(LibraryRunner):
    """An ncnn.Net on the processor."""

    engine = "ncnn"

    def __init__(self, folder: Path, facts: dict[str, Any], threads: int | None) -> None:
        super().__init__(folder, facts, threads)
        self._ncnn = need("ncnn", EXTRA)
        self._ins, self._outs = list(facts["ins"]), list(facts["outs"])
        if (len(self._ins), len(self._outs)) != (len(self.inputs), len(self.outputs)):
            raise EngineError(
                f"pnnx left {len(self._ins)} of {len(self.inputs)} inputs and {len(self._outs)} of "
                f"{len(self.outputs)} outputs of the net"
            )
        self._net = self._ncnn.Net()
        if threads is not None:
            self._net.opt.num_threads = threads
        for kind in TYPES:
            if hasattr(self._net.opt, f"use_{kind}"):
                setattr(self._net.opt, f"use_{kind}", False)
        if self._net.load_param(str(folder / "net.ncnn.param")) or self._net.load_model(str(folder / "net.ncnn.bin")):
            raise EngineError("ncnn cannot read what pnnx made of the net")
        self._mats: list[Any] = []
        self._found: list[FloatArray] = []

    def _feed(self, inputs: Mapping[str, FloatArray]) -> None:
        # Clones: a Mat of an array only borrows its memory.
        self._mats = [
            self._ncnn.Mat(array, batch_index=axis).clone()
            for array, axis in zip(inputs.values(), self._ins, strict=True)
        ]

    def _run(self) -> None:
        extractor = self._net.create_extractor()
        for index, mat in enumerate(self._mats):
            extractor.input(f"in{index}", mat)
        self._found = []
        for index, axis in enumerate(self._outs):
            code, mat = extractor.extract(f"out{index}")
            if code:
                raise EngineError(f'ncnn cannot compute output "{self.outputs[index]}"')
            self._found.append(mat.numpy(batch_index=axis))

    def _read(self) -> dict[str, FloatArray]:
        return dict(zip(self.outputs, self._found, strict=True))

    def describe(self) -> dict[str, object]:
        return {
            "engine": self.engine,
            "version": version_of("ncnn"),
            "threads": self._net.opt.num_threads,
            "converter": f"pnnx {version_of('pnnx')}",
            "precision": "single",
        }

    def close(self) -> None:
        self._mats, self._found = [], []
        self._net.clear()
