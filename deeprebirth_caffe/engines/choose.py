"""Which engine runs a net: `--engine auto` and its reasons."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deeprebirth_caffe.engines import EngineError, engine
from deeprebirth_caffe.engines.base import Engine
from deeprebirth_caffe.errors import UsageError
from deeprebirth_caffe.extras import pip_install
from deeprebirth_caffe.ir import Layer, View, summarize
from deeprebirth_caffe.options.shared import EngineOptions

CAFFE_RATE = 42e9
"""MAC-equivalents (`ops.cost`) that Caffe does in a second, on one core of the machine that `ops.cost` was taken on."""
TORCH_GAIN = 1.6
"""How much faster PyTorch does the same work, on one core, where Caffe has the kernels that fit the processor."""
CAFFE_LAYER, TORCH_LAYER = 2e-6, 30e-6
"""Seconds that each spends on a layer in a pass, whatever the layer computes."""
TRAINING = 3
"""What an iteration of training costs, in forward passes."""


@dataclass(frozen=True)
class Choice:
    """An engine, and why it is that one (empty where the user said so)."""

    engine: Engine
    reason: str = ""


def choose(options: EngineOptions, views: Iterable[View]) -> Choice:
    """Gives the engine to use: the one that is predicted to be faster, if it is here and runs the nets, else the other.

    The prediction adds, for each engine, the time that the net's arithmetic takes and what is spent on each layer
    whatever its size. PyTorch computes about 1.6 times as fast as Caffe and spends some 30 microseconds a layer where
    Caffe spends 2, so small nets are Caffe's. Caffe then has the kernels that `choose_kernels` finds; with OpenBLAS's
    oldest ones PyTorch is 1.9 to 4 times as fast. The figures were taken on one core of x86 servers, and say nothing
    close to the border between the two. On a GPU it is always PyTorch: this Caffe has none.

    Raises:
        EngineError: the one that is wanted is not here or does not run the nets, or none does.
        UsageError: an option belongs to the other engine.
    """
    nets = list(views)
    only_torch = [
        words
        for words, given in (
            (f"--device {options.device}", options.device not in (None, "cpu")),
            (f"--precision {options.precision}", options.precision not in (None, "fp32")),
            (f"--cache {(options.cache or 0) >> 20}", bool(options.cache)),
        )
        if given
    ]
    if options.name == "caffe":
        if only_torch:
            flag = only_torch[0].split()[0]
            raise UsageError(f"{flag} is the embedded engine's, and --engine caffe runs on the processor")
        return Choice(_caffe(options))
    missing = "" if importlib.util.find_spec("torch") else f"PyTorch is not installed ({pip_install('torch')})"
    refused = None if missing else next((layer for net in nets for layer in net.layers if not _runs(layer)), None)
    if missing or refused is not None:
        return _without_torch(options, bool(only_torch), missing, refused)
    if options.name == "torch":
        return Choice(_torch(options))
    if only_torch:
        return Choice(_torch(options), f"the one that has {only_torch[0]}")
    return _predicted(options, nets)


def _without_torch(options: EngineOptions, wanted: bool, missing: str, refused: Layer | None) -> Choice:
    """Caffe, because the embedded engine is missing or refuses a layer."""
    what = "" if refused is None else f'layer "{refused.name}" of type {refused.type}{_by(refused)}'
    if wanted or options.name == "torch":
        raise EngineError(f"the embedded engine cannot be used: {missing or f'it does not run {what}'}")
    reason = missing or f"the embedded engine does not run {what}"
    try:
        caffe = _caffe(options)
        types = caffe.describe()["layer_types"] if refused is not None and _foreign(refused) else None
    except EngineError as error:
        raise EngineError(f"no engine runs this net: {reason}; {error}") from error
    if refused is not None and isinstance(types, list) and refused.type not in types:
        raise EngineError(
            f"no engine runs this net: neither the embedded one nor this Caffe knows {what}; rebirth doctor NET says "
            "whose it is, and rebirth convert NET --portable says some such layers in plain Caffe (docs/forks.md)"
        )
    return Choice(caffe, reason)


def _by(layer: Layer) -> str:
    """The fork's fields of a layer, for an error."""
    fields = layer.source.unknown if layer.source is not None and layer.op is not None else []
    return f" with a fork's {', '.join(fields)}" if fields else ""


def _predicted(options: EngineOptions, nets: Sequence[View]) -> Choice:
    """The faster one, where the embedded engine runs everything."""
    torch_wins, why = predict(nets)
    if torch_wins:
        return Choice(_torch(options), why)
    try:
        return Choice(_caffe(options), why)
    except EngineError:
        if options.caffe is not None:
            raise
        return Choice(_torch(options), "Caffe, predicted faster on a net this small, is not installed")


def predict(nets: Sequence[View]) -> tuple[bool, str]:
    """Whether PyTorch is predicted to be faster on a processor, and the reason in words; see `choose`.

    Args:
        nets: those to run. The first counts, which is the training net where there is one.
    """
    net = nets[0]
    cost = summarize(net)
    parts = [row.cost for row in cost.layers if row.cost is not None]
    if cost.macs is None or len(parts) < len(cost.layers):
        return True, "predicted faster on most nets; how much this one computes is not known"
    passes = TRAINING if net.state.phase == "TRAIN" else 1
    work, layers = sum(parts) / CAFFE_RATE, len(cost.layers)
    caffe = passes * (work + layers * CAFFE_LAYER)
    torch = passes * (work / TORCH_GAIN + layers * TORCH_LAYER)
    size = f"{_short(passes * cost.batch * cost.macs)} multiply-adds an iteration, {layers} layer{'s' * (layers != 1)}"
    if torch < caffe:
        return True, f"predicted faster: {size}"
    return False, f"predicted faster on a net this small: {size}"


def _short(count: float) -> str:
    """A count with two digits and a unit."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= size:
            return f"{count / size:.2g}{unit}" if count < 100 * size else f"{count / size:.0f}{unit}"
    return f"{count:.0f}"


def _caffe(options: EngineOptions) -> Engine:
    return engine("caffe", caffe=options.caffe, threads=options.threads)


def _torch(options: EngineOptions) -> Engine:
    return engine(
        "torch",
        device=options.device or "cpu",
        precision=options.precision or "fp32",
        threads=options.threads,
        cache=options.cache,
    )


def _foreign(layer: Layer) -> bool:
    """Whether a layer is none of Caffe 1.0's: only the Caffe at hand can tell whether it runs it."""
    return layer.op is None or bool(layer.understood.fork)


def _runs(layer: Layer) -> bool:
    from deeprebirth_caffe.engines.torch.layers.base import made_types
    from deeprebirth_caffe.engines.torch.layers.refused import REFUSED

    if layer.type in REFUSED or layer.understood.loud:
        return False
    return layer.type in made_types() or layer.fed
