"""BatchNorm, Scale and Bias."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from deeprebirth_caffe.engines.torch.layers.base import Lowered, Spec, lowers
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.ops.base import axis_of

_MANY = 1024
"""From how many pixels on a channel's statistics are worth more than PyTorch's own sums."""

_CACHED = 2**18
"""How many numbers are looked at at a time, so that what is worked out of them stays in a cache."""


@lowers("BatchNorm")
class BatchNorm(Lowered):
    """Mean, variance and, third, what both are multiplied by; that being 0 makes them 0."""

    fresh = True

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        p = spec.param.batch_norm_param
        self._stored = p.use_global_stats if p.HasField("use_global_stats") else not spec.train

    def forward(self, bottoms: Sequence[torch.Tensor], blobs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        p = self.spec.param.batch_norm_param
        x = bottoms[0]
        mean, variance, factor = blobs
        if self._stored:
            share = torch.where(factor == 0, 0.0, 1.0 / factor)
            return [torch.batch_norm(x, None, None, mean * share, variance * share, False, 0.0, p.eps, False)]
        count = x.numel() // x.shape[1]
        if count == 1:
            own_mean, own_variance = x.detach().reshape(-1), torch.zeros_like(variance)
            top = (x - x.detach()) / p.eps**0.5
        elif _adds_up_badly(x):
            with torch.no_grad():
                own_mean, own_variance = _statistics(x)
            top = _Normalized.apply(x, own_mean, (own_variance + p.eps).rsqrt_())  # type: ignore[no-untyped-call]
            own_variance *= count / (count - 1)
        else:
            # With a momentum of 1 PyTorch leaves this batch's mean and unbiased variance here: what Caffe adds up.
            own_mean, own_variance = torch.zeros_like(mean), torch.zeros_like(variance)
            top = torch.batch_norm(x, None, None, own_mean, own_variance, True, 1.0, p.eps, False)
        with torch.no_grad():
            for stored, own in ((mean, own_mean), (variance, own_variance)):
                stored.mul_(p.moving_average_fraction).add_(own)
            factor.mul_(p.moving_average_fraction).add_(1.0)
        return [top]


class _Normalized(torch.autograd.Function):
    """(x - mean) * factor of what lies pixel by pixel, where these are the statistics of x itself."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, mean: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, mean, factor)
        return torch.addcmul((-mean * factor).view(1, -1, 1, 1), x, factor.view(1, -1, 1, 1))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, mean, factor = ctx.saved_tensors
        native = torch.ops.aten.native_batch_norm_backward
        # Its eps is not looked at: the factor has it.
        return native(grads[0], x, None, None, None, mean, factor, True, 0.0, [True, False, False])[0], None, None


def _adds_up_badly(x: torch.Tensor) -> bool:
    """Whether PyTorch's own statistics are too far off.

    Where memory holds pixel after pixel, it adds them up one by one: over thousands that makes ten to a hundred times
    the error of sums that halve, and a ReLU behind that opens for an error changes all gradients below it.
    """
    if x.device.type != "cpu" or x.dim() != 4 or x.numel() < _MANY * x.shape[1]:
        return False
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance of each channel of what lies pixel by pixel."""
    pixels = x.permute(0, 2, 3, 1).view(-1, x.shape[1])
    mean = pixels.sum(0).div_(len(pixels))
    squares = torch.zeros_like(mean)
    for part in torch.split(pixels, max(1, _CACHED // x.shape[1])):
        away = part - mean
        squares += away.mul_(away).sum(0)
    return mean, squares.div_(len(pixels))


@lowers("Scale")
class Scale(Lowered):
    """A factor for each element of some axes, learnt or given as second input, and maybe an addend."""

    fresh = True

    def forward(self, bottoms: Sequence[torch.Tensor], blobs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        p = self.spec.param.scale_param
        x = bottoms[0]
        factor = bottoms[1] if len(bottoms) > 1 else blobs[0]
        factor = spread(self.spec, factor, x, p.axis)
        if not p.bias_term:
            return [x * factor]
        return [torch.addcmul(spread(self.spec, blobs[-1], x, p.axis), x, factor)]


@lowers("Bias")
class Bias(Lowered):
    """An addend for each element of some axes, learnt or given as second input."""

    fresh = True

    def forward(self, bottoms: Sequence[torch.Tensor], blobs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        addend = bottoms[1] if len(bottoms) > 1 else blobs[0]
        return [bottoms[0] + spread(self.spec, addend, bottoms[0], self.spec.param.bias_param.axis)]


def spread(spec: Spec, operand: torch.Tensor, x: torch.Tensor, axis: int) -> torch.Tensor:
    """The operand with axes of length 1 put around it, so that it meets `x` from `axis` on."""
    shape: Shape = tuple(x.shape)
    start = axis_of(spec.param, axis, shape) if operand.dim() else 0
    return operand.reshape((1,) * start + tuple(operand.shape) + (1,) * (len(shape) - start - operand.dim()))
