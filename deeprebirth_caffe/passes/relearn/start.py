"""How rebirth layers start: `inherit` what still fits of the old weights, or `xavier` noise as in the paper."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deeprebirth_caffe.ir import Layer
from deeprebirth_caffe.numerics.fillers import xavier
from deeprebirth_caffe.rewrite import Rewriter

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Start:
    """The option `--init` and its seed."""

    init: str = "inherit"
    seed: int = 0

    def set(
        self, rewriter: Rewriter, layer: Layer, shapes: Sequence[Sequence[int]], inherited: Sequence[Array]
    ) -> None:
        """Gives a rebirth layer its first weights, where the net has weights at all.

        Args:
            rewriter: of the conversion.
            layer: the rebirth layer, under its new name.
            shapes: of its blobs: weight first, then the bias if it has one.
            inherited: what still fits of the old weights, in these shapes.
        """
        if rewriter.net.weights is None:
            return
        arrays = list(inherited) if self.init == "inherit" else self.noise(layer, shapes)
        rewriter.set_weights(layer, arrays)

    def noise(self, layer: Layer, shapes: Sequence[Sequence[int]]) -> list[Array]:
        """Xavier weights; biases at the value of the layer's own bias filler (0.2 in GoogLeNet).

        The stream depends on the layer's name and the seed alone, so that merging more stages does not change it.
        """
        digest = hashlib.sha256(f"{self.seed}/{layer.name}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        arrays: list[Array] = [xavier(shapes[0], rng)]
        arrays += [np.full(tuple(shape), bias_value(layer), dtype=np.float32) for shape in shapes[1:]]
        return arrays


def bias_value(layer: Layer) -> float:
    """What the layer's bias filler fills in; 0 where it has none or another kind."""
    filler = layer.own.bias_filler
    return filler.value if filler.type == "constant" else 0.0


def set_filler(layer: Layer) -> None:
    """Makes a rebirth layer's weight filler Xavier's, for those who train without inherited weights."""
    own = layer.own
    if own.weight_filler.type != "xavier":
        own.ClearField("weight_filler")
        own.weight_filler.type = "xavier"
