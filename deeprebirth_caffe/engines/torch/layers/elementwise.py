"""Activations and arithmetic that work element by element: AbsVal, Clip, ELU, Exp, Power, PReLU and their kind.

Caffe's gradients are kept where they are not the mathematical ones, those of in-place layers above all: their backward
pass finds the output where it looks for the input, and some write over the gradient before they have read it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from deeprebirth_caffe.engines.torch.layers.base import Lowered, Spec, lowers

if TYPE_CHECKING:
    from torch import Tensor

    Unary = Callable[[Tensor], Tensor]
    Slope = Callable[[Tensor, Tensor], Tensor]


class _Pointwise(torch.autograd.Function):
    """y = value(x), with the gradient slope(x, y) that Caffe's code computes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Unary, slope: Slope, in_place: bool, overwrites: bool) -> Tensor:
        y = value(x)
        ctx.save_for_backward(y if in_place else x, y)
        ctx.slope = slope
        ctx.squares = in_place and overwrites
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        slope = ctx.slope(*ctx.saved_tensors)
        return slope * (slope if ctx.squares else grads[0]), None, None, None, None


class Pointwise(Lowered):
    """A layer of one input that works element by element.

    Attributes:
        overwrites: whether Caffe writes the slope over the gradient of an in-place layer before it multiplies the two.
    """

    overwrites = False

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.in_place = spec.param.bottom[0] == spec.param.top[0]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Gives the one top."""
        return [_Pointwise.apply(bottoms[0], self.value, self.slope, self.in_place, self.overwrites)]  # type: ignore[no-untyped-call]

    def value(self, x: Tensor) -> Tensor:
        """The function."""
        raise NotImplementedError

    def slope(self, x: Tensor, y: Tensor) -> Tensor:
        """Its derivative; in an in-place layer x is y."""
        raise NotImplementedError


def _line(x: Tensor, scale: float, shift: float) -> Tensor:
    """Scale * x + shift, which leaves x alone (-0 too) where these do nothing."""
    scaled = x if scale == 1 else x * scale
    return scaled if shift == 0 else scaled + shift


@lowers("BNLL")
class BNLL(Pointwise):
    """log(1 + exp(x))."""

    def value(self, x: Tensor) -> Tensor:
        """The function."""
        return functional.softplus(x)

    def slope(self, x: Tensor, y: Tensor) -> Tensor:
        """Its derivative."""
        return torch.sigmoid(x)


@lowers("Clip")
class Clip(Pointwise):
    """x between two bounds; NaN becomes the lower one."""

    def value(self, x: Tensor) -> Tensor:
        """The function."""
        p = self.spec.param.clip_param
        return torch.fmax(torch.minimum(x, x.new_tensor(p.max)), x.new_tensor(p.min))

    def slope(self, x: Tensor, y: Tensor) -> Tensor:
        """Its derivative: 1 on the bounds too, and so everywhere where it works in place."""
        p = self.spec.param.clip_param
        return ((x >= p.min) & (x <= p.max)).to(y.dtype)


@lowers("ELU")
class ELU(Pointwise):
    """x above 0, alpha * (exp(x) - 1) below."""

    def value(self, x: Tensor) -> Tensor:
        """The function."""
        return torch.where(x > 0, x, self.spec.param.elu_param.alpha * torch.expm1(x.clamp(max=0)))

    def slope(self, x: Tensor, y: Tensor) -> Tensor:
        """Its derivative; at infinity Caffe has NaN."""
        return (x > 0).to(y.dtype) + (y + self.spec.param.elu_param.alpha) * (x <= 0)


@lowers("Log")
class Log(Pointwise):
    """log of scale * x + shift, to a base."""

    overwrites = True

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        p = spec.param.log_param
        self.factor = 1.0 if p.base == -1 else 1 / math.log(p.base)

    def _inner(self, x: Tensor) -> Tensor:
        p = self.spec.param.log_param
        return _line(x, p.scale, p.shift)

    def value(self, x: Tensor) -> Tensor:
        """The function."""
        return torch.log(self._inner(x)) * self.factor

    def slope(self, x: Tensor, y: Tensor) -> Tensor:
        """Its derivative."""
        return self.factor * self.spec.param.log_param.scale / self._inner(x)


@lowers("Power")
class Power(Pointwise):
    """(shift + scale * x) ** power."""

    overwrites = True

    def value(self, x: Tensor) -> Tensor:
        """The function."""
        p = self.spec.param.power_param
        if p.power * p.scale == 0:
            return torch.full_like(x, 1.0 if p.power == 0 else p.shift**p.power)
        inner = _line(x, p.scale, p.shift)
        return inner if p.power == 1 else inner**p.power

    def slope(self, x: Tensor, y: Tensor) -> Tensor:
        """Its derivative, by Caffe's four ways: dividing y by x gives NaN at 0, where the limit would be finite."""
        p = self.spec.param.power_param
        outer = p.power * p.scale
        if outer == 0 or p.power == 1:
            return torch.full_like(y, outer)
        if p.power == 2:
            return outer * _line(x, p.scale, p.shift)
        if p.shift == 0:
            return y / x * p.power
        return y / _line(x, p.scale, p.shift) * outer


class _Plain(Lowered):
    """A layer whose gradient is the mathematical one, in place or not: a function of x alone."""

    def __init__(self, spec: Spec, function: Unary) -> None:
        super().__init__(spec)
        self.function = function

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Gives the one top."""
        return [self.function(bottoms[0])]


@lowers("AbsVal")
def absolute(spec: Spec) -> Lowered:
    """|x|."""
    return _Plain(spec, torch.abs)


@lowers("Exp")
def exponential(spec: Spec) -> Lowered:
    """A power of a base: base ** (shift + scale * x)."""
    p = spec.param.exp_param
    log_base = 1.0 if p.base == -1 else math.log(p.base)
    inner, outer = log_base * p.scale, math.exp(log_base * p.shift)
    return _Plain(spec, lambda x: torch.exp(x * inner) * outer)


@lowers("Sigmoid")
def sigmoid(spec: Spec) -> Lowered:
    """1 / (1 + exp(-x))."""
    return _Plain(spec, torch.sigmoid)


@lowers("Swish")
def swish(spec: Spec) -> Lowered:
    """The product x * sigmoid(beta * x)."""
    beta = spec.param.swish_param.beta
    return _Plain(spec, lambda x: x * torch.sigmoid(x * beta))


@lowers("TanH")
def tanh(spec: Spec) -> Lowered:
    """The hyperbolic tangent."""
    return _Plain(spec, torch.tanh)


@lowers("Threshold")
def threshold(spec: Spec) -> Lowered:
    """1 where x lies above the threshold, else 0; nothing flows back."""
    limit = spec.param.threshold_param.threshold
    return _Plain(spec, lambda x: (x.detach() > limit).to(x.dtype))


@lowers("PReLU")
class PReLU(Lowered):
    """x above 0, slope * x below; a slope for each channel, or one for all."""

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Gives the one top."""
        x, slope = bottoms[0], blobs[0]
        if slope.dim():
            slope = slope.reshape(-1, *[1] * (x.dim() - 2))
        # NaN stays NaN but, being neither above 0 nor below, hands nothing down.
        return [torch.where(x > 0, x, torch.where(x <= 0, x * slope, x.detach()))]
