"""Parts of a view."""

from __future__ import annotations

from collections.abc import Iterable

from deeprebirth_caffe.ir.graph import Layer, Value, View
from deeprebirth_caffe.proto import caffe_pb2 as pb


def above(view: View, values: Iterable[Value]) -> dict[Value, None]:
    """The values that the given values depend on, with these."""
    seen: dict[Value, None] = {}
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if value not in seen:
            seen[value] = None
            waiting += view.ins[value.producer] if value.producer is not None else []
    return seen


def ancestors(view: View, values: Iterable[Value]) -> set[Layer]:
    """The layers that some values depend on, those that make them included."""
    return {value.producer for value in above(view, values) if value.producer is not None}


def ruleless(layer: Layer) -> Layer:
    """A copy of a layer that is alive in every state."""
    param = pb.LayerParameter()
    param.CopyFrom(layer.param)
    param.ClearField("include")
    param.ClearField("exclude")
    return Layer(param, layer.source, layer.stage)
