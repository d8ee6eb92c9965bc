"""The weight ledger: what became of each layer's weights, so that none is silently left at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deeprebirth_caffe.ir import Net, param_shapes
from deeprebirth_caffe.rewrite import Kind, Rewriter


@dataclass(frozen=True)
class Ledger:
    """Names of layers with weights, by what became of them.

    Attributes:
        copied: kept, byte for byte.
        folded: new arrays that compute the same.
        relearned: rebirth layers, to be learned again.
        dropped: layers of the original that are gone, or whose work a new one does.
    """

    copied: tuple[str, ...]
    folded: tuple[str, ...]
    relearned: tuple[str, ...]
    dropped: tuple[str, ...]

    def json(self) -> dict[str, Any]:
        """Counts, and the names under "layers"."""
        lists = {"copied": self.copied, "folded": self.folded, "relearned": self.relearned, "dropped": self.dropped}
        return {**{key: len(names) for key, names in lists.items()}, "layers": {k: list(v) for k, v in lists.items()}}


def make_ledger(original: Net, rewriter: Rewriter) -> Ledger:
    """Compares the weights (or, without any, the layers that would have some) before and after."""
    before, after = _with_weights(original), _with_weights(rewriter.net)
    made = {layer.name: kind for layer, kind in rewriter.made.items()}
    return Ledger(
        tuple(name for name in after if name in before),
        tuple(name for name in after if made.get(name) is Kind.EXACT),
        tuple(name for name in after if made.get(name) is Kind.RELEARN),
        tuple(name for name in before if name not in after),
    )


def _with_weights(net: Net) -> dict[str, None]:
    if net.weights is not None:
        mine = {layer.name for layer in net.layers}
        return dict.fromkeys(name for name in net.weights if name in mine)
    names: dict[str, None] = {}
    for view in net.views:
        for layer in view.layers:
            if (layer.op is not None and layer.op.tensor) or param_shapes(view, layer):
                names.setdefault(layer.name)
    return names
