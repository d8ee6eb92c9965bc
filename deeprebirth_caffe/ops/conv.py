"""Convolution, Deconvolution, Im2col."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .base import Datum, Op, Shape, axis_of, by, fail
from .cost import PACK, STREAM_COLUMN, UNROLL
from .geometry import ConvGeometry, Dims, conv_split
from .memory import count

if TYPE_CHECKING:
    from ..proto import caffe_pb2 as pb


def _alike(layer: pb.LayerParameter, bottoms: Sequence[Shape]) -> None:
    for bottom in bottoms[1:]:
        if bottom != bottoms[0]:
            fail(layer, f"its inputs differ: {by(bottoms[0])} and {by(bottom)}")


def _fits(layer: pb.LayerParameter, window: ConvGeometry, size: Dims, out: Dims) -> None:
    if min(out, default=1) < 1:
        padded = tuple(length + 2 * pad for length, pad in zip(size, window.pad, strict=True))
        dilated = f" (spanning {by(window.extent)})" if window.extent != window.kernel else ""
        fail(layer, f"kernel {by(window.kernel)}{dilated} larger than padded input {by(padded)}")


def _checked(layer: pb.LayerParameter, bottoms: Sequence[Shape]) -> tuple[int, ConvGeometry]:
    axis, window = conv_split(layer, bottoms[0])
    if window.num_output < 1:
        fail(layer, "num_output must be given and positive")
    channels = bottoms[0][axis]
    if window.group < 1 or channels % window.group:
        fail(layer, f"its {channels} input channels cannot be split into {window.group} groups")
    if window.num_output % window.group:
        fail(layer, f"num_output {window.num_output} cannot be split into {window.group} groups")
    _alike(layer, bottoms)
    return axis, window


def _workspace(columns: int, window: ConvGeometry, top: Shape, axis: int) -> int:
    """One image unrolled, unless the kernel is a point's, and a one for each place that a bias goes to."""
    return (0 if window.pointwise else columns) + window.bias * count(top, axis + 1)


def _conv_workspace(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    axis, window = conv_split(layer, bottoms[0])
    return _workspace(bottoms[0][axis] * count(window.kernel) * count(tops[0], axis + 1), window, tops[0], axis)


def _deconv_workspace(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    axis, window = conv_split(layer, bottoms[0])
    return _workspace(window.num_output * count(window.kernel) * count(bottoms[0], axis + 1), window, tops[0], axis)


def _column_cost(window: ConvGeometry) -> float:
    return PACK if window.pointwise else PACK + UNROLL


def _conv_shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    axis, window = _checked(layer, bottoms)
    size = bottoms[0][axis + 1 :]
    out = window.output(size)
    _fits(layer, window, size, out)
    return [(*bottoms[0][:axis], window.num_output, *out)] * len(layer.top)


def _conv_params(layer: pb.LayerParameter, bottoms: Sequence[Shape]) -> list[Shape]:
    axis, window = _checked(layer, bottoms)
    weights = (window.num_output, bottoms[0][axis] // window.group, *window.kernel)
    return [weights, (window.num_output,)] if window.bias else [weights]


def _conv_macs(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    axis, window = conv_split(layer, bottoms[0])
    return sum(map(count, tops)) * (bottoms[0][axis] // window.group) * count(window.kernel)


def _conv_cost(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> float:
    axis, window = conv_split(layer, bottoms[0])
    columns = bottoms[0][axis] * count(window.kernel)
    packed = _column_cost(window) * columns * sum(count(top, 0, axis) * count(top, axis + 1) for top in tops)
    pixels = sum(count(top, 0, axis) for top in tops if count(top, axis + 1) == 1)
    return packed + STREAM_COLUMN * pixels * columns * (window.num_output // window.group)


def _deconv_shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    axis, window = _checked(layer, bottoms)
    size = bottoms[0][axis + 1 :]
    out = window.deconv_output(size)
    if min(out, default=1) < 1:
        fail(layer, f"pad {by(window.pad)} leaves nothing of the output: {by(out)}")
    return [(*bottoms[0][:axis], window.num_output, *out)] * len(layer.top)


def _deconv_params(layer: pb.LayerParameter, bottoms: Sequence[Shape]) -> list[Shape]:
    axis, window = _checked(layer, bottoms)
    weights = (bottoms[0][axis], window.num_output // window.group, *window.kernel)
    return [weights, (window.num_output,)] if window.bias else [weights]


def _deconv_macs(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    _, window = conv_split(layer, bottoms[0])
    return sum(map(count, bottoms)) * (window.num_output // window.group) * count(window.kernel)


def _deconv_cost(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> float:
    axis, window = conv_split(layer, bottoms[0])
    columns = window.num_output * count(window.kernel)
    return _column_cost(window) * columns * sum(count(bottom, 0, axis) * count(bottom, axis + 1) for bottom in bottoms)


def _im2col_shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    bottom = bottoms[0]
    axis = axis_of(layer, layer.convolution_param.axis, bottom)
    if axis == len(bottom) - 1:
        fail(layer, f"its input {by(bottom)} has no spatial axis behind axis {axis}")
    axis, window = conv_split(layer, bottom)
    size = bottom[axis + 1 :]
    out = window.output(size)
    _fits(layer, window, size, out)
    return [(*bottom[:axis], bottom[axis] * count(window.kernel), *out)]


def _im2col_cost(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> float:
    return UNROLL * sum(map(count, tops))


def _by_image(layer: pb.LayerParameter, bottom: Shape, train: bool) -> bool:
    return axis_of(layer, layer.convolution_param.axis, bottom) == 1


OPS = [
    *(
        Op(
            name,
            *facts,
            workspace_fn=workspace,
            max_bottoms=None,
            max_tops=None,
            equal_counts=True,
            tensor=True,
            linear=True,
            convolution=name == "Convolution",
            block="convolution_param",
            by_image_fn=_by_image,
        )
        for name, facts, workspace in (
            ("Convolution", (_conv_shapes, _conv_params, _conv_macs, _conv_cost), _conv_workspace),
            ("Deconvolution", (_deconv_shapes, _deconv_params, _deconv_macs, _deconv_cost), _deconv_workspace),
        )
    ),
    Op("Im2col", _im2col_shapes, cost_fn=_im2col_cost),
]
