"""What only training needs, out: data layers, losses, accuracies, auxiliary heads, Dropout. Exact in TEST.

    data layers -> Input           SoftmaxWithLoss, InfogainLoss -> Softmax "prob"
                                   SigmoidCrossEntropyLoss -> Sigmoid "prob"
    other losses, metrics, Silence, and all that only they read -> nothing
    what TEST makes of a loss's input itself (Softmax, ArgMax, …) stays
    Dropout -> nothing (in TEST it is the identity)

A head is auxiliary when another head has the same kind of loss on the same labels with a larger loss_weight
(GoogLeNet's loss1 and loss2, 0.3 beside 1). What is left are the layers alive in TEST, without their include rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from deeprebirth_caffe.ir import Layer, Net, Value, View
from deeprebirth_caffe.passes.patterns import unknown_shape
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.rewrite import Applied, Kind, Match, Pass, Refusal, Rewriter

_PROBABILITIES = {
    "SoftmaxWithLoss": "Softmax",
    "InfogainLoss": "Softmax",  # it contains one
    "SigmoidCrossEntropyLoss": "Sigmoid",
}


@dataclass(frozen=True)
class _Head:
    """A loss or a metric, and the blob that it judges."""

    layer: Layer
    blob: str
    weight: float

    def overshadows(self, other: _Head) -> bool:
        return (
            self.weight > other.weight
            and self.layer.type == other.layer.type
            and list(self.layer.bottoms[1:]) == list(other.layer.bottoms[1:])
        )


@dataclass(frozen=True)
class _Plan:
    keep: frozenset[Layer]
    inputs: dict[Layer, list[Value]]
    ends: dict[Layer, str]
    dropouts: dict[Layer, bool]


@dataclass(frozen=True)
class StripTraining(Pass):
    """Makes a deploy net.

    Attributes:
        batch: of the new Input layers.
    """

    name: ClassVar[str] = "strip-training"
    kind: ClassVar[Kind] = Kind.EXACT

    batch: int = 1

    def match(self, net: Net) -> Iterator[Match | Refusal]:
        view = net.view("TEST")
        heads = _heads(net)
        results = [v for v in view.outputs if v.producer is not None and not _only_trains(v.producer)]
        kept = [
            head for head in heads if not any(other.overshadows(head) for other in heads) and head.blob in view.blobs
        ]
        if kept:
            judged = [view.blobs[head.blob] for head in kept]
            makers = {value.producer for value in judged}
            # A file may make its probabilities in TEST itself, beside the loss.
            wanted = judged + [v for v in results if makers & _ancestors(view, [v])]
        else:
            wanted = results
        keep = _ancestors(view, wanted)
        inputs: dict[Layer, list[Value]] = {}
        for layer in view.layers:
            if layer in keep and layer.op is not None and layer.op.data and layer.type not in ("Input", "Parameter"):
                read = [v for v in view.outs[layer] if v in wanted or any(use in keep for use, _ in v.uses)]
                inputs[layer] = read
                lost = next((value for value in read if value.shape is None), None)
                if lost is not None:
                    yield Refusal(layer, unknown_shape(lost))
                    return
        ends = {head.layer: _PROBABILITIES.get(head.layer.type, "") for head in kept if _ends_openly(view, head)}
        dropouts = _dropouts(view, keep)
        ruled = any(layer.param.include or layer.param.exclude for layer in keep)
        if len(keep) == len(net.layers) and not inputs and not dropouts and not ruled:
            return
        yield Match(net.layers[0], frozenset(net.layers), _Plan(frozenset(keep), inputs, ends, dropouts))

    def apply(self, match: Match, rewriter: Rewriter) -> Applied:
        plan: _Plan = match.data
        done = Applied()
        made: set[tuple[str, str]] = set()
        for layer in list(rewriter.net.layers):
            if layer in plan.inputs:
                rewriter.insert_before(layer, _input_layer(layer, plan.inputs[layer], self.batch))
            end = plan.ends.get(layer)
            if end and (end, layer.bottoms[0]) not in made:
                made.add((end, layer.bottoms[0]))
                rewriter.insert_before(layer, _probability_layer(rewriter, layer, end))
            if layer not in plan.keep or layer in plan.inputs:
                done.removed.append(layer.name)
                rewriter.remove(layer)
            else:
                rewriter.clear_rules(layer)
        for layer, sole in plan.dropouts.items():
            done.removed.append(layer.name)
            rewriter.erase(layer, sole=sole)
        return done


def _dropouts(view: View, keep: set[Layer]) -> dict[Layer, bool]:
    """The Dropouts that can go, and whether each alone (of what is kept) reads its blob."""
    found = {}
    for layer in view.layers:
        if layer.type == "Dropout" and layer in keep and len(layer.bottoms) == len(layer.tops) == 1:
            read, written = view.ins[layer][0], view.outs[layer][0]
            data = read.producer is None or (read.producer.op is not None and read.producer.op.data)
            sole = not data and [use for use, _ in read.uses if use in keep] == [layer]
            uses = [(use, index) for use, index in written.uses if use in keep]
            # An output of the net keeps its name, so a Dropout that makes one from what others read too must stay; so
            # must one that gives an in-place layer a blob of its own.
            if layer.in_place(0) or sole or (uses and not any(use.in_place(index) for use, index in uses)):
                found[layer] = sole
    return found


def _heads(net: Net) -> list[_Head]:
    """Every loss of the file, whatever its phase; the accuracies where there is no loss."""
    losses, metrics = [], []
    for layer in net.layers:
        kind = layer.op
        if kind is None or not layer.bottoms:
            continue
        if kind.loss or any(layer.param.loss_weight):
            weight = layer.param.loss_weight[0] if layer.param.loss_weight else 1.0
            losses.append(_Head(layer, layer.bottoms[0], weight))
        elif kind.metric:
            metrics.append(_Head(layer, layer.bottoms[0], 1.0))
    return losses or metrics


def _only_trains(layer: Layer) -> bool:
    kind = layer.op
    return kind is not None and (kind.loss or kind.metric or kind.data)


def _ends_openly(view: View, head: _Head) -> bool:
    """Whether nothing but losses and metrics reads a head's blob, so that its probabilities are still to be made."""
    readers = [layer for layer, _ in view.blobs[head.blob].uses]
    return not any(layer.op is None or not (layer.op.loss or layer.op.metric) for layer in readers)


def _ancestors(view: View, values: Iterable[Value]) -> set[Layer]:
    """The layers that the values depend on."""
    found: set[Layer] = set()
    waiting = list(values)
    while waiting:
        producer = waiting.pop().producer
        if producer is not None and producer not in found:
            found.add(producer)
            waiting += view.ins[producer]
    return found


def _input_layer(data: Layer, tops: list[Value], batch: int) -> Layer:
    param = pb.LayerParameter(name=data.name, type="Input", top=[value.name for value in tops])
    for value in tops:
        assert value.shape is not None
        param.input_param.shape.add().dim.extend((batch, *value.shape[1:]))
    return Layer(param, None, data.stage)


def _probability_layer(rewriter: Rewriter, loss: Layer, kind: str) -> Layer:
    name = rewriter.free("prob")
    param = pb.LayerParameter(name=name, type=kind, bottom=[loss.bottoms[0]], top=[name])
    own = loss.param.infogain_loss_param if loss.type == "InfogainLoss" else loss.param.softmax_param
    if kind == "Softmax" and own.HasField("axis"):
        param.softmax_param.axis = own.axis
    return Layer(param, None, loss.stage)
