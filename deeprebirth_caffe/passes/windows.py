"""Convolutions and average pooling as linear windows, and joining two of them into one convolution.

Average pooling is a convolution with a group for each channel and 1 / (kh kw) everywhere; only without pad and
overhang, for Caffe divides by the part of the window that lies on the (padded) image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deeprebirth_caffe.ir import Layer, Weights, unknown_shape
from deeprebirth_caffe.numerics.compose import Axis, compose
from deeprebirth_caffe.ops import Shape, conv_geometry, pool_geometry
from deeprebirth_caffe.passes.batchnorm import add_bias, missing_weights
from deeprebirth_caffe.passes.convs import set_geometry
from deeprebirth_caffe.passes.costs import no_gain, predicted, predicted_now
from deeprebirth_caffe.passes.patterns import THIS_SIZE, Facts, any_size, strange
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.rewrite import Applied, Kind, Reason, Rewriter

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Joint:
    """Two windows, one behind the other, as one convolution.

    Attributes:
        pair: the layers.
        host: the one of them whose place and name the new one takes.
        param: the new message.
        arrays: the new weight and maybe bias.
    """

    pair: tuple[Layer, Layer]
    host: Layer
    param: pb.LayerParameter
    arrays: tuple[Array, ...]
    macs_before: int | None
    macs_after: int | None


@dataclass(frozen=True)
class _Window:
    axes: tuple[Axis, Axis]
    group: int


def join_windows(facts: Facts, first: Layer, second: Layer) -> Joint | Reason:
    """Two windows as one, or why they stay two: it would not be exact, or not pay."""
    pair = (first, second)
    host = second if second.type == "Convolution" else first
    for layer in pair:
        if reason := strange(layer) or facts.fixed(layer):
            return reason
        if not facts.one_maker(layer.tops[0]):
            return Reason(f"another layer makes {layer.tops[0]} in another phase")
    weights = facts.net.weights
    if reason := missing_weights(weights, [layer for layer in pair if layer.type == "Convolution"]):
        return reason
    assert weights is not None
    windows: tuple[_Window, _Window] | None = None
    values = zip(facts.net.values_in(first), facts.net.values_out(first), facts.net.values_out(second), strict=True)
    for state in values:
        for value in state:
            if value.shape is None:
                return Reason(unknown_shape(value))
        shapes = [value.shape for value in state if value.shape is not None]
        found = _look(first, shapes[0]), _look(second, shapes[1])
        if isinstance(found[0], Reason):
            return found[0]
        if isinstance(found[1], Reason):
            return found[1]
        if windows is not None and found != windows:
            return Reason(f"{first.name} and {second.name} have other windows in another phase")
        windows = found[0], found[1]
        if reason := _inexact(weights, pair, windows, shapes):
            return reason
    assert windows is not None, "a layer that is alive has an input"
    joint = _join(facts, pair, host, windows)
    if isinstance(joint, Joint) and any_size(facts, first):
        return _inexact_elsewhere(pair, windows) or joint
    return joint


def _look(layer: Layer, bottom: Shape) -> _Window | Reason:
    """A layer as a window, or why it is none."""
    if len(bottom) != 4:
        return Reason(f"{layer.name} is not 2-d")
    if layer.type == "Convolution":
        conv = conv_geometry(layer.param, 2)
        if layer.param.convolution_param.axis != 1:
            return Reason(f"{layer.name} is not 2-d")
        parts = zip(conv.kernel, conv.stride, conv.pad, conv.dilation, strict=True)
        high, wide = (Axis(*part) for part in parts)
        return _Window((high, wide), conv.group)
    pool = pool_geometry(layer.param, bottom)
    if pool.method != "AVE":
        return Reason(f"{layer.name} is no average")
    if any(pool.pad):
        return Reason(f"{layer.name} pads: Caffe does not divide all its windows by the same number")
    if any(hang > 0 for hang in pool.overhang(bottom[2:])):
        return Reason(f"the last window of {layer.name} hangs over: Caffe divides it by what lies on the image")
    high, wide = (Axis(kernel, stride, 0, 1) for kernel, stride in zip(pool.kernel, pool.stride, strict=True))
    return _Window((high, wide), bottom[1])


def _inexact(
    weights: Weights, pair: tuple[Layer, Layer], windows: tuple[_Window, _Window], shapes: Sequence[Shape]
) -> Reason | None:
    """Why the joint window would not compute the same; empty when it does."""
    first, second = pair
    biased = first.type == "Convolution" and len(weights[first.name]) > 1 and bool(np.any(weights[first.name][1]))
    for axis, (one, two) in enumerate(zip(windows[0].axes, windows[1].axes, strict=True)):
        size, middle = shapes[0][2 + axis], shapes[1][2 + axis]
        if not one.fits(size) or not two.fits(middle):
            return Reason(f"the kernel of {first.name} or {second.name} reaches beyond its image")
        if two.pad and (biased or not one.beyond(size, middle)):
            why = "its bias" if biased else "part of the image"
            return Reason(
                f"{second.name} pads with zeros what {first.name} puts out, which would have {why} there: "
                "only without that pad are they one convolution"
            )
    return None


def _inexact_elsewhere(pair: tuple[Layer, Layer], windows: tuple[_Window, _Window]) -> Reason | None:
    """Why the joint window would not compute the same for images of another size; empty when it does."""
    for layer in pair:
        own = layer.param.pooling_param
        if layer.type == "Pooling" and own.global_pooling:
            return Reason(f"the window of {layer.name} is the whole image, {THIS_SIZE}")
        if layer.type == "Pooling" and own.round_mode != own.FLOOR and max(pool_geometry(layer.param).stride) > 1:
            return Reason(f"{layer.name} rounds its size up and a convolution down, {THIS_SIZE}")
    if any(two.pad and not one.always_beyond() for one, two in zip(windows[0].axes, windows[1].axes, strict=True)):
        first, second = pair
        return Reason(
            f"at other sizes {second.name} would pad what {first.name} puts out over part of the image, {THIS_SIZE}"
        )
    return None


def _blobs(layer: Layer, weights: Weights, window: _Window) -> tuple[Array, Array | None, int]:
    if layer.type == "Convolution":
        blobs = weights[layer.name]
        return blobs[0], blobs[1] if len(blobs) > 1 else None, window.group
    kernel = [axis.kernel for axis in window.axes]
    return np.full((window.group, 1, *kernel), 1.0 / (kernel[0] * kernel[1])), None, window.group


def _join(facts: Facts, pair: tuple[Layer, Layer], host: Layer, windows: tuple[_Window, _Window]) -> Joint | Reason:
    weights = facts.net.weights
    assert weights is not None
    axes = [one.then(two) for one, two in zip(windows[0].axes, windows[1].axes, strict=True)]
    group = int(np.gcd(windows[0].group, windows[1].group))
    param = pb.LayerParameter()
    param.CopyFrom(host.param)
    own = param.convolution_param
    own.num_output = facts.net.values_out(pair[1])[0].shape[1]  # type: ignore[index]  # it was asked for above
    if own.group != group:
        own.group = group
    set_geometry(own, *([getattr(a, name) for a in axes] for name in ("kernel", "stride", "pad", "dilation")))
    bottoms = facts.shapes_in(pair[0])
    assert not isinstance(bottoms, Reason)
    if reason := no_gain(predicted_now(facts, pair), predicted(param, bottoms)):
        return reason
    with np.errstate(all="ignore"):
        first, second = (_blobs(layer, weights, window) for layer, window in zip(pair, windows, strict=True))
        weight, bias, _ = compose(first, second, list(zip(windows[0].axes, windows[1].axes, strict=True)))
        arrays = (weight,) if bias is None else (weight, bias)
        if not all(np.isfinite(array.astype(np.float32)).all() for array in arrays):
            return Reason(f"{pair[0].name} and {pair[1].name} together give numbers that are not finite")
    if own.bias_term != (bias is not None):
        own.bias_term = bias is not None
    macs = [facts.macs(layer) for layer in pair]
    return Joint(pair, host, param, arrays, sum(n or 0 for n in macs), facts.macs(host, param, bottoms[0]))


def apply_joint(rewriter: Rewriter, joint: Joint) -> Applied:
    """Puts one convolution where the two windows were."""
    first, second = joint.pair
    gone = second if joint.host is first else first
    done = Applied([first.name, second.name], [], joint.macs_before, joint.macs_after)
    # A first window's input may have other readers; a second one's is its own.
    rewriter.erase(gone, sole=gone is second)
    twin = rewriter.derive(joint.host, Kind.EXACT, [gone])
    twin.param.convolution_param.CopyFrom(joint.param.convolution_param)
    if len(joint.arrays) > 1:
        add_bias(twin)
    rewriter.set_weights(twin, joint.arrays)
    done.rebirth.append(twin.name)
    return done


def neighbours(facts: Facts, fits: Callable[[Layer, Layer], bool]) -> list[tuple[Layer, Layer]]:
    """Pairs of layers that fit each other, of which the second alone reads the first."""
    found = []
    for layer in facts.net.layers:
        if len(layer.tops) == 1:
            behind = facts.after(layer)
            if isinstance(behind, Layer) and fits(layer, behind) and behind.bottoms[0] == layer.tops[0]:
                before = facts.before(behind)
                if before is layer:
                    found.append((layer, behind))
    return found
