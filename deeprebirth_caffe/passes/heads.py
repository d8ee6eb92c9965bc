"""What a net is there for: the blobs that its losses judge, and what it puts out beside them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from deeprebirth_caffe.ir import Layer, Net, Value, View, param_shapes
from deeprebirth_caffe.ir.subnet import ancestors


@dataclass(frozen=True)
class Head:
    """A loss or a metric.

    Attributes:
        layer: the loss or metric.
        blobs: the blobs that it judges and that do not come from data alone.
        labels: its other inputs.
        weight: its loss_weight.
    """

    layer: Layer
    blobs: tuple[str, ...]
    labels: tuple[str, ...]
    weight: float

    def overshadows(self, other: Head) -> bool:
        """Whether another head is auxiliary to this one: the same kind of loss on the same labels, and weaker."""
        mine, its = self.layer, other.layer
        return (
            self.weight > other.weight
            and (mine.type, mine.param.python_param) == (its.type, its.param.python_param)
            and bool(self.labels)
            and self.labels == other.labels
        )


def find_heads(net: Net) -> list[Head]:
    """The losses of the file, whatever their phase, without auxiliary ones; the metrics where there is no loss."""
    views = sorted(net.views, key=lambda view: view.state.phase != "TEST")
    origins = {view.state: _Origins(net, view) for view in views}
    losses: list[Head] = []
    metrics: list[Head] = []
    for layer in net.layers:
        view = next((view for view in views if layer in view.ins), None)
        if view is None or not layer.bottoms or not ends_training(layer):
            continue
        blobs = origins[view.state].judged(layer)
        labels = tuple(name for name in layer.bottoms if name not in blobs)
        head = Head(layer, blobs, labels, max(layer.param.loss_weight, default=1.0))
        (losses if layer.loss else metrics).append(head)
    heads = losses or metrics
    return [head for head in heads if not any(other.overshadows(head) for other in heads)]


def ends_training(layer: Layer) -> bool:
    """Whether a layer is a loss or a metric, which a deploy net does without."""
    return layer.loss or layer.traits.metric


def find_results(net: Net, heads: Iterable[Head]) -> list[Value]:
    """What a deploy net has to compute, in the TEST view: what the heads judge and what is made of it.

    Without heads in TEST these are the net's outputs; where it has none, what only Silence layers read.
    """
    view = net.view("TEST")
    judged = list(dict.fromkeys(view.blobs[name] for head in heads for name in head.blobs if name in view.blobs))
    made = [value for value in view.results if value.producer is not None and not ends_training(value.producer)]
    if not judged:
        return made or view.silenced
    makers = {value.producer for value in judged}
    # A file may make its probabilities in TEST itself, beside the loss.
    return judged + [value for value in made if value not in judged and makers & ancestors(view, [value])]


class _Origins:
    """Which values of a view learned layers had a hand in, and which depend on labels."""

    def __init__(self, net: Net, view: View) -> None:
        self._view = view
        learning = {layer for layer in view.layers if not ends_training(layer) and _learns(net, view, layer)}
        read: set[Value] = set()
        """What goes into a learned layer, maybe through others."""
        for layer in reversed(view.layers):
            if layer in learning or not read.isdisjoint(view.outs[layer]):
                read.update(view.ins[layer])
        self._learned: set[Value] = set()
        self._labels = {value for value in view.inputs if value not in read}
        for layer in view.layers:
            ins, outs = view.ins[layer], view.outs[layer]
            if layer in learning or not self._learned.isdisjoint(ins):
                self._learned.update(outs)
            if layer.fed:
                self._labels.update(value for value in outs if value not in read)
            elif not self._labels.isdisjoint(ins):
                self._labels.update(outs)

    def judged(self, layer: Layer) -> tuple[str, ...]:
        """The inputs of a loss or metric that it judges, but for what comes from data alone; the first, if all do.

        What is made of labels is no prediction either, even where learned layers had a hand in it: a target that
        depends on where the anchors lie.
        """
        ins = self._view.ins[layer]
        looked = ins if layer.op is None or layer.op.judged is None else ins[: layer.op.judged]
        found = [
            value.name
            for index, value in enumerate(looked)
            if value in self._learned and (index == 0 or value not in self._labels)
        ]
        return tuple(dict.fromkeys(found)) or (layer.bottoms[0],)


def _learns(net: Net, view: View, layer: Layer) -> bool:
    """Whether a layer has learned numbers, as far as its type, its own text and the weights tell."""
    return (
        bool(param_shapes(view, layer) or layer.param.param)
        or layer.traits.tensor
        or (net.weights is not None and layer.name in net.weights)
    )
