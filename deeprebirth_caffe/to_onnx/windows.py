"""Convolution, Deconvolution, Pooling, SPP: sliding windows.

Caffe's pooling rounds up, so that its last window may reach beyond the padding, or lie outside of the image altogether.
ONNX's `ceil_mode` has other rules. So the padding at the end is written out, and where that does not give Caffe's
averages, so are factors that correct them. `ceil_mode` is used only for a reader that does not take two paddings
(pnnx), where it means the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from onnx import TensorProto

from deeprebirth_caffe.ops import PoolGeometry, Shape, axis_of, conv_geometry, pool_geometry
from deeprebirth_caffe.ops.pooling import spp_windows
from deeprebirth_caffe.to_onnx.graph import Array, Site, Tensor

LOWEST = float(np.finfo(np.float32).min)
"""Caffe's max pooling of a window without a pixel."""


def convolution(site: Site) -> list[str]:
    """A Conv for each input."""
    return [_convolve(site, "Conv", bottom, top) for bottom, top in zip(site.ins, site.tops, strict=True)]


def deconvolution(site: Site) -> list[str]:
    """A ConvTranspose for each input."""
    return [_convolve(site, "ConvTranspose", bottom, top) for bottom, top in zip(site.ins, site.tops, strict=True)]


def _convolve(site: Site, kind: str, bottom: Tensor, top: tuple[Shape, Shape]) -> str:
    axis = axis_of(site.param, site.param.convolution_param.axis, bottom.shape)
    size = tuple(site.dim(index, bottom) for index in range(axis + 1, len(bottom.shape)))
    window = conv_geometry(site.param, len(size))
    kernel, stride, pad, dilation, extent = window.kernel, window.stride, window.pad, window.dilation, window.extent
    behind = list(pad)
    if kind == "Conv":
        # In Caffe a kernel that sticks out by less than a stride still gives an output; it sees zeros there.
        behind = [max(p, e - n - p) for p, e, n in zip(pad, extent, size, strict=True)]
    if not size:  # Caffe's convolution without a spatial axis
        size, kernel, stride, pad, dilation, behind = (1,), (1,), (1,), (0,), (1,), [0]
    channels = site.dim(axis, bottom)
    rows = prod(bottom.shape[:axis]), prod(bottom.other[:axis])
    flat = site.reshape(bottom.name, bottom, (rows[0], channels, *size), (rows[1], channels, *size))
    shape = (*site.blobs[0].shape[:2], *kernel)
    terms = [site.weight(0, shape)] + ([site.weight(1)] if window.bias else [])
    name = site.op(
        kind,
        flat,
        *terms,
        kernel_shape=list(kernel),
        strides=list(stride),
        pads=[*pad, *behind],
        dilations=list(dilation),
        group=window.group,
    )
    spatial = top[0][axis + 1 :] or (1,)
    conv = Tensor(name, (rows[0], window.num_output, *spatial), (rows[1], window.num_output, *spatial))
    return site.reshape(name, conv, *top)


def pooling(site: Site) -> list[str]:
    """MaxPool or AveragePool with all padding written out."""
    _spatial(site)
    window = pool_geometry(site.param, site.x.shape)
    return _pool(site, window, len(site.tops))


def spp(site: Site) -> list[str]:
    """A pyramid of poolings, flattened and joined."""
    _spatial(site)
    site.dim(1)
    windows = spp_windows(site.param, site.x.shape)
    names = [_pool(site, window, 1)[0] for window in windows]
    if len(names) == 1:
        return names
    return [site.op("Concat", *(site.op("Flatten", name, axis=1) for name in names), axis=1)]


def _spatial(site: Site) -> tuple[int, int]:
    return site.dim(2), site.dim(3)


