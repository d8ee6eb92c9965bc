"""Finding BatchNorm and Scale behind a linear layer, for those who fold them and those who prune them.

linear layer -> BatchNorm -> Scale        linear layer -> BatchNorm        linear layer -> Scale
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
from deeprebirth_caffe.passes.patterns import LINEAR, Facts, other_axes, strange

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Chain:
    """A linear layer and the normalisation right behind it.

    Attributes:
        host: Convolution, Deconvolution or InnerProduct.
        norms: BatchNorm, Scale, or one behind the other.
    """

    host: Layer
    norms: tuple[Layer, ...]

    @property
    def all(self) -> frozenset[Layer]:
        return frozenset((self.host, *self.norms))


def find_chain(facts: Facts, layer: Layer) -> Chain | str | None:
    """The chain that starts its normalisation with this layer.

    Returns:
        The chain; a reason why there is none; or None for a layer that belongs to the chain of the one before it (a
        Scale behind a BatchNorm) or is no normalisation at all.
    """
    if layer.type not in ("BatchNorm", "Scale") or len(layer.bottoms) != 1:
        return None
    before = facts.before(layer)
    if layer.type == "Scale" and isinstance(before, Layer) and before.type == "BatchNorm":
        return None
    if isinstance(before, str):
        return before
    if before.type not in LINEAR:
        return f"no convolution directly in front: {before.name} ({before.type}) stands between"
    reason = facts.fixed(before) or _other_axis(before) or _odd(facts, layer)
    if reason:
        return reason
    norms = [layer]
    if layer.type == "BatchNorm":
        scale = facts.after(layer)
        if isinstance(scale, Layer) and scale.type == "Scale" and len(scale.bottoms) == 1 and not _odd(facts, scale):
            norms.append(scale)
    return Chain(before, tuple(norms))


def _odd(facts: Facts, layer: Layer) -> str:
    """Why a normalisation layer is not one map a channel; empty when it is."""
    if reason := strange(layer) or facts.fixed(layer):
        return reason
    return other_axes(layer, len(facts.value_in(layer).shape or (0,) * 4))


def _other_axis(host: Layer) -> str:
    """Why a linear layer's outputs are not the channels that a normalisation layer sees; empty when they are."""
    axis = linear_param(host).axis
    return "" if axis == 1 else f"{host.name} does not put its outputs on the channel axis (axis {axis})"


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


def missing_weights(weights: Weights | None, layers: Sequence[Layer]) -> str:
    """The first of the layers that has no weights, or some that are not finite; empty when all is there."""
    if weights is None:
        return "folding needs weights: give -w"
    for layer in layers:
        if layer.name not in weights:
            return f"the weights hold nothing for {layer.name}"
        if not weights.finite(layer.name):
            return f"the weights of {layer.name} are not finite"
    return ""


def unfoldable(weights: Weights | None, chain: Chain) -> str:
    """Why a chain's weights cannot be folded: they are missing, or the result would not be finite; empty when not."""
    return missing_weights(weights, [chain.host, *chain.norms]) or overflow(weights, chain)


def chain_affine(weights: Weights, norms: Sequence[Layer]) -> affine.Affine:
    """The one map a channel that the normalisation layers make together."""
    total: affine.Affine | None = None
    for layer in norms:
        blobs = weights[layer.name]
        if layer.type == "BatchNorm":
            step = affine.batch_norm(blobs[0], blobs[1], blobs[2], layer.param.batch_norm_param.eps)
        else:
            step = affine.scale(blobs[0], blobs[1] if len(blobs) > 1 else None)
        total = step if total is None else total.then(step)
    assert total is not None
    return total


def overflow(weights: Weights | None, chain: Chain) -> str:
    """Whether folding would give numbers that are not finite; empty when not."""
    assert weights is not None
    with np.errstate(all="ignore"):
        total = chain_affine(weights, chain.norms)
        largest = max(float(max(abs(blob.max()), abs(blob.min()))) for blob in weights[chain.host.name] if blob.size)
        reach = float(np.abs(total.scale).max()) * largest + float(np.abs(total.shift).max())
    if reach < float(np.finfo(np.float32).max):
        return ""
    names = " and ".join(layer.name for layer in chain.norms)
    return f"folding {names} gives numbers that are not finite: has it a negative variance?"


def folded(weights: Weights, chain: Chain) -> tuple[Array, Array]:
    """The host's weight and bias with the chain folded in."""
    blobs = weights[chain.host.name]
    group = conv_geometry(chain.host.param).group if chain.host.type == "Deconvolution" else 0
    weight = blobs[0]
    if chain.host.type == "InnerProduct" and chain.host.param.inner_product_param.transpose:
        weight = weight.T
    new, bias = affine.fold(
        weight, blobs[1] if len(blobs) > 1 else None, chain_affine(weights, chain.norms), group=group
    )
    if chain.host.type == "InnerProduct" and chain.host.param.inner_product_param.transpose:
        new = new.T
    return np.ascontiguousarray(new), bias


def add_bias(layer: Layer) -> None:
    """Gives a linear layer the bias that folding makes, where it had none."""
    param = linear_param(layer)
    if not param.bias_term:
        param.bias_term = True


def linear_param(layer: Layer) -> Any:
    """The parameter message of a Convolution, Deconvolution or InnerProduct."""
    return layer.param.inner_product_param if layer.type == "InnerProduct" else layer.param.convolution_param
