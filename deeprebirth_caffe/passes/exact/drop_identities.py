"""Layers that put out what they read, out: exact.

    Dropout (in TEST, or with ratio 0)              Split, Slice, Concat of one
    Pooling 1x1, stride 1, no pad                   Flatten, Reshape to the shape it had; Tile once
    Power x^1 * 1 + 0                               in a net that does not train: BatchNorm, Scale, Bias that
                                                    multiply by 1 and add 0

(Eltwise needs two bottoms in Caffe, so there is none of one.) Where others read the same blob, the layer's readers are
led to it; the layer stays where that would change what a name means: an output of the net that others read as well, or
a blob that a later layer overwrites while others read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from deeprebirth_caffe.ir import Layer, Net, Value
from deeprebirth_caffe.ops import pool_geometry
from deeprebirth_caffe.passes.batchnorm import batch_statistics, chain_affine, missing_weights, odd
from deeprebirth_caffe.passes.patterns import THIS_SIZE, Facts, strange
from deeprebirth_caffe.rewrite import Applied, ExactPass, Match, Reason, Refusal, Rewriter


@dataclass(frozen=True)
class DropIdentities(ExactPass[bool]):
    """Removes layers that do nothing."""

    name: ClassVar[str] = "drop-identities"

    def match(self, net: Net) -> Iterator[Match[bool] | Refusal]:
        facts = Facts(net)
        for layer in net.layers:
            if not _is_identity(facts, layer):
                continue
            sole = not facts.read_by_others(layer)
            if reason := _tied(facts, layer, sole) or _for_now(facts, layer):
                yield Refusal(layer, reason)
            else:
                # The neighbours' blobs get other names, so what reads or makes them waits for the next sweep.
                near = {one for one, _ in (*net.readers(layer), *net.producers(layer)) if one is not None}
                yield Match(layer, frozenset({layer, *near}), sole)

    def apply(self, match: Match[bool], rewriter: Rewriter) -> Applied:
        rewriter.erase(match.layer, sole=match.plan)
        return Applied([match.layer.name])


def _is_identity(facts: Facts, layer: Layer) -> bool:
    """Whether a layer puts out what it reads, but for what `_tied` says."""
    if len(layer.bottoms) != 1 or len(layer.tops) != 1 or strange(layer):
        return False
    param = layer.param
    if layer.traits.identity_in_test:
        return True
    if layer.type == "Power":
        return (param.power_param.power, param.power_param.scale, param.power_param.shift) == (1, 1, 0)
    if layer.type == "Pooling":
        if layer.traits.random(param):
            return False
        return all(_one_by_one(layer, value) for value in facts.net.values_in(layer))
    if layer.traits.moves:
        pairs = zip(facts.net.values_in(layer), facts.net.values_out(layer), strict=True)
        return all(into.shape is not None and into.shape == out.shape for into, out in pairs)
    return layer.traits.affine and layer.traits.learned and _changes_nothing(facts, layer)


def _one_by_one(pool: Layer, bottom: Value) -> bool:
    """Whether a Pooling looks at each position alone."""
    if bottom.shape is None:
        return False
    window = pool_geometry(pool.param, bottom.shape)
    return (window.kernel, window.stride, window.pad) == ((1, 1), (1, 1), (0, 0))


def _for_now(facts: Facts, layer: Layer) -> Reason | None:
    """Why a layer does nothing at the given size or batch alone; empty where it never does anything."""
    sizes = facts.net.other_sizes
    for views, what in ((sizes.views, THIS_SIZE), (sizes.batches, "and the net takes other batches")):
        for view in views:
            if layer not in view.ins:  # behind a layer that does not run at that size
                continue
            into, out = view.ins[layer][0], view.outs[layer][0]
            if into.shape != out.shape or (layer.type == "Pooling" and not _one_by_one(layer, into)):
                return Reason(
                    f"it does nothing to {'x'.join(map(str, facts.value_in(layer).shape or ()))} alone, {what}"
                )
    return None


def _changes_nothing(facts: Facts, layer: Layer) -> bool:
    """Whether a layer that learned its numbers multiplies by 1 and adds 0."""
    weights = facts.net.weights
    if weights is None or facts.trains or missing_weights(weights, [layer]) or odd(facts, layer):
        return False
    if batch_statistics(facts.net, layer):
        return False
    with np.errstate(all="ignore"):
        own = chain_affine(weights, [layer])
    return bool(np.all(own.scale == 1) and not np.any(own.shift))


def _tied(facts: Facts, layer: Layer, sole: bool) -> Reason | None:
    """Why a layer that does nothing must stay; empty when it can go."""
    trains = [state for state in facts.alive(layer) if state.phase == "TRAIN"]
    if layer.traits.identity_in_test and trains and layer.param.dropout_param.dropout_ratio != 0:
        return Reason("it drops in TRAIN: relearn with it, and `rebirth deploy` takes it out")
    if any(layer.param.loss_weight):
        return Reason(f"{layer.name} is part of the loss itself (loss_weight)")
    if not facts.alive(layer) or layer.in_place(0):
        return None if facts.alive(layer) else Reason("it is alive in no state")
    near = [one for one, _ in (*facts.net.producers(layer), *facts.net.readers(layer)) if one is not None]
    blobs = [layer.tops[0], *layer.bottoms[:sole]]
    if not all(map(facts.one_maker, blobs)) or any(facts.alive(one) != facts.alive(layer) for one in near if sole):
        return Reason(f"{layer.bottoms[0]} and {layer.tops[0]} are not the same in all phases")
    if sole:
        return None
    values = facts.net.values_out(layer)
    if not all(value.uses for value in values):
        return Reason(f"{layer.tops[0]} is an output of the net, and {layer.bottoms[0]} is read by others too, or fed")
    later = next((use for value in values for use, index in value.uses if use.in_place(index)), None)
    return Reason(f"{later.name} overwrites {layer.tops[0]}, and others read {layer.bottoms[0]}") if later else None
