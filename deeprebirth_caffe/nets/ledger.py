"""The weight ledger: what became of each layer's weights, so that none is silently left at random."""

from __future__ import annotations

from dataclasses import dataclass

from deeprebirth_caffe.ir import Net, param_shapes
from deeprebirth_caffe.rewrite import Kind, Rewriter


@dataclass(frozen=True, kw_only=True)
class LedgerLayers:
    """Names of layers with weights, by what became of them; see `Ledger`."""

    copied: tuple[str, ...]
    folded: tuple[str, ...]
    relearned: tuple[str, ...]
    dropped: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """How many layers with weights there are, by what became of them.

    Attributes:
        copied: kept, byte for byte.
        folded: made by exact rewrites.
        relearned: made by the others: rebirth layers.
        dropped: of the input, and not in the result under their name.
        layers: the names of those layers.
    """

    copied: int
    folded: int
    relearned: int
    dropped: int
    layers: LedgerLayers


def make_ledger(original: Net, rewriter: Rewriter) -> Ledger:
    """Compares the weights (or, without any, the layers that would have some) before and after."""
    before, after = _with_weights(original), _with_weights(rewriter.net)
    made = {layer.name: kind for layer, kind in rewriter.made.items()}
    layers = LedgerLayers(
        copied=tuple(name for name in after if name in before),
        folded=tuple(name for name in after if made.get(name) is Kind.EXACT),
        relearned=tuple(name for name in after if made.get(name) is Kind.RELEARN),
        dropped=tuple(name for name in before if name not in after),
    )
    return Ledger(layers=layers, **{name: len(names) for name, names in vars(layers).items()})


def _with_weights(net: Net) -> dict[str, None]:
    if net.weights is not None:
        mine = {layer.name for layer in net.layers}
        return dict.fromkeys(name for name in net.weights if name in mine)
    names: dict[str, None] = {}
    for view in net.views:
        for layer in view.layers:
            if layer.traits.tensor or param_shapes(view, layer):
                names.setdefault(layer.name)
    return names
