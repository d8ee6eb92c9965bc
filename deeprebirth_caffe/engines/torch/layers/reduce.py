"""Reduction and MVN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from deeprebirth_caffe.engines.torch.layers.base import Lowered, lowers
from deeprebirth_caffe.ops import axis_of

if TYPE_CHECKING:
    from torch import Tensor


@lowers("Reduction")
class Reduction(Lowered):
    """Sum, sum of absolutes or squares, or mean, of everything from an axis on."""

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Gives the one top."""
        p = self.spec.param.reduction_param
        x = bottoms[0]
        axis = axis_of(self.spec.param, p.axis, tuple(x.shape))
        rows = x.reshape(*x.shape[:axis], -1)
        if p.operation == p.ASUM:
            rows = rows.abs()
        elif p.operation == p.SUMSQ:
            rows = rows.square()
        total = rows.mean(-1) if p.operation == p.MEAN else rows.sum(-1)
        return [total * p.coeff]


class _Normalise(torch.autograd.Function):
    """(x - mean) / (deviation + eps) of each row; the gradient takes eps for a part of the deviation, as Caffe does."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, eps: float, in_place: bool) -> Tensor:
        apart = rows - rows.mean(1, keepdim=True)
        spread = apart.square().mean(1, keepdim=True).sqrt() + eps
        y = apart / spread
        ctx.save_for_backward(y, spread)
        ctx.in_place = in_place
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        y, spread = ctx.saved_tensors
        grad = grads[0]
        along = (y * grad).sum(1, keepdim=True)
        if ctx.in_place:  # Caffe has written over the gradient by now
            mixed = y * along
            return -2 / y.shape[1] * (mixed + mixed.sum(1, keepdim=True)) / spread, None, None
        return (grad - (y * along + grad.sum(1, keepdim=True)) / y.shape[1]) / spread, None, None


@lowers("MVN")
class MVN(Lowered):
    """Takes the mean off each channel of an item (or off the whole item), and divides by the deviation."""

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Gives the one top, always of four axes."""
        p = self.spec.param.mvn_param
        x = bottoms[0]
        shape = (*x.shape, *[1] * (4 - x.dim()))
        rows = x.reshape(shape[0] if p.across_channels else shape[0] * shape[1], -1)
        if p.normalize_variance:
            in_place = self.spec.param.bottom[0] == self.spec.param.top[0]
            y = _Normalise.apply(rows, p.eps, in_place)  # type: ignore[no-untyped-call]
        else:
            y = rows - rows.mean(1, keepdim=True)
        return [y.reshape(shape)]
