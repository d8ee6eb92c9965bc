"""What only training needs, out: data layers, losses, accuracies, auxiliary heads, Dropout. Exact in TEST.

    data layers -> Input           SoftmaxWithLoss, InfogainLoss -> Softmax "prob"
                                   SigmoidCrossEntropyLoss -> Sigmoid "prob"
    other losses, metrics, and all that only they read -> nothing
    every blob that a loss judges and that does not come from data alone stays (all that a MultiBoxLoss decodes)
    what TEST makes of such a blob itself (Softmax, ArgMax, …) stays
    Dropout -> nothing (in TEST it is the identity)

A head is auxiliary when another head has the same kind of loss on the same labels with a larger loss_weight
(GoogLeNet's loss1 and loss2, 0.3 beside 1); `passes.heads` has the rules. What is left are the layers alive in TEST,
without their include rules. A Silence stays where its blob would be a new output without it. A net whose only results
are read by Silence layers loses those, so that the results are its outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from deeprebirth_caffe.ir import SILENCE, Layer, Net, Value, View, unknown_shape
from deeprebirth_caffe.ir.subnet import ancestors
from deeprebirth_caffe.passes.heads import Head, find_heads, find_results
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.rewrite import Applied, Kind, Match, Pass, Reason, Refusal, Rewriter


@dataclass(frozen=True)
class _Plan:
    keep: frozenset[Layer]
    inputs: dict[Layer, list[Value]]
    ends: dict[Layer, str]
    dropouts: dict[Layer, bool]
    silences: dict[Layer, list[str]]
    loose: list[str]
    stale: list[str]
    old_batch: int


@dataclass(frozen=True)
class StripTraining(Pass[_Plan]):
    """Makes a deploy net.

    Attributes:
        batch: of all inputs; None: 1 of those that take the place of a data layer, the file's own of the others.
    """

    name: ClassVar[str] = "strip-training"
    kind: ClassVar[Kind] = Kind.EXACT

    batch: int | None = None

    def match(self, net: Net) -> Iterator[Match[_Plan] | Refusal]:
        view = net.view("TEST")
        heads = find_heads(net)
        wanted = find_results(net, heads)
        if not wanted:
            yield Refusal(net.layers[0], Reason("it computes no blob that a loss judges, and has no output"))
            return
        keep = ancestors(view, wanted)
        inputs: dict[Layer, list[Value]] = {}
        for layer in view.layers:
            if layer in keep and layer.fed:
                read = [value for value in view.outs[layer] if value in wanted or _stays(layer, value, keep)]
                if layer.type == "Input" and read == view.outs[layer]:
                    continue
                inputs[layer] = read
                lost = next((value for value in read if value.shape is None), None)
                if lost is not None:
                    yield Refusal(layer, Reason(unknown_shape(lost)))
                    return
        silences, loose = _silences(view, keep, inputs, wanted)
        keep |= silences.keys()
        ends = {head.layer: head.layer.traits.probability for head in heads if _ends_openly(view, head, keep)}
        dropouts = _dropouts(view, keep, wanted)
        ruled = any(layer.param.include or layer.param.exclude for layer in keep)
        same = self.batch in (None, view.batch)
        if len(keep) == len(net.layers) and not inputs and not dropouts and not ruled and same:
            return
        # What layers that go overwrote in place is not what the blob's name meant.
        unread = {*loose, *(name for names in silences.values() for name in names)}
        stale = [name for name in unread if view.blobs[name].producer not in keep and view.blobs[name].producer]
        plan = _Plan(frozenset(keep), inputs, ends, dropouts, silences, loose, sorted(stale), view.batch)
        yield Match(net.layers[0], frozenset(net.layers), plan)

    def apply(self, match: Match[_Plan], rewriter: Rewriter) -> Applied:
        plan = match.plan
        done = Applied()
        if self.batch is not None:
            rewriter.set_input_batch(plan.old_batch, self.batch)
            if self.batch != plan.old_batch:
                done.notes.append(f"{self.batch} images a pass instead of {plan.old_batch}")
        made: set[tuple[str, str]] = set()
        for layer in list(rewriter.net.layers):
            if layer in plan.inputs:
                rewriter.insert_before(layer, _input_layer(layer, plan.inputs[layer], self.batch or 1))
            end = plan.ends.get(layer)
            if end and (end, layer.bottoms[0]) not in made:
                made.add((end, layer.bottoms[0]))
                rewriter.insert_before(layer, _probability_layer(rewriter, layer, end))
            if layer not in plan.keep or layer in plan.inputs:
                done.removed.append(layer.name)
                rewriter.remove(layer)
            else:
                rewriter.clear_rules(layer)
        for layer, blobs in plan.silences.items():
            rewriter.set_bottoms(layer, blobs)
        if plan.loose:
            silence = pb.LayerParameter(name=rewriter.free("silence"), type=SILENCE, bottom=plan.loose)
            rewriter.insert_after(rewriter.net.layers[-1], Layer(silence))
        for blob in plan.stale:
            rewriter.rename_blob(blob, rewriter.fresh(blob, Kind.EXACT))
        for layer, sole in plan.dropouts.items():
            done.removed.append(layer.name)
            rewriter.erase(layer, sole=sole)
        return done


def _dropouts(view: View, keep: set[Layer], wanted: list[Value]) -> dict[Layer, bool]:
    """The Dropouts that can go, and whether each alone (of what is kept) reads its blob."""
    found = {}
    for layer in view.layers:
        if layer.traits.identity_in_test and layer in keep and len(layer.bottoms) == len(layer.tops) == 1:
            read, written = view.ins[layer][0], view.outs[layer][0]
            data = read.producer is None or read.producer.fed
            named = data or read in wanted
            sole = not named and [use for use, _ in read.uses if use in keep] == [layer]
            uses = [(use, index) for use, index in written.uses if use in keep]
            free = uses and written not in wanted and not any(use.in_place(index) for use, index in uses)
            # A result of the net keeps its name, so a Dropout that makes one from what others read too must stay; so
            # must one that gives an in-place layer a blob of its own.
            if layer.in_place(0) or sole or free:
                found[layer] = sole
    return found


def _stays(data: Layer, value: Value, keep: set[Layer]) -> bool:
    """Whether a blob of a data layer stays an input: the net reads it, or an Input gives it for no loss or metric."""
    readers = [use for use, _ in value.uses]
    return any(use in keep for use in readers) or (
        data.type == "Input" and (not readers or any(use.type == SILENCE for use in readers))
    )


def _silences(
    view: View, keep: set[Layer], inputs: dict[Layer, list[Value]], wanted: list[Value]
) -> tuple[dict[Layer, list[str]], list[str]]:
    """What would become an output once its readers are gone, by the Silence that reads it, and what none reads."""
    values = list(view.inputs)
    for layer in view.layers:
        if layer in keep:
            values += inputs.get(layer, view.outs[layer])
    silences: dict[Layer, list[str]] = {}
    loose = []
    for value in values:
        readers = [use for use, _ in value.uses]
        if not readers or value in wanted or any(use in keep for use in readers):
            continue
        silence = next((use for use in readers if use.type == SILENCE), None)
        if silence is not None:
            silences.setdefault(silence, []).append(value.name)
        else:
            loose.append(value.name)
    return silences, loose


def _ends_openly(view: View, head: Head, keep: set[Layer]) -> bool:
    """Whether nothing that stays reads a head's blob, so that its probabilities are still to be made."""
    value = view.blob(head.blobs[0])
    return value is not None and not any(layer in keep for layer, _ in value.uses)


def _input_layer(data: Layer, tops: list[Value], batch: int) -> Layer:
    param = pb.LayerParameter(name=data.name, type="Input", top=[value.name for value in tops])
    for value in tops:
        assert value.shape is not None
        shape = value.shape if data.type == "Input" else (batch, *value.shape[1:])
        param.input_param.shape.add().dim.extend(shape)
    return Layer(param, None, data.stage)


def _probability_layer(rewriter: Rewriter, loss: Layer, kind: str) -> Layer:
    name = rewriter.free("prob")
    param = pb.LayerParameter(name=name, type=kind, bottom=[loss.bottoms[0]], top=[name])
    own = loss.param.infogain_loss_param if loss.type == "InfogainLoss" else loss.param.softmax_param
    if kind == "Softmax" and own.HasField("axis"):
        param.softmax_param.axis = own.axis
    return Layer(param, None, loss.stage)
