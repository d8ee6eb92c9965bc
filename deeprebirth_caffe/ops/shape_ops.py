"""Layers that cut, join, reorder or reduce blobs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from .base import (
    Datum,
    Op,
    Shape,
    always,
    any_image,
    axis_of,
    behind_images,
    by,
    fail,
    not_in_place,
    per_input,
    per_output,
    same_shape,
    unknown,
)
from .cost import COPY, ELEMENT, SELECT
from .memory import count

if TYPE_CHECKING:
    from ..proto import caffe_pb2 as pb


def concat_axis(layer: pb.LayerParameter, bottom: Shape) -> int:
    """The axis along which a Concat joins inputs of this shape."""
    p = layer.concat_param
    if p.HasField("axis") and p.HasField("concat_dim"):
        fail(layer, "axis does not go with concat_dim: remove one")
    return axis_of(layer, p.concat_dim if p.HasField("concat_dim") else p.axis, bottom)


def slice_axis(layer: pb.LayerParameter, bottom: Shape) -> int:
    """The axis along which a Slice cuts an input of this shape."""
    p = layer.slice_param
    if p.HasField("axis") and p.HasField("slice_dim"):
        fail(layer, "axis does not go with slice_dim: remove one")
    return axis_of(layer, p.slice_dim if p.HasField("slice_dim") else p.axis, bottom)


def _concat(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    first = bottoms[0]
    axis = concat_axis(layer, first)
    rest = (*first[:axis], *first[axis + 1 :])
    for bottom in bottoms[1:]:
        if len(bottom) != len(first) or (*bottom[:axis], *bottom[axis + 1 :]) != rest:
            fail(layer, f"cannot join {by(first)} and {by(bottom)} along axis {axis}")
    return [(*first[:axis], sum(bottom[axis] for bottom in bottoms), *first[axis + 1 :])]


def slice_sizes(layer: pb.LayerParameter, bottom: Shape) -> list[int]:
    """How long each of a Slice's outputs is along its axis."""
    p = layer.slice_param
    tops = len(layer.top)
    size = bottom[slice_axis(layer, bottom)]
    if not p.slice_point:
        if size % tops:
            fail(layer, f"cannot cut {size} into {tops} equal parts: give slice_point")
        return [size // tops] * tops
    points = [0, *p.slice_point, size]
    if len(points) != tops + 1:
        fail(layer, f"{tops} tops need {tops - 1} slice_point(s), it has {len(p.slice_point)}")
    if any(low >= high for low, high in pairwise(points)):
        fail(layer, f"slice_point {', '.join(map(str, p.slice_point))} must rise and stay below {size}")
    return [high - low for low, high in pairwise(points)]


def _slice(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    bottom = bottoms[0]
    axis = slice_axis(layer, bottom)
    return [(*bottom[:axis], size, *bottom[axis + 1 :]) for size in slice_sizes(layer, bottom)]


def _eltwise(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    p = layer.eltwise_param
    if p.coeff and len(p.coeff) != len(bottoms):
        fail(layer, f"has {len(p.coeff)} coeff for {len(bottoms)} bottoms")
    if p.coeff and p.operation == p.PROD:
        fail(layer, "coeff does not go with operation PROD")
    for bottom in bottoms[1:]:
        if bottom != bottoms[0]:
            fail(layer, f"its inputs differ: {by(bottoms[0])} and {by(bottom)}")
    return [bottoms[0]]


def _flatten(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    not_in_place(layer)
    bottom = bottoms[0]
    start = axis_of(layer, layer.flatten_param.axis, bottom)
    end = axis_of(layer, layer.flatten_param.end_axis, bottom, "end_axis") + 1
    if start > end:
        fail(layer, f"axis {start} lies behind end_axis {end - 1}")
    return [(*bottom[:start], count(bottom, start, end), *bottom[end:])]


def _reshape(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    not_in_place(layer)
    p = layer.reshape_param
    bottom = bottoms[0]
    start = p.axis if p.axis >= 0 else len(bottom) + p.axis + 1
    if not 0 <= start <= len(bottom):
        fail(layer, f"axis {p.axis} does not exist in its input {by(bottom)}")
    if p.num_axes < -1:
        fail(layer, f"num_axes {p.num_axes} must be -1 or more")
    end = len(bottom) if p.num_axes == -1 else start + p.num_axes
    if end > len(bottom):
        fail(layer, f"axis {p.axis} and num_axes {p.num_axes} reach beyond its input {by(bottom)}")
    middle: list[int] = []
    inferred = -1
    for index, dim in enumerate(p.shape.dim):
        if dim == 0:
            if start + index >= len(bottom):
                fail(layer, f"dim 0 at place {index} has no axis of {by(bottom)} to copy")
            middle.append(bottom[start + index])
        elif dim == -1:
            if inferred >= 0:
                fail(layer, "only one dim may be -1")
            inferred = index
            middle.append(1)
        else:
            middle.append(dim)
    if inferred >= 0:
        explicit = count(middle) * count(bottom[:start]) * count(bottom[end:])
        if explicit == 0 or count(bottom) % explicit:
            fail(layer, f"{by(bottom)} cannot be reshaped to {', '.join(map(str, p.shape.dim))}")
        middle[inferred] = count(bottom) // explicit
    top = (*bottom[:start], *middle, *bottom[end:])
    if count(top) != count(bottom):
        fail(layer, f"{by(bottom)} ({count(bottom)}) cannot be reshaped to {by(top)} ({count(top)} elements)")
    return [top]


def _crop(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    image, size = bottoms
    offset = layer.crop_param.offset
    axis = axis_of(layer, layer.crop_param.axis, image)
    if len(offset) > 1 and len(offset) + axis != len(image):
        fail(layer, f"needs 1 or {len(image) - axis} offsets, has {len(offset)}")
    if len(size) < len(image):
        fail(layer, f"its second input {by(size)} has fewer axes than {by(image)}")
    for index in range(axis, len(image)):
        start = 0 if not offset else offset[0 if len(offset) == 1 else index - axis]
        if image[index] - start < size[index]:
            fail(layer, f"axis {index}: cannot take {size[index]} from {start} on out of {image[index]}")
    return [image[:axis] + size[axis : len(image)]]


def _tile(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    p = layer.tile_param
    if p.tiles < 1:
        fail(layer, "tiles must be given and positive")
    axis = axis_of(layer, p.axis, bottoms[0])
    return [(*bottoms[0][:axis], bottoms[0][axis] * p.tiles, *bottoms[0][axis + 1 :])]


def _reduction(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    return [bottoms[0][: axis_of(layer, layer.reduction_param.axis, bottoms[0])]]


def _argmax(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    p = layer.argmax_param
    bottom = bottoms[0]
    if p.HasField("axis"):
        axis = axis_of(layer, p.axis, bottom)
        size, top = bottom[axis], (*bottom[:axis], p.top_k, *bottom[axis + 1 :])
    else:
        if not bottom:
            fail(layer, "cannot work on a scalar")
        size = count(bottom, 1)
        top = (bottom[0], 2 if p.out_max_val else 1, p.top_k) + (1,) * (len(bottom) - 3)
    if not 1 <= p.top_k <= size:
        fail(layer, f"top_k {p.top_k} must lie between 1 and {size}")
    return [top]


def _split(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    not_in_place(layer)
    return same_shape(layer, bottoms, datum)


def _batch_reindex(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    not_in_place(layer)
    if len(bottoms[1]) != 1:
        fail(layer, f"its second input must be a list of indices, is {by(bottoms[1])}")
    return [bottoms[1] + bottoms[0][1:]]


def _filter(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    if len(layer.top) != len(bottoms) - 1:
        fail(layer, f"needs one top fewer than bottoms, has {len(bottoms)} bottoms and {len(layer.top)} tops")
    *inputs, selector = bottoms
    if not selector or count(selector, 1) != 1:
        fail(layer, f"its last input must be one number an item, is {by(selector)}")
    for bottom in inputs:
        if not bottom or bottom[0] != selector[0]:
            fail(layer, f"its input {by(bottom)} does not have the {selector[0]} items of the selector")
    unknown(layer, "how many items it lets through depends on the data", inputs)


def _nothing(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    return []


def _eltwise_buffers(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    """For a maximum, which input it came from."""
    return count(tops[0]) if layer.eltwise_param.operation == layer.eltwise_param.MAX else 0


def _reduction_workspace(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    """A one for each number of a sum."""
    p = layer.reduction_param
    summed = p.operation in (p.SUM, p.MEAN)
    return count(bottoms[0], axis_of(layer, p.axis, bottoms[0])) if summed else 0


OPS = [
    Op(
        "Concat",
        _concat,
        cost_fn=per_output(COPY),
        max_bottoms=None,
        joins=True,
        moves=True,
        by_image_fn=behind_images(concat_axis),
        shares_fn=lambda layer: len(layer.bottom) == 1,
    ),
    Op(
        "Slice",
        _slice,
        cost_fn=per_input(COPY),
        max_tops=None,
        moves=True,
        by_image_fn=behind_images(slice_axis),
        shares_fn=lambda layer: len(layer.top) == 1,
    ),
    Op("Split", _split, max_tops=None, channelwise=True, moves=True, by_image_fn=any_image, shares_fn=always),
    Op(
        "Eltwise",
        _eltwise,
        cost_fn=per_input(ELEMENT),
        min_bottoms=2,
        max_bottoms=None,
        channelwise=True,
        joins=True,
        by_image_fn=any_image,
        buffers_fn=_eltwise_buffers,
    ),
    # These keep the order of the numbers: as many images as before are the same images (the torch cache sees to that).
    Op("Flatten", _flatten, moves=True, by_image_fn=any_image, shares_fn=always),
    Op("Reshape", _reshape, moves=True, by_image_fn=any_image, shares_fn=always),
    Op(
        "Crop",
        _crop,
        cost_fn=per_output(COPY),
        min_bottoms=2,
        max_bottoms=2,
        channels_fn=lambda layer: layer.crop_param.axis >= 2,
    ),
    Op("Tile", _tile, cost_fn=per_output(COPY), moves=True),
    Op("Reduction", _reduction, cost_fn=per_input(ELEMENT), workspace_fn=_reduction_workspace),
    Op("ArgMax", _argmax, cost_fn=per_input(SELECT)),
    Op(
        "BatchReindex",
        _batch_reindex,
        cost_fn=per_output(COPY),
        min_bottoms=2,
        max_bottoms=2,
        channelwise=True,
        indices=True,
    ),
    Op(
        "Filter",
        _filter,
        cost_fn=per_output(COPY),
        min_bottoms=2,
        max_bottoms=None,
        max_tops=None,
        channelwise=True,
    ),
    Op("Silence", _nothing, max_bottoms=None, min_tops=0, max_tops=0),
]
