"""Parts of a view."""

from __future__ import annotations

from collections.abc import Iterable

from deeprebirth_caffe.ir.graph import Layer, Value, View


def ancestors(view: View, values: Iterable[Value]) -> set[Layer]:
    """The layers that some values depend on, those that make them included."""
    found: set[Layer] = set()
    waiting = [value.producer for value in values]
    while waiting:
        layer = waiting.pop()
        if layer is not None and layer not in found:
            found.add(layer)
            waiting += [value.producer for value in view.ins[layer]]
    return found
