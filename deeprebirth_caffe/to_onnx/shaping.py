"""Layers that cut, join, reorder or reduce blobs."""

from __future__ import annotations

from onnx import TensorProto

from deeprebirth_caffe.ops import concat_axis, slice_axis, slice_sizes
from deeprebirth_caffe.to_onnx.graph import Site


def same(site: Site) -> list[str]:
    """A layer that changes nothing in TEST."""
    return [site.x.name] * len(site.tops)


def nothing(site: Site) -> list[str]:
    """A layer without output."""
    return []


def concat(site: Site) -> list[str]:
    """Concatenates the inputs."""
    if len(site.ins) == 1:
        return same(site)
    return [site.op("Concat", *(tensor.name for tensor in site.ins), axis=concat_axis(site.param, site.x.shape))]


def slice_(site: Site) -> list[str]:
    """Cuts the input into parts."""
    axis = slice_axis(site.param, site.x.shape)
    site.dim(axis)
    if len(site.tops) == 1:
        return same(site)
    sizes = slice_sizes(site.param, site.x.shape)
    return site.node("Split", [site.x.name, site.integers(sizes)], len(sizes), axis=axis)


def reshape(site: Site) -> list[str]:
    """Reshape and Flatten: `ops` knows the output's shape."""
    return [site.reshape(site.x.name, site.x, *site.tops[0])]


def tile(site: Site) -> list[str]:
    """Repeats the input."""
    p = site.param.tile_param
    axis = site.axis(p.axis)
    repeats = [p.tiles if index == axis else 1 for index in range(len(site.x.shape))]
    return [site.op("Tile", site.x.name, site.integers(repeats))]


def crop(site: Site) -> list[str]:
    """Cuts out a part as large as the second input."""
    p = site.param.crop_param
    start = site.axis(p.axis)
    axes = list(range(start, len(site.x.shape)))
    sizes = [site.dim(axis, site.ins[1]) for axis in axes]
    offsets = [p.offset[0 if len(p.offset) == 1 else axis - start] if p.offset else 0 for axis in axes]
    ends = [offset + size for offset, size in zip(offsets, sizes, strict=True)]
    return [site.op("Slice", site.x.name, *(site.integers(values) for values in (offsets, ends, axes)))]


def reduction(site: Site) -> list[str]:
    """A sum or mean over the axes behind one."""
    p = site.param.reduction_param
    axes = list(range(site.axis(p.axis), len(site.x.shape)))
    kind = {p.SUM: "ReduceSum", p.ASUM: "ReduceL1", p.SUMSQ: "ReduceSumSquare", p.MEAN: "ReduceMean"}[p.operation]
    name = site.reduce(kind, site.x.name, axes, keep=False)
    return [name if p.coeff == 1 else site.op("Mul", name, site.number(p.coeff))]


def argmax(site: Site) -> list[str]:
    """The indices of the largest values, the values, or both."""
    p = site.param.argmax_param
    whole = not p.HasField("axis")
    axis = 1 if whole else site.axis(p.axis)
    name = site.op("Flatten", site.x.name, axis=1) if whole and len(site.x.shape) != 2 else site.x.name
    if p.top_k == 1 and not p.out_max_val:
        # Of equal values Caffe takes the larger index.
        index = site.op("ArgMax", name, axis=axis, keepdims=1, select_last_index=1)
        return [_shaped(site, site.op("Cast", index, to=TensorProto.FLOAT))]
    values, indices = site.node("TopK", [name, site.integers([p.top_k])], 2, axis=axis, largest=1, sorted=1)
    indices = site.op("Cast", indices, to=TensorProto.FLOAT)
    if whole and p.out_max_val:
        axes = site.integers([1])
        parts = [site.op("Unsqueeze", part, axes) for part in (indices, values)]
        return [_extended(site, site.op("Concat", *parts, axis=1), 3)]
    return [_shaped(site, values if p.out_max_val else indices)]


def _shaped(site: Site, name: str) -> str:
    """The winners of whole items as N x 1 x k, winners along an axis unchanged."""
    if site.param.argmax_param.HasField("axis"):
        return name
    return _extended(site, site.op("Unsqueeze", name, site.integers([1])), 3)


def _extended(site: Site, name: str, axes: int) -> str:
    more = len(site.tops[0][0]) - axes
    return site.op("Unsqueeze", name, site.integers(range(axes, axes + more))) if more else name
