"""Which engine runs a net: `--engine auto` and its reasons."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass

from deeprebirth_caffe.engines import EngineError, engine
from deeprebirth_caffe.engines.base import Engine
from deeprebirth_caffe.errors import UsageError
from deeprebirth_caffe.ir import Layer, View

INSTALL_TORCH = "pip install 'deeprebirth-caffe[torch]'"


@dataclass(frozen=True)
class EngineOptions:
    """What the command line says about the engine.

    Attributes:
        name: "auto", "caffe" or "torch".
        device: of the embedded engine: "cpu", "cuda", "mps"; None: the processor.
        precision: of the embedded engine: "fp32" or "bf16"; None: fp32.
        threads: of either; None leaves it to the engine.
        caffe: where real Caffe is.
    """

    name: str = "auto"
    device: str | None = None
    precision: str | None = None
    threads: int | None = None
    caffe: str | None = None


@dataclass(frozen=True)
class Choice:
    """An engine, and why it is that one (empty where the user said so)."""

    engine: Engine
    reason: str = ""


def choose(options: EngineOptions, views: Iterable[View]) -> Choice:
    """Gives the engine to use: the embedded one, which is faster, wherever it runs the nets.

    Args:
        options: what the user says.
        views: all that it will have to run.

    Raises:
        EngineError: the one that is wanted is not here or does not run the nets, or none does.
        UsageError: an option belongs to the other engine.
    """
    only_torch = [
        flag
        for flag, given in (
            ("--device", options.device not in (None, "cpu")),
            ("--precision", options.precision not in (None, "fp32")),
        )
        if given
    ]
    if options.name == "caffe":
        if only_torch:
            raise UsageError(f"{only_torch[0]} is the embedded engine's, and --engine caffe runs on the processor")
        return Choice(_caffe(options))
    reason = _why_not_torch(views)
    if not reason:
        made = engine(
            "torch", device=options.device or "cpu", precision=options.precision or "fp32", threads=options.threads
        )
        return Choice(made, "" if options.name == "torch" else "installed, runs every layer here, faster than Caffe")
    if options.name == "torch" or only_torch:
        raise EngineError(f"the embedded engine cannot be used: {reason}")
    try:
        return Choice(_caffe(options), reason)
    except EngineError as error:
        raise EngineError(f"no engine runs this net: {reason}; {error}") from error


def _caffe(options: EngineOptions) -> Engine:
    return engine("caffe", caffe=options.caffe, threads=options.threads)


def _why_not_torch(views: Iterable[View]) -> str:
    if importlib.util.find_spec("torch") is None:
        return f"PyTorch is not installed ({INSTALL_TORCH})"
    refused = next((layer for view in views for layer in view.layers if not _runs(layer)), None)
    return "" if refused is None else f'it does not run layer "{refused.name}" of type {refused.type}'


def _runs(layer: Layer) -> bool:
    from deeprebirth_caffe.engines.torch.layers.base import made_types
    from deeprebirth_caffe.engines.torch.layers.refused import REFUSED

    if layer.type in REFUSED or layer.unknown:
        return False
    return layer.type in made_types() or (layer.op is not None and layer.op.data)
