"""The cost gate of exact rewrites that change the graph: each is made only where the predicted time falls.

`ops.cost` says what a layer's elements cost; `CALL` is what a layer costs that has none, so that small nets are not cut
into more layers than they had.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deeprebirth_caffe.ir import Layer
from deeprebirth_caffe.ops import Shape, ShapeError, op
from deeprebirth_caffe.passes.patterns import Facts
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.rewrite import Reason

CALL = 12_000.0
"""Starting a layer, in multiply-adds."""


def predicted(param: pb.LayerParameter, bottoms: Sequence[Shape]) -> float | Reason:
    """The predicted time of a layer, or why Caffe would not run it."""
    kind = op(param.type)
    assert kind is not None, "exact rewrites make plain layers only"
    try:
        return CALL + kind.cost(param, bottoms, kind.shapes(param, bottoms))
    except ShapeError as error:
        return Reason(str(error))


def predicted_now(facts: Facts, layers: Iterable[Layer]) -> float | Reason:
    """The predicted time of layers as they are, or why a shape is not known."""
    total = 0.0
    for layer in layers:
        cost = facts.predicted.get(layer)
        if cost is None:
            shapes = facts.shapes_in(layer)
            cost = facts.predicted[layer] = shapes if isinstance(shapes, Reason) else predicted(layer.param, shapes)
        if isinstance(cost, Reason):
            return cost
        total += cost
    return total


def no_gain(before: float | Reason, *made: float | Reason) -> Reason | None:
    """Why a rewrite does not pay, or why that is not known; None where it does.

    Args:
        before: the predicted time of what goes.
        made: that of each layer that comes.
    """
    times: list[float] = []
    for cost in (before, *made):
        if isinstance(cost, Reason):
            return cost
        times.append(cost)
    now, then = times[0], sum(times[1:])
    if then < now:
        return None
    return Reason(
        f"its predicted time would not fall ({now / 1e6:.2f} to {then / 1e6:.2f} million multiply-adds' worth)"
    )
