"""BatchNorm, Scale and Bias."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from deeprebirth_caffe.engines.torch.layers.base import Lowered, Spec, lowers
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.ops.base import axis_of


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
        # With a momentum of 1 PyTorch leaves this batch's mean and unbiased variance here: what Caffe adds up.
        own_mean, own_variance = torch.zeros_like(mean), torch.zeros_like(variance)
        if count > 1:
            top = torch.batch_norm(x, None, None, own_mean, own_variance, True, 1.0, p.eps, False)
        else:
            own_mean = x.detach().reshape(-1)
            top = (x - x.detach()) / p.eps**0.5
        with torch.no_grad():
            for stored, own in ((mean, own_mean), (variance, own_variance)):
                stored.mul_(p.moving_average_fraction).add_(own)
            factor.mul_(p.moving_average_fraction).add_(1.0)
        return [top]


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
