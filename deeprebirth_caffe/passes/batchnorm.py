"""Affine layers (BatchNorm, Scale, Bias, Power with power 1) beside a linear layer, for those who fold or prune them.

linear layer -> BatchNorm -> Scale        linear layer -> Scale -> Bias -> Power        …
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deeprebirth_caffe.ir import Layer, Net, Weights
from deeprebirth_caffe.numerics import affine
from deeprebirth_caffe.ops import conv_geometry
from deeprebirth_caffe.passes.patterns import Facts, other_axes, strange
from deeprebirth_caffe.rewrite import Reason

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Chain:
    """A linear layer and the affine layers right behind it.

    Attributes:
        host: Convolution, Deconvolution or InnerProduct.
        norms: one behind the other.
        macs: multiply-adds of the host; None where they are not known.
    """

    host: Layer
    norms: tuple[Layer, ...]
    macs: int | None

    @property
    def all(self) -> frozenset[Layer]:
        return frozenset((self.host, *self.norms))


def find_chain(
    facts: Facts, layer: Layer, *, norms_only: bool = False, fixed_only: bool = False
) -> Chain | Reason | None:
    """The chain whose first affine layer is this one.

    Args:
        facts: of the net.
        layer: any layer.
        norms_only: whether only a BatchNorm and the Scale behind it count, no Bias or Power.
        fixed_only: end the chain in front of a BatchNorm that uses the statistics of its batch.

    Returns:
        The chain; a reason why there is none; or None for a layer that belongs to the chain of the one before it (a
        Scale behind a BatchNorm) or does not count.
    """

    def counts(one: Layer) -> bool:
        return one.traits.affine and not (norms_only and (one.type == "Bias" or not one.traits.learned))

    if not counts(layer) or len(layer.bottoms) != 1:
        return None
    before = facts.before(layer)
    if isinstance(before, Layer) and counts(before) and len(before.bottoms) == 1:
        return None
    if isinstance(before, Reason):
        return before
    if not before.traits.linear:
        return Reason(f"no convolution directly in front: {before.name} ({before.type}) stands between")
    reason = facts.fixed(before) or other_axis(before) or odd(facts, layer)
    if reason:
        return reason
    norms = [layer]
    while True:
        found = facts.after(norms[-1])
        if isinstance(found, Reason) or not counts(found) or len(found.bottoms) != 1 or odd(facts, found):
            break
        if fixed_only and batch_statistics(facts.net, found):
            break
        norms.append(found)
    return Chain(before, tuple(norms), facts.macs(before))


def odd(facts: Facts, layer: Layer) -> Reason | None:
    """Why an affine layer is not one map a channel; empty when it is."""
    if reason := strange(layer) or facts.fixed(layer):
        return reason
    if layer.type == "Power" and layer.param.power_param.power != 1:
        return Reason(f"{layer.name} raises to the power {layer.param.power_param.power:g}, which is not affine")
    return other_axes(layer, len(facts.value_in(layer).shape or (0,) * 4))


def other_axis(host: Layer) -> Reason | None:
    """Why a linear layer's outputs are not the channels that an affine layer sees; empty when they are."""
    axis = host.own.axis
    return None if axis == 1 else Reason(f"{host.name} does not put its outputs on the channel axis (axis {axis})")


def batch_statistics(net: Net, layer: Layer) -> str:
    """The first state in which a layer normalises with the statistics of its batch; empty when it never does."""
    if layer.type != "BatchNorm":
        return ""
    param = layer.param.batch_norm_param
    for view in net.views:
        if layer in view.ins:
            use_global = param.use_global_stats if param.HasField("use_global_stats") else view.state.phase == "TEST"
            if not use_global:
                return str(view.state)
    return ""


def learning(net: Net, norms: Sequence[Layer]) -> Reason | None:
    """Why affine layers cannot be folded yet: one normalises with its batch in some state; empty when none does."""
    state = next((state for norm in norms if (state := batch_statistics(net, norm))), "")
    if not state:
        return None
    return Reason(
        f"it uses batch statistics in {state}: relearn with it, and `rebirth deploy` folds it (or --bn prune)"
    )


def missing_weights(weights: Weights | None, layers: Sequence[Layer]) -> Reason | None:
    """The first of the layers that has no weights, or some that are not finite; empty when all is there."""
    if weights is None:
        return Reason("folding needs weights: give -w")
    for layer in layers:
        if layer.type == "Power":  # its numbers are in the file
            continue
        if layer.name not in weights:
            return Reason(f"the weights hold nothing for {layer.name}")
        if not weights.finite(layer.name):
            return Reason(f"the weights of {layer.name} are not finite")
    return None


def unfoldable(weights: Weights | None, chain: Chain) -> Reason | None:
    """Why a chain's weights cannot be folded: they are missing, or the result would not be finite; empty when not."""
    return missing_weights(weights, [chain.host, *chain.norms]) or overflow(weights, chain)


def chain_affine(weights: Weights, norms: Sequence[Layer]) -> affine.Affine:
    """The one map a channel (or, of Power alone, for all channels) that affine layers make together."""
    total: affine.Affine | None = None
    for layer in norms:
        if layer.type == "Power":
            power = layer.param.power_param
            step = affine.scale(np.array([power.scale]), np.array([power.shift]))
        else:
            blobs = weights[layer.name]
            if layer.type == "BatchNorm":
                step = affine.batch_norm(blobs[0], blobs[1], blobs[2], layer.param.batch_norm_param.eps)
            elif layer.type == "Bias":
                step = affine.scale(np.ones(blobs[0].size), blobs[0])
            else:
                step = affine.scale(blobs[0], blobs[1] if len(blobs) > 1 else None)
        total = step if total is None else total.then(step)
    assert total is not None
    return total


def overflow(weights: Weights | None, chain: Chain) -> Reason | None:
    """Whether folding would give numbers that are not finite; empty when not."""
    assert weights is not None
    with np.errstate(all="ignore"):
        total = chain_affine(weights, chain.norms)
        largest = max(float(max(abs(blob.max()), abs(blob.min()))) for blob in weights[chain.host.name] if blob.size)
        reach = float(np.abs(total.scale).max()) * largest + float(np.abs(total.shift).max())
    if reach < float(np.finfo(np.float32).max):
        return None
    names = " and ".join(layer.name for layer in chain.norms)
    return Reason(f"folding {names} gives numbers that are not finite: has it a negative variance?")


def folded(weights: Weights, chain: Chain) -> tuple[Array, Array]:
    """The host's weight and bias with the chain folded in."""
    blobs = weights[chain.host.name]
    group = conv_geometry(chain.host.param).group if chain.host.type == "Deconvolution" else 0
    weight = blobs[0]
    if chain.host.type == "InnerProduct" and chain.host.param.inner_product_param.transpose:
        weight = weight.T
    total = chain_affine(weights, chain.norms).over(chain.host.own.num_output)
    new, bias = affine.fold(weight, blobs[1] if len(blobs) > 1 else None, total, group=group)
    if chain.host.type == "InnerProduct" and chain.host.param.inner_product_param.transpose:
        new = new.T
    return np.ascontiguousarray(new), bias


def add_bias(layer: Layer) -> None:
    """Gives a linear layer the bias that folding makes, where it had none."""
    if not layer.own.bias_term:
        layer.own.bias_term = True
