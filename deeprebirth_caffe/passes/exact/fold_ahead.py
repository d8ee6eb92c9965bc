"""BatchNorm, Scale, Bias and Power (power 1) into the linear layers behind them: exact.

    y = W (s * a + t) + b = (W * s) a + (W t + b)            s, t: what the affine layer makes of each channel

The scale folds always: into Convolution (each group's inputs have their own), Deconvolution, and InnerProduct, also
through a Flatten. The shift folds where every output sees every tap, for then it is one number an output: never where
the layer pads (its zeros stay 0, the shifted image would have t there), and not into a Deconvolution whose kernel is
larger than 1x1 (its outputs see different taps). So with padding an affine layer only folds when its shift is 0.
Everybody who reads the layer must be able to take it in. The numbers are in `numerics.affine`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from deeprebirth_caffe.ir import Layer, Net, Weights, unknown_shape
from deeprebirth_caffe.numerics import affine
from deeprebirth_caffe.ops import conv_geometry
from deeprebirth_caffe.passes.batchnorm import (
    add_bias,
    chain_affine,
    learning,
    missing_weights,
    odd,
)
from deeprebirth_caffe.passes.patterns import Facts, strange
from deeprebirth_caffe.rewrite import Applied, ExactPass, Kind, Match, Reason, Refusal, Rewriter

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Plan:
    """The layers that take an affine layer in, their new weights, and the Flattens on the way."""

    hosts: tuple[Layer, ...]
    flats: tuple[Layer, ...]
    arrays: tuple[tuple[Array, Array], ...]
    shifts: bool
    macs: int


@dataclass(frozen=True)
class FoldAhead(ExactPass[_Plan]):
    """Folds affine layers into the Convolution, Deconvolution or InnerProduct layers behind them."""

    name: ClassVar[str] = "fold-ahead"
    after: ClassVar[tuple[str, ...]] = ("sum-siblings",)
    """Affine layers go to the layer in front first, which takes any, and only the others to the layers behind."""

    def match(self, net: Net) -> Iterator[Match[_Plan] | Refusal]:
        facts = Facts(net)
        for layer in net.layers:
            if layer.traits.affine and len(layer.bottoms) == 1 and len(layer.tops) == 1:
                readers = _readers(facts, layer)
                if not readers:  # nothing linear behind it: no place for this pass
                    continue
                found = readers if isinstance(readers, Reason) else _plan(facts, layer, *readers)
                if isinstance(found, Reason):
                    yield Refusal(layer, found)
                else:
                    yield Match(layer, frozenset({layer, *found.hosts, *found.flats}), found)

    def apply(self, match: Match[_Plan], rewriter: Rewriter) -> Applied:
        plan = match.plan
        layer = match.layer
        done = Applied([layer.name, *(host.name for host in plan.hosts)], [], plan.macs, plan.macs)
        in_place = layer.in_place(0)
        fed = any(
            producer is None or producer.op is None or producer.op.data for producer, _ in rewriter.net.producers(layer)
        )
        rewriter.erase(layer, sole=False)
        blobs = [flat.tops[0] for flat in plan.flats]
        # The blob is not scaled any more; an input keeps the name under which it is fed.
        if in_place and not fed:
            blobs.append(layer.tops[0])
        for blob in blobs:
            rewriter.rename_blob(blob, rewriter.fresh(blob, Kind.EXACT))
        for host, (weight, bias) in zip(plan.hosts, plan.arrays, strict=True):
            twin = rewriter.derive(host, Kind.EXACT, [layer])
            if plan.shifts:
                add_bias(twin)
            rewriter.set_weights(twin, [weight, bias] if twin.own.bias_term else [weight])
            done.rebirth.append(twin.name)
        return done


def _readers(facts: Facts, layer: Layer) -> tuple[tuple[Layer, ...], tuple[Layer, ...]] | Reason | None:
    """The linear layers that read an affine one and the Flattens in between; a reason; None where none is linear."""
    hosts: list[Layer] = []
    flats: list[Layer] = []
    other: Reason | None = None
    for reader, _ in facts.net.readers(layer):
        host: Layer | Reason = reader
        if reader.type == "Flatten":
            host = facts.after(reader)
            param = reader.param.flatten_param
            if isinstance(host, Layer) and host.type == "InnerProduct" and (param.axis, param.end_axis) == (1, -1):
                flats.append(reader)
                hosts.append(host)
                continue
        elif reader.traits.linear:
            hosts.append(reader)
            continue
        other = other or Reason(f"{reader.name} ({reader.type}) reads {layer.tops[0]} too")
    if not hosts or other:
        return other if hosts else None
    if (reason := odd(facts, layer)) or not (layer.in_place(0) or facts.one_maker(layer.tops[0])):
        return reason or Reason(f"another layer makes {layer.tops[0]} in another phase")
    for one in (*flats, *hosts):
        if reason := strange(one) or (facts.fixed(one) if one in hosts else None):
            return reason
        if facts.alive(one) != facts.alive(layer):
            return Reason(f"{layer.name} and {one.name} are alive in different phases")
    if flat := next((one for one in flats if not facts.one_maker(one.tops[0])), None):
        return Reason(f"another layer makes {flat.tops[0]} in another phase")
    return tuple(hosts), tuple(flats)


def _plan(facts: Facts, layer: Layer, hosts: tuple[Layer, ...], flats: tuple[Layer, ...]) -> _Plan | Reason:
    weights = facts.net.weights
    reason = learning(facts.net, [layer]) or missing_weights(weights, [layer, *hosts])
    if reason:
        return reason
    assert weights is not None
    shape = facts.value_in(layer).shape
    if shape is None:
        return Reason(unknown_shape(facts.value_in(layer)))
    with np.errstate(all="ignore"):
        own = chain_affine(weights, [layer]).over(shape[1])
    shifts = bool(np.any(own.shift))
    arrays = []
    for host in hosts:
        if host.own.axis != 1:
            return Reason(f"{host.name} does not read channels (axis {host.own.axis})")
        if shifts and (reason := _unshiftable(facts, layer, host)):
            return reason
        folded = _fold(weights, host, own)
        if not all(np.isfinite(array.astype(np.float32)).all() for array in folded):
            return Reason(f"folding {layer.name} gives numbers that are not finite: has it a negative variance?")
        arrays.append(folded)
    return _Plan(hosts, flats, tuple(arrays), shifts, sum(facts.macs(host) or 0 for host in hosts))


def _unshiftable(facts: Facts, layer: Layer, host: Layer) -> Reason | None:
    """Why a shift in front of a layer is not a bias of the layer; empty when it is."""
    if host.type == "InnerProduct":
        return None
    for value in facts.net.values_in(host):
        if value.shape is None:
            return Reason(unknown_shape(value))
        window = conv_geometry(host.param, len(value.shape) - 2)
        if host.type == "Deconvolution":
            if set(window.kernel) != {1} or set(window.stride) != {1}:
                return Reason(
                    f"{layer.name} shifts, and the outputs of {host.name} (Deconvolution) do not all see the same taps"
                )
        elif any(window.pad):
            return Reason(
                f"{host.name} pads with zeros, which {layer.name} does not shift (pad "
                f"{'x'.join(map(str, window.pad))}): in front of padding only a scale folds"
            )
        elif any(size < extent for size, extent in zip(value.shape[2:], window.extent, strict=True)):
            return Reason(f"the kernel of {host.name} reaches beyond the image, where {layer.name} does not shift")
    return None


def _fold(weights: Weights, host: Layer, own: affine.Affine) -> tuple[Array, Array]:
    """The new weight and bias of a host, as its blobs are laid out."""
    weight, *rest = weights[host.name]
    bias = rest[0] if rest else None
    with np.errstate(all="ignore"):
        if host.type == "InnerProduct":
            turned = host.param.inner_product_param.transpose
            new, shifted = affine.fold_ahead(weight.T if turned else weight, bias, own)
            return np.ascontiguousarray(new.T if turned else new), shifted
        group = conv_geometry(host.param).group
        if host.type == "Deconvolution":
            return affine.fold_ahead_transposed(weight, bias, own, group=group)
        return affine.fold_ahead(weight, bias, own, group=group)
