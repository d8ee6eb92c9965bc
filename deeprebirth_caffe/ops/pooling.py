"""Pooling and SPP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .base import Datum, Op, Shape, by, fail
from .cost import AVE_TAP, COPY, MAX_TAP
from .geometry import PoolGeometry, pool_geometry
from .memory import count

if TYPE_CHECKING:
    from ..proto import caffe_pb2 as pb


def _output(layer: pb.LayerParameter, window: PoolGeometry, bottom: Shape) -> Shape:
    height, width = window.output(bottom[2:])
    if height < 1 or width < 1:
        padded = tuple(length + 2 * pad for length, pad in zip(bottom[2:], window.pad, strict=True))
        fail(layer, f"kernel {by(window.kernel)} larger than padded input {by(padded)}")
    for size, out, stride, pad in zip(bottom[2:], (height, width), window.stride, window.pad, strict=True):
        if any(window.pad) and (out - 1) * stride >= size + pad:
            fail(layer, f"stride {by(window.stride)} puts its last window outside the padded input")
    return bottom[0], bottom[1], height, width


def _pool_shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    window = pool_geometry(layer, bottoms[0])
    if len(layer.top) > 1 and window.method != "MAX":
        fail(layer, f"only max pooling has a second top (the mask), this is {window.method}")
    return [_output(layer, window, bottoms[0])] * len(layer.top)


def _pool_cost(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> float:
    window = pool_geometry(layer, bottoms[0])
    weight = MAX_TAP if window.method == "MAX" else AVE_TAP
    return weight * count(tops[0]) * count(window.kernel) if tops else 0.0


def _pool_buffers(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    """The mask of max pooling: where each maximum was. A second top takes its place."""
    masked = pool_geometry(layer, bottoms[0]).method == "MAX" and len(tops) == 1
    return count(tops[0]) if masked else 0


def spp_windows(layer: pb.LayerParameter, bottom: Shape) -> list[PoolGeometry]:
    """The pooling windows of a spatial pyramid, coarsest (one bin) first.

    A level's padding can come out as large as its kernel, which Caffe refuses: the pyramid is too fine then.
    """
    p = layer.spp_param
    method = "MAX" if p.pool == p.MAX else "AVE" if p.pool == p.AVE else "STOCHASTIC"
    windows = []
    for level in range(p.pyramid_height):
        bins = 2**level
        kernel = tuple(-(-size // bins) for size in bottom[2:])
        pad = tuple((each * bins - size + 1) // 2 for each, size in zip(kernel, bottom[2:], strict=True))
        if any(pad) and any(p >= k for p, k in zip(pad, kernel, strict=True)):
            fail(layer, f"input {by(bottom[2:])} is too small for pyramid level {level} ({bins}x{bins} bins)")
        if any(pad) and method == "STOCHASTIC":
            fail(layer, f"stochastic pooling takes no padding, and level {level} needs {by(pad)}")
        windows.append(PoolGeometry((kernel[0], kernel[1]), (kernel[0], kernel[1]), (pad[0], pad[1]), method))
    return windows


def _spp_shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    bottom = bottoms[0]
    if len(bottom) != 4:
        fail(layer, f"takes an input of 4 axes, got {by(bottom)}")
    if layer.spp_param.pyramid_height < 1:
        fail(layer, "pyramid_height must be given and positive")
    levels = [_output(layer, window, bottom) for window in spp_windows(layer, bottom)]
    if len(levels) == 1:  # Caffe neither flattens nor concatenates a single level
        return levels
    return [(bottom[0], sum(count(level, 1) for level in levels))]


def _spp_cost(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> float:
    windows = spp_windows(layer, bottoms[0])
    weight = MAX_TAP if windows and windows[0].method == "MAX" else AVE_TAP
    return weight * len(windows) * count(bottoms[0]) + COPY * sum(map(count, tops))


def _spp_buffers(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    """The levels before they are joined (a single one is the top itself), and the masks of max pooling."""
    windows = spp_windows(layer, bottoms[0])
    levels = sum(count(_output(layer, window, bottoms[0])) for window in windows)
    return levels * ((len(windows) > 1) + (windows[0].method == "MAX"))


def _stochastic(layer: pb.LayerParameter) -> bool:
    return layer.pooling_param.pool == layer.pooling_param.STOCHASTIC


OPS = [
    Op(
        "Pooling",
        _pool_shapes,
        cost_fn=_pool_cost,
        max_tops=2,
        channelwise=True,
        random_fn=_stochastic,
        by_image_fn=lambda layer, bottom, train: not (train and _stochastic(layer)),
        buffers_fn=_pool_buffers,
    ),
    Op("SPP", _spp_shapes, cost_fn=_spp_cost, buffers_fn=_spp_buffers),
]
