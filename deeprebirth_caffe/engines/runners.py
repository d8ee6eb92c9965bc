"""Engines that only infer: one net, opened once, run and timed.

`open_runner` does it in this process; `hosted.HostedRunner` gives the same in a process of its own, which is what to
time with: engines keep threads that spin, and peak memory belongs to a process.

An engine is a module with `convert(ready, folder)`, which writes what the engine reads, and `load(folder, threads)`,
which opens it. Between the two lies the folder alone, so that converting can be left to another process.
"""

from __future__ import annotations

import importlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from deeprebirth_caffe.errors import UsageError
from deeprebirth_caffe.ops import Shape

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import Array, FloatArray
    from deeprebirth_caffe.engines.prepare import Ready

MODULES = {
    "caffe": "caffe_runner",
    "torch": "torch_runner",
    "opencv": "opencv_runner",
    "mnn": "mnn_runner",
    "onnxruntime": "onnx_runner",
    "ncnn": "ncnn_runner",
}
"""Where each engine's `convert` and `load` are, below `engines.inference`."""

RUNNERS = tuple(MODULES)
"""The names of the engines."""

FACTS = "runner.json"
"""What a folder of files is for: engine, shapes of inputs and outputs, what the engine calls them."""


class Runner(Protocol):
    """One net in one engine.

    Attributes:
        engine: its name.
        inputs: shape of each input blob, batch included.
        outputs: names of the output blobs.
    """

    engine: str
    inputs: dict[str, Shape]
    outputs: list[str]

    def forward(self, inputs: Mapping[str, Array]) -> dict[str, FloatArray]:
        """Runs the net once: outputs by blob name, as Caffe would shape them."""
        ...

    def time(self, iterations: int, warmup: int = 2) -> list[float]:
        """Milliseconds of each forward pass on seeded random input, after passes that do not count."""
        ...

    def layers(self, iterations: int) -> list[tuple[str, float]] | None:
        """Mean milliseconds of each layer, where the engine can say: fused ones under the name of one of them."""
        ...

    def describe(self) -> dict[str, object]:
        """Version, threads, and whatever else decides its speed."""
        ...

    def close(self) -> None:
        """Frees what it holds."""
        ...


class EngineModule(Protocol):
    """What a module of `engines.inference` has."""

    def convert(self, ready: Ready, folder: Path) -> dict[str, Any]:
        """Writes into the folder what the engine reads; gives what `load` has to know beside that."""
        ...

    def load(self, folder: Path, facts: dict[str, Any], threads: int | None, **options: Any) -> Runner:
        """Opens what `convert` wrote."""
        ...


def engine_module(name: str) -> EngineModule:
    """The module of an engine.

    Raises:
        UsageError: there is no such engine.
    """
    if name not in MODULES:
        raise UsageError(f"no engine named {name!r}: there is {', '.join(RUNNERS)}")
    module: Any = importlib.import_module(f"deeprebirth_caffe.engines.inference.{MODULES[name]}")
    return module  # type: ignore[no-any-return]


def open_runner(
    name: str,
    net: Path,
    weights: Path | None = None,
    *,
    threads: int | None = None,
    batch: int | None = None,
    **options: Any,
) -> Runner:
    """Opens a net in an engine, in this process (real Caffe is in one of its own all the same).

    Args:
        name: one of RUNNERS.
        net: a prototxt of any age; of one that trains, its deploy net.
        weights: a caffemodel; None gives random weights, the same in every engine.
        threads: None leaves it to the engine.
        batch: None keeps the file's.
        **options: the engine's own: `caffe` for "caffe".

    Raises:
        EngineError: the engine is missing, or cannot read or run the net.
        RefusedError: the net cannot be said in the engine's format.
    """
    from deeprebirth_caffe.engines.prepare import prepare

    ready = prepare(net, weights, batch=batch)
    folder = tempfile.TemporaryDirectory(prefix=f"rebirth-{name}-")
    try:
        convert(name, ready, Path(folder.name))
        return load(Path(folder.name), threads, **options)
    finally:
        folder.cleanup()


def convert(name: str, ready: Ready, folder: Path) -> None:
    """Fills a folder with what `load` of an engine needs."""
    own = engine_module(name).convert(ready, folder)
    facts = {"engine": name, "inputs": ready.inputs, "outputs": ready.outputs, **own}
    (folder / FACTS).write_text(json.dumps(facts), encoding="utf-8")


def load(folder: Path, threads: int | None, **options: Any) -> Runner:
    """Opens a folder that `convert` filled.

    Raises:
        EngineError: the engine cannot read or run it, or gives outputs of other shapes than Caffe.
    """
    from deeprebirth_caffe.engines.inference.base import LibraryRunner

    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    runner = engine_module(facts["engine"]).load(folder, facts, threads, **options)
    if isinstance(runner, LibraryRunner):
        # What an engine misread shows in its shapes, if in nothing else; and timing does not look at them.
        runner.forward(runner.sample)
    return runner
