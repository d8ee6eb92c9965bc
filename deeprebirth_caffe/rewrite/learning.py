"""Learning rates: rebirth layers learn ten times as fast (paper, relearning), until their step is over.

A rebirth layer's lr_mult is its original's times ten. A layer that an earlier conversion made goes back to its
original, kept in that conversion's manifest, before anything else happens; so ten times never becomes a hundred.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.ir import Layer, Net

LARGEST = 3.4028234663852886e38
"""Of single precision."""

LrMults = dict[str, list[float]]
"""The original lr_mult of each blob of a rebirth layer, by the layer's name."""


def restore(net: Net, earlier: Mapping[str, list[float]]) -> list[str]:
    """Puts the original lr_mult of an earlier conversion's rebirth layers back; returns their names."""
    found = []
    for layer in net.layers:
        if layer.name in earlier:
            for spec, lr_mult in zip(layer.param.param, earlier[layer.name], strict=False):
                spec.lr_mult = lr_mult
            found.append(layer.name)
    return found


def learn_faster(layers: Iterable[Layer], factor: float) -> LrMults:
    """Multiplies the lr_mult of rebirth layers; `param` blocks that are missing are added.

    A BatchNorm is left alone: Caffe itself holds its three blobs at 0.

    Returns:
        The multipliers as they were.

    Raises:
        RebirthError: a multiplier would become larger than Caffe can hold.
    """
    originals: LrMults = {}
    for layer in layers:
        count = _blobs(layer)
        if not count:
            continue
        while len(layer.param.param) < count:
            layer.param.param.add()
        specs = layer.param.param[:count]
        originals[layer.name] = [spec.lr_mult for spec in specs]
        for spec in specs:
            if not abs(spec.lr_mult * factor) <= LARGEST:
                raise RebirthError(
                    f'{layer.where}: {spec.lr_mult:g}, the lr_mult of layer "{layer.name}", times {factor:g} is more '
                    "than Caffe can hold; correct it"
                )
            spec.lr_mult *= factor
    return originals


def _blobs(layer: Layer) -> int:
    """How many blobs of a layer the solver moves."""
    if not (layer.traits.linear or (layer.traits.learned and layer.traits.pointwise)):
        return 0
    return 1 + bool(getattr(layer.own, "bias_term", False))
