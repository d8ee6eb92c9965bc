"""Random weights that keep activations finite and alive, for checks and timings without trained ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from deeprebirth_caffe.engines.footprint import check_weights
from deeprebirth_caffe.ir import Net, Weights, summarize
from deeprebirth_caffe.numerics.fillers import msra
from deeprebirth_caffe.ops import Shape

Array = npt.NDArray[Any]


def random_weights(net: Net, seed: int = 0) -> Weights:
    """Weights for every layer whose shapes are known, by layer type.

    BatchNorm gets positive variances and a count other than 1, so that a check sees an error in either; Scale gains
    stay below 1, so that deep residual nets do not overflow.

    Raises:
        RebirthError: they would not fit into a file of Caffe's, or into memory.
    """
    check_weights(net, net.source.name if net.source is not None else net.header.name or "the net")
    rng = np.random.default_rng(seed)
    weights = Weights()
    for view in net.views:
        for row in summarize(view).layers:
            if row.param_shapes and row.layer.name not in weights:
                weights.set(row.layer.name, _blobs(row.layer.type, row.param_shapes, rng))
    return weights


def _blobs(kind: str, shapes: Sequence[Shape], rng: np.random.Generator) -> list[Array]:
    if kind == "BatchNorm":
        total = rng.uniform(0.5, 4.0)
        mean = rng.normal(0, 0.1, shapes[0]) * total
        own = [mean, rng.uniform(0.5, 1.5, shapes[1]) * total, np.full(shapes[2], total)]
        return own if len(shapes) == len(own) else [*own, *_blobs("Scale", shapes[len(own) :], rng)]  # a fork's
    if kind == "Scale":
        return [rng.uniform(0.3, 0.9, shapes[0]), *(rng.normal(0, 0.1, shape) for shape in shapes[1:])]
    if kind == "PReLU":
        return [rng.uniform(0.1, 0.4, shape) for shape in shapes]
    return [msra(shape, rng) if len(shape) > 1 else rng.normal(0, 0.05, shape) for shape in shapes]
