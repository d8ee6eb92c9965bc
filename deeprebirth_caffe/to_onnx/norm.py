"""LRN, BatchNorm, MVN, Scale, Bias, Softmax."""

from __future__ import annotations

import numpy as np

from deeprebirth_caffe.to_onnx.graph import Site, Tensor


def lrn(site: Site) -> list[str]:
    """Across channels as ONNX's LRN (both divide alpha by the size); within a channel from other nodes."""
    p = site.param.lrn_param
    if p.norm_region == p.ACROSS_CHANNELS:
        return [site.op("LRN", site.x.name, size=p.local_size, alpha=p.alpha, beta=p.beta, bias=p.k)]
    # Within a channel Caffe averages over the whole window, padding included, and ignores k.
    pad = (p.local_size - 1) // 2
    square = site.op("Mul", site.x.name, site.x.name)
    mean = site.op(
        "AveragePool", square, kernel_shape=[p.local_size] * 2, pads=[pad] * 4, strides=[1, 1], count_include_pad=1
    )
    scale = site.op("Add", site.op("Mul", mean, site.number(p.alpha)), site.number(1))
    return [site.op("Mul", site.x.name, site.op("Pow", scale, site.number(-p.beta)))]


def batch_norm(site: Site) -> list[str]:
    """With the learned statistics, or with those of the batch."""
    p = site.param.batch_norm_param
    if p.HasField("use_global_stats") and not p.use_global_stats:
        axes = [axis for axis in range(len(site.x.shape)) if axis != 1]
        centred, variance = _centred(site, site.x.name, axes)
        deviation = site.op("Sqrt", site.op("Add", variance, site.number(p.eps)))
        return [site.op("Div", centred, deviation)]
    total = float(np.asarray(site.blobs[2]).reshape(-1)[0])
    factor = np.float32(0 if total == 0 else 1 / total)
    mean, variance = (np.asarray(blob, np.float32).reshape(-1) * factor for blob in site.blobs[:2])
    ones, zeros = np.ones_like(mean), np.zeros_like(mean)
    arrays = (("scale", ones), ("shift", zeros), ("mean", mean), ("variance", variance))
    inputs = [site.array(label, array) for label, array in arrays]
    return [site.op("BatchNormalization", site.x.name, *inputs, epsilon=p.eps)]


def mvn(site: Site) -> list[str]:
    """Subtracts the mean of each item (and channel), and divides by the deviation."""
    p = site.param.mvn_param
    name = site.reshape(site.x.name, site.x, *site.tops[0])
    result, variance = _centred(site, name, [1, 2, 3] if p.across_channels else [2, 3])
    if p.normalize_variance:
        # eps is outside of the root, unlike BatchNorm's.
        result = site.op("Div", result, site.op("Add", site.op("Sqrt", variance), site.number(p.eps)))
    return [result]


def _centred(site: Site, name: str, axes: list[int]) -> tuple[str, str]:
    """The input minus the mean over axes, and the variance."""
    centred = site.op("Sub", name, site.reduce("ReduceMean", name, axes))
    return centred, site.reduce("ReduceMean", site.op("Mul", centred, centred), axes)


def scale(site: Site) -> list[str]:
    """Multiplies by a factor, and maybe adds a term, along some axes."""
    p = site.param.scale_param
    factor, place = _operand(site, p.axis)
    name = site.op("Mul", site.x.name, site.column(factor.name, factor, place))
    if p.bias_term:
        shift = _learned(site, len(site.blobs) - 1)
        name = site.op("Add", name, site.column(shift.name, shift, place))
    return [name]


def bias(site: Site) -> list[str]:
    """Adds a term along some axes."""
    addend, place = _operand(site, site.param.bias_param.axis)
    return [site.op("Add", site.x.name, site.column(addend.name, addend, place))]


def _operand(site: Site, axis: int) -> tuple[Tensor, int]:
    """The second input, or the learned array in its place, and its first axis."""
    operand = site.ins[1] if len(site.ins) > 1 else _learned(site, 0)
    return operand, site.axis(axis) if operand.shape else 0


def _learned(site: Site, index: int) -> Tensor:
    shape = site.blobs[index].shape
    return Tensor(site.weight(index), shape, shape, constant=True)


def softmax(site: Site) -> list[str]:
    """Along one axis."""
    return [site.op("Softmax", site.x.name, axis=site.axis(site.param.softmax_param.axis))]