def _pool(site: Site, window: PoolGeometry, tops: int) -> list[str]:
    if window.method == "STOCHASTIC":
        raise site.refuse("Caffe pools stochastically only on GPUs")
    size = _spatial(site)
    if window.global_pooling and tops == 1:
        return [site.op("GlobalMaxPool" if window.method == "MAX" else "GlobalAveragePool", site.x.name)]
    out = window.output(size)
    # Without padding the last window of an axis may begin behind the image. ONNX has no such windows; add them here.
    outside = [
        int(_begins(count, stride, pad) >= length)
        for count, stride, length, pad in zip(out, window.stride, size, window.pad, strict=True)
    ]
    behind = [
        _behind(length, count - beyond, kernel, stride, pad)
        for length, count, beyond, kernel, stride, pad in zip(
            size, out, outside, window.kernel, window.stride, window.pad, strict=True
        )
    ]
    if site.graph.rounding and tops == 1 and _rounds(window, size, out, behind):
        kind = "MaxPool" if window.method == "MAX" else "AveragePool"
        return [site.op(kind, site.x.name, **_shape(window, window.pad), ceil_mode=1)]
    if window.method == "MAX":
        return _max(site, window, behind, outside, tops)
    return [_average(site, window, out, behind, outside)]


def _rounds(window: PoolGeometry, size: tuple[int, int], out: tuple[int, int], behind: list[int]) -> bool:
    """Whether ONNX must round up, and then gives Caffe's result: no dropped window, averages without padding."""
    if list(window.pad) == behind or (window.method == "AVE" and any(window.pad)):
        return False
    return all(
        count == -(-(length + 2 * pad - kernel) // stride) + 1 and _begins(count, stride, pad) < length
        for count, length, kernel, stride, pad in zip(out, size, window.kernel, window.stride, window.pad, strict=True)
    )


def _shape(window: PoolGeometry, behind: Sequence[int]) -> dict[str, list[int]]:
    """The attributes that all pooling nodes have."""
    return {"kernel_shape": list(window.kernel), "strides": list(window.stride), "pads": [*window.pad, *behind]}


def _begins(count: int, stride: int, pad: int) -> int:
    """The begin of the last window, counted from the first pixel."""
    return (count - 1) * stride - pad


def _behind(length: int, count: int, kernel: int, stride: int, pad: int) -> int:
    """The padding at the end of an axis that gives as many windows as in Caffe."""
    needed = max(0, _begins(count, stride, pad) + kernel - length)
    # As much as at the beginning, unless that adds a window: not all readers take two paddings.
    return pad if needed <= pad and (length + 2 * pad - kernel) // stride + 1 == count else needed


def _max(site: Site, window: PoolGeometry, behind: list[int], outside: list[int], tops: int) -> list[str]:
    shape = _shape(window, behind)
    if tops == 1:
        return [_extended(site, site.op("MaxPool", site.x.name, **shape), outside, LOWEST)]
    pooled, indices = site.node("MaxPool", [site.x.name], 2, **shape)
    # ONNX counts through the whole tensor, Caffe through one channel, in floats, and -1 where there is no pixel.
    height, width = _spatial(site)
    mask = site.op("Cast", site.op("Mod", indices, site.integers([height * width])), to=TensorProto.FLOAT)
    return [_extended(site, pooled, outside, LOWEST), _extended(site, mask, outside, -1)]


def _average(site: Site, window: PoolGeometry, out: tuple[int, int], behind: list[int], outside: list[int]) -> str:
    # Caffe divides by the part of the window in the padded image. Without padding that is ONNX's count without
    # padding; a window wholly inside is divided by its whole size.
    inside = not any(outside)
    real = inside and not any(window.pad)
    whole = inside and all(beyond <= pad for beyond, pad in zip(behind, window.pad, strict=True))
    mean = site.op(
        "AveragePool",
        site.x.name,
        **_shape(window, behind),
        count_include_pad=int(not real),
    )
    if whole or real:
        return mean
    share = site.array("share", _shares(window, _spatial(site), out))
    return site.op("Mul", _extended(site, mean, outside, 0), share)


def _shares(window: PoolGeometry, size: tuple[int, int], out: tuple[int, int]) -> Array:
    """For each window its whole area divided by Caffe's divisor."""
    spans = []
    for count, kernel, stride, pad, length in zip(out, window.kernel, window.stride, window.pad, size, strict=True):
        begin = np.arange(count) * stride - pad
        spans.append(np.minimum(begin + kernel, length + pad) - begin)
    area = np.outer(*spans).astype(np.float32)
    with np.errstate(divide="ignore"):
        shares: Array = np.float32(prod(window.kernel)) / area
    return shares[None, None]


def _extended(site: Site, name: str, outside: list[int], value: float) -> str:
    """Appends a row, a column or both, of a constant."""
    if not any(outside):
        return name
    return site.op("Pad", name, site.integers([0, 0, 0, 0, 0, 0, *outside]), site.number(value))
