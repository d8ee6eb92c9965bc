"""Layers that work element by element."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from deeprebirth_caffe.to_onnx.graph import Site


def plain(kind: str) -> Callable[[Site], list[str]]:
    """A layer that ONNX has under another name."""

    def translate(site: Site) -> list[str]:
        return [site.op(kind, site.x.name)]

    return translate


def relu(site: Site) -> list[str]:
    """With a slope below zero, if it has one."""
    slope = site.param.relu_param.negative_slope
    if slope:
        return [site.op("LeakyRelu", site.x.name, alpha=slope)]
    return [site.op("Relu", site.x.name)]


def prelu(site: Site) -> list[str]:
    """With slopes below zero that were learned."""
    axes = len(site.x.shape)
    # Slopes by channel match axis 1; a shared slope matches everything.
    shape = (1,) if site.param.prelu_param.channel_shared else (site.dim(1), *(1,) * (axes - 2))
    return [site.op("PRelu", site.x.name, site.weight(0, shape))]


def elu(site: Site) -> list[str]:
    """Exponential below zero."""
    return [site.op("Elu", site.x.name, alpha=site.param.elu_param.alpha)]


def clip(site: Site) -> list[str]:
    """Between two numbers."""
    p = site.param.clip_param
    return [site.op("Clip", site.x.name, site.number(p.min), site.number(p.max))]


def swish(site: Site) -> list[str]:
    """The input times sigmoid(beta * input)."""
    beta = site.param.swish_param.beta
    inner = site.x.name if beta == 1 else site.op("Mul", site.x.name, site.number(beta))
    return [site.op("Mul", site.x.name, site.op("Sigmoid", inner))]


def threshold(site: Site) -> list[str]:
    """1 above a number, else 0."""
    above = site.op("Greater", site.x.name, site.number(site.param.threshold_param.threshold))
    return [site.op("Cast", above, to=TensorProto.FLOAT)]


def power(site: Site) -> list[str]:
    """(shift + scale * x) ** power."""
    p = site.param.power_param
    if p.power * p.scale == 0:
        # Caffe writes the same number everywhere, whatever the input.
        with np.errstate(all="ignore"):
            value = 1.0 if p.power == 0 else float(np.power(np.float32(p.shift), np.float32(p.power)))
        return [site.op("Add", site.op("Mul", site.x.name, site.number(0)), site.number(value))]
    inner = affine(site, p.scale, p.shift)
    if p.power in (2, 3):
        # Some readers compute powers by logarithms, which negative numbers do not have.
        square = site.op("Mul", inner, inner)
        return [square if p.power == 2 else site.op("Mul", square, inner)]
    return [inner if p.power == 1 else site.op("Pow", inner, site.number(p.power))]


def exp(site: Site) -> list[str]:
    """A power of base: base ** (shift + scale * x)."""
    p = site.param.exp_param
    with np.errstate(all="ignore"):  # NaN and infinity are refused as constants
        inner = p.scale if p.base == -1 else float(p.scale * np.log(p.base))
        outer = float(np.exp(p.shift) if p.base == -1 else np.power(p.base, p.shift)) if p.shift else 1.0
    name = site.x.name if inner == 1 else site.op("Mul", site.x.name, site.number(inner))
    name = site.op("Exp", name)
    return [name if outer == 1 else site.op("Mul", name, site.number(outer))]


def log(site: Site) -> list[str]:
    """The logarithm of shift + scale * x."""
    p = site.param.log_param
    name = site.op("Log", affine(site, p.scale, p.shift))
    with np.errstate(all="ignore"):
        factor = 1.0 if p.base == -1 else float(1 / np.log(p.base))
    return [name if p.base == -1 else site.op("Mul", name, site.number(factor))]


def affine(site: Site, scale: float, shift: float) -> str:
    """The input times a scale, plus a shift."""
    name = site.x.name
    if scale != 1:
        name = site.op("Mul", name, site.number(scale))
    if shift:
        name = site.op("Add", name, site.number(shift))
    return name


def eltwise(site: Site) -> list[str]:
    """Sum (with coefficients), product or maximum of the inputs."""
    p = site.param.eltwise_param
    names = [tensor.name for tensor in site.ins]
    if p.operation == p.MAX:
        return [_chain(site, "Max", names)]
    if p.operation == p.PROD:
        return [_chain(site, "Mul", names)]
    coefficients = list(p.coeff) or [1.0] * len(names)
    scaled = [
        name if weight == 1 else site.op("Mul", name, site.number(weight))
        for name, weight in zip(names, coefficients, strict=True)
    ]
    return [_chain(site, "Add", scaled)]


def _chain(site: Site, kind: str, names: list[str]) -> str:
    """Pairs, in Caffe's order; readers that fuse nodes know pairs best."""
    name = names[0]
    for operand in names[1:]:
        name = site.op(kind, name, operand)
    return name
