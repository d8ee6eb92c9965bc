"""Where gradients go: Caffe's rules for which layers, inputs and parameters a backward pass reaches.

A layer passes a gradient on to an input if something behind that input learns (or `propagate_down` says so), and only
where the layer itself contributes to a loss, or to a value where a gradient enters from outside (what a teacher says of
a blob). `force_backward` asks for every gradient there is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from deeprebirth_caffe.ir import Layer, Value, View

_NO_GRADIENT = {"ContrastiveLoss": 2, "EuclideanLoss": None, "HingeLoss": 1, "InfogainLoss": 1}
"""The input that gets no gradient under `force_backward`; other losses: 1, their labels."""


@dataclass(frozen=True)
class Flow:
    """What a backward pass reaches.

    Attributes:
        bottoms: for each layer, whether it hands a gradient to each of its inputs.
        params: for each layer, whether it works out a gradient for each of its parameters.
    """

    bottoms: Mapping[Layer, Sequence[bool]]
    params: Mapping[Layer, Sequence[bool]]


def loss_weights(layer: Layer) -> list[float]:
    """The loss weight of each top, nameless ones included."""
    kind = layer.op
    if layer.type == "Parameter":  # its top and its blob are one: clearing gradients, Caffe clears the weight as well
        return [0.0] * len(layer.tops)
    tops = len(layer.tops) + (kind.auto_tops(layer.param) if kind is not None else 0)
    if layer.param.loss_weight:
        return [*layer.param.loss_weight][:tops]
    loss = kind is not None and kind.loss
    return [float(loss and index == 0) for index in range(tops)]


def gradient_flow(view: View, blobs: Mapping[Layer, int], force: bool, entries: Collection[Value] = ()) -> Flow:
    """Finds where gradients go in a net.

    Args:
        view: the net.
        blobs: how many parameters each layer has.
        force: whether the net says `force_backward`.
        entries: where gradients enter besides, as if each were a loss.
    """
    bottoms, params, needs = _downwards(view, blobs)
    _upwards(view, bottoms, needs, entries)
    if force:
        for layer in view.layers:
            for index in range(len(bottoms[layer])):
                bottoms[layer][index] |= _may_force(layer, index)
            params[layer] = [True] * blobs[layer]
    else:
        for layer in view.layers:
            if not needs[layer]:
                params[layer] = [False] * blobs[layer]
    for layer in view.layers:
        if layer.type == "BatchNorm":  # asks for gradients above it like a layer that learns, but works out none
            params[layer] = [False] * blobs[layer]
    return Flow(bottoms, params)


def _downwards(
    view: View, blobs: Mapping[Layer, int]
) -> tuple[dict[Layer, list[bool]], dict[Layer, list[bool]], dict[Layer, bool]]:
    """From the data to the losses: what has something to learn behind it."""
    learns: dict[Value, bool] = {}
    bottoms: dict[Layer, list[bool]] = {}
    params: dict[Layer, list[bool]] = {}
    needs: dict[Layer, bool] = {}
    for layer in view.layers:
        behind = [learns.get(value, False) for value in view.ins[layer]]
        told = list(layer.param.propagate_down)
        bottoms[layer] = told or list(behind)
        specs = layer.param.param
        params[layer] = [index >= len(specs) or specs[index].lr_mult != 0 for index in range(blobs[layer])]
        needs[layer] = any(behind) or any(params[layer])
        for value in view.outs[layer]:
            learns[value] = needs[layer]
    return bottoms, params, needs


def _upwards(
    view: View, bottoms: dict[Layer, list[bool]], needs: dict[Layer, bool], entries: Collection[Value]
) -> None:
    """From the losses to the data: what no loss depends on needs no gradient, nor what is cut off above."""
    under_loss: set[Value] = set()
    cut: set[tuple[Layer, int]] = set()
    for layer in reversed(view.layers):
        outs = view.outs[layer]
        starts = any(loss_weights(layer)) or any(value in entries for value in outs)
        contributes = starts or any(value in under_loss for value in outs)
        unwanted = bool(outs) and all(value.uses and all(use in cut for use in value.uses) for value in outs)
        if starts:
            unwanted = False
        if needs[layer] and unwanted:
            bottoms[layer] = [False] * len(bottoms[layer])
        needs[layer] = needs[layer] and contributes and not unwanted
        if not contributes:
            bottoms[layer] = [False] * len(bottoms[layer])
        for index, value in enumerate(view.ins[layer]):
            if contributes:
                under_loss.add(value)
            if not bottoms[layer][index]:
                cut.add((layer, index))


def _may_force(layer: Layer, index: int) -> bool:
    if not layer.traits.loss:
        return True
    return index != _NO_GRADIENT.get(layer.type, 1)
