"""LRN across channels and within them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from deeprebirth_caffe.engines.torch.layers.base import Lowered, Spec, lowers


@lowers("LRN")
def lrn(spec: Spec) -> Lowered:
    """Either kind."""
    within = spec.param.lrn_param.norm_region == spec.param.lrn_param.WITHIN_CHANNEL
    return _Within(spec) if within else _Across(spec)


class _Within(Lowered):
    """Caffe builds it from a pool and powers; `k` is not used there."""

    def forward(self, bottoms: Sequence[torch.Tensor], blobs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        p = self.spec.param.lrn_param
        x = bottoms[0]
        mean = functional.avg_pool2d(x.square(), p.local_size, 1, (p.local_size - 1) // 2)
        return [x * (1 + p.alpha * mean).pow(-p.beta)]


class _Across(Lowered):
    fresh = True

    def forward(self, bottoms: Sequence[torch.Tensor], blobs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        p = self.spec.param.lrn_param
        top: torch.Tensor = _AcrossChannels.apply(bottoms[0], p.local_size, p.alpha, p.beta, p.k)  # type: ignore[no-untyped-call]
        return [top]


class _AcrossChannels(torch.autograd.Function):
    """Keeps its input alone for the backward pass and works image by image, so that little memory is in use."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, size: int, alpha: float, beta: float, k: float) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.numbers = size, alpha, beta, k
        top = torch.empty_like(x)
        for part, out in zip(torch.split(x, 1), torch.split(top, 1), strict=True):
            torch.mul(part, _power(_scale(part, size, alpha, k), beta), out=out)
        return top

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        size, alpha, beta, k = ctx.numbers
        grad = grads[0]
        bottom = torch.empty_like(x)
        for part, diff, out in zip(torch.split(x, 1), torch.split(grad, 1), torch.split(bottom, 1), strict=True):
            scale = _scale(part, size, alpha, k)
            first = _power(scale, beta).mul_(diff)
            # diff * top / scale, summed over the channels that this one had a part in
            ratio = _window_sum((first * part).div_(scale), size).mul_(part)
            torch.add(first, ratio, alpha=-2 * alpha * beta / size, out=out)
        return bottom, None, None, None, None


def _scale(x: torch.Tensor, size: int, alpha: float, k: float) -> torch.Tensor:
    return _window_sum(x.square(), size).mul_(alpha / size).add_(k)


def _window_sum(x: torch.Tensor, size: int) -> torch.Tensor:
    """Each channel's sum with its neighbours, `size` in all."""
    reach = min((size - 1) // 2, x.shape[1] - 1)
    total = x.clone()
    for step in range(1, reach + 1):
        total[:, step:] += x[:, :-step]
        total[:, :-step] += x[:, step:]
    return total


def _power(scale: torch.Tensor, beta: float) -> torch.Tensor:
    """To the power of -beta, without the slow power for the usual betas."""
    if beta == 0.75:
        root = scale.rsqrt()
        return root.sqrt().mul_(root)
    if beta == 0.5:
        return scale.rsqrt()
    return scale.pow(-beta)
