"""Normalisation and per-channel arithmetic: LRN, BatchNorm, MVN, Scale, Bias."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .base import Datum, Op, Shape, always, any_image, axis_of, by, fail, legacy, no_buffers, per_input
from .cost import AVE_TAP, ELEMENT, LRN_ACROSS, LRN_WITHIN, MVN, NORMALISE, SCALE
from .memory import count

if TYPE_CHECKING:
    from ..proto import caffe_pb2 as pb


def _lrn_shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    if len(bottoms[0]) != 4:
        fail(layer, f"takes an input of 4 axes, got {by(bottoms[0])}")
    if layer.lrn_param.local_size % 2 == 0:
        fail(layer, f"local_size {layer.lrn_param.local_size} must be odd")
    return [bottoms[0]]


def _within(layer: pb.LayerParameter) -> bool:
    return layer.lrn_param.norm_region == layer.lrn_param.WITHIN_CHANNEL


def _lrn_cost(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> float:
    window = layer.lrn_param.local_size**2
    return (LRN_WITHIN + AVE_TAP * window if _within(layer) else LRN_ACROSS) * count(bottoms[0])


def _lrn_buffers(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    """The factors; within channels what three layers inside put out: squares, their averages, and a power of those."""
    return (3 if _within(layer) else 1) * count(bottoms[0])


def _channels(layer: pb.LayerParameter, bottom: Shape) -> int:
    if len(bottom) < 2:
        fail(layer, f"needs an input with a channel axis, got {by(bottom)}")
    return bottom[1]


def _batch_norm_shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    _batch_norm_params(layer, bottoms)
    return [bottoms[0]]


def _batch_norm_params(layer: pb.LayerParameter, bottoms: Sequence[Shape]) -> list[Shape]:
    channels = _channels(layer, bottoms[0])
    # Caffe drops a full set of three (files of 2016 have them) and refuses to learn the statistics otherwise.
    if len(layer.param) < 3 and any(param.lr_mult for param in layer.param):
        fail(layer, "its statistics cannot be learnt: set lr_mult: 0 in each param")
    return [(channels,), (channels,), (1,)]


def _batch_norm_buffers(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    """The spread-out variances and a copy of the output; sums for each channel of each image, and a one an image."""
    return 2 * count(bottoms[0]) + count(bottoms[0], 0, 2) + bottoms[0][0]


def _batch_norm_workspace(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    """Mean and variance, and a one for each place."""
    return 2 * _channels(layer, bottoms[0]) + count(bottoms[0], 2)


def _mvn_parts(layer: pb.LayerParameter, bottom: Shape) -> int:
    """How many means there are."""
    return count(bottom, 0, 1 if layer.mvn_param.across_channels else 2)


def _mvn_buffers(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    """A copy, the means and the variances."""
    return count(bottoms[0]) + _mvn_parts(layer, bottoms[0]) * (1 + layer.mvn_param.normalize_variance)


def _mvn_workspace(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    return count(bottoms[0]) // max(1, _mvn_parts(layer, bottoms[0]))


def _scale_buffers(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    """In place, a copy of the input, which a backward pass would need."""
    return count(bottoms[0]) if layer.bottom[0] == layer.top[0] else 0


def _mvn_shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    return [legacy(layer, bottoms[0])]  # Caffe gives back 4 axes whatever it got


def _operand(layer: pb.LayerParameter, bottoms: Sequence[Shape], p: pb.ScaleParameter | pb.BiasParameter) -> Shape:
    """The shape of the factor (or the addend): the second bottom's, or what axis and num_axes select."""
    bottom = bottoms[0]
    if len(bottoms) == 1:
        axis = axis_of(layer, p.axis, bottom)
        if p.num_axes < -1:
            fail(layer, f"num_axes {p.num_axes} must be -1 or more")
        end = len(bottom) if p.num_axes == -1 else axis + p.num_axes
        if end > len(bottom):
            fail(layer, f"axis {p.axis} and num_axes {p.num_axes} reach beyond its input {by(bottom)}")
        return bottom[axis:end]
    operand = bottoms[1]
    axis = axis_of(layer, p.axis, bottom) if operand else 0
    if bottom[axis : axis + len(operand)] != operand:
        fail(layer, f"its second input {by(operand)} does not match {by(bottom)} from axis {axis} on")
    return operand


def _scale_shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    p = layer.scale_param
    _operand(layer, bottoms, p)
    if p.bias_term:  # the bias looks the axis up even where a scalar factor does not need it
        axis_of(layer, p.axis, bottoms[0])
    return [bottoms[0]]


def _scale_params(layer: pb.LayerParameter, bottoms: Sequence[Shape]) -> list[Shape]:
    operand = _operand(layer, bottoms, layer.scale_param)
    return [operand] * ((len(bottoms) == 1) + layer.scale_param.bias_term)


def _bias_shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    _operand(layer, bottoms, layer.bias_param)
    return [bottoms[0]]


def _bias_params(layer: pb.LayerParameter, bottoms: Sequence[Shape]) -> list[Shape]:
    operand = _operand(layer, bottoms, layer.bias_param)
    return [operand] if len(bottoms) == 1 else []


def _scale_cost(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> float:
    return (SCALE + ELEMENT * layer.scale_param.bias_term) * count(bottoms[0])


def _element_cost(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> float:
    return ELEMENT * count(bottoms[0])


def stored_statistics(layer: pb.LayerParameter, train: bool) -> bool:
    """Whether a BatchNorm uses its stored statistics, and so leaves them as they are."""
    own = layer.batch_norm_param
    return bool(own.use_global_stats) if own.HasField("use_global_stats") else not train


def _own_by_image(layer: pb.LayerParameter, bottom: Shape, train: bool) -> bool:
    """Of a Scale or Bias: whether its numbers are its own, and not the images'."""
    own = layer.scale_param if layer.type == "Scale" else layer.bias_param
    return len(layer.bottom) == 1 and axis_of(layer, own.axis, bottom) > 0


OPS = [
    Op(
        "LRN",
        _lrn_shapes,
        cost_fn=_lrn_cost,
        channels_fn=_within,
        per_position=True,
        by_image_fn=any_image,
        buffers_fn=_lrn_buffers,
    ),
    Op(
        "BatchNorm",
        _batch_norm_shapes,
        _batch_norm_params,
        cost_fn=per_input(NORMALISE),
        channelwise=True,
        per_position=True,
        affine=True,
        in_place=True,
        channel_blobs_fn=always,
        by_image_fn=lambda layer, bottom, train: stored_statistics(layer, train),
        buffers_fn=_batch_norm_buffers,
        workspace_fn=_batch_norm_workspace,
    ),
    Op(
        "MVN",
        _mvn_shapes,
        cost_fn=per_input(MVN),
        channels_fn=lambda layer: not layer.mvn_param.across_channels,
        by_image_fn=any_image,
        buffers_fn=_mvn_buffers,
        workspace_fn=_mvn_workspace,
    ),
    *(
        Op(
            name,
            shapes,
            params,
            cost_fn=cost,
            max_bottoms=2,
            pointwise=True,
            channelwise=True,
            affine=True,
            in_place=True,
            block=f"{name.lower()}_param",
            channel_blobs_fn=always,
            by_image_fn=_own_by_image,
            buffers_fn=buffers,
        )
        for name, shapes, params, cost, buffers in (
            ("Scale", _scale_shapes, _scale_params, _scale_cost, _scale_buffers),
            ("Bias", _bias_shapes, _bias_params, _element_cost, no_buffers),
        )
    ),
]
