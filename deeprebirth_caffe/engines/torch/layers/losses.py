"""Losses on whole vectors or class numbers: Euclidean, Hinge, Contrastive, MultinomialLogistic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from deeprebirth_caffe.engines.torch.layers.base import Lowered, lowers
from deeprebirth_caffe.engines.torch.layers.labels import LEAST, Floor, class_numbers

if TYPE_CHECKING:
    from torch import Tensor


@lowers("EuclideanLoss")
class EuclideanLoss(Lowered):
    """Half the squared distance, the mean over the items."""

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Gives the loss."""
        one, two = bottoms
        return [(one.flatten() - two.flatten()).square().sum() / (2 * one.shape[0])]


@lowers("HingeLoss")
class HingeLoss(Lowered):
    """One against the rest: the sum of what misses the margin of 1 (L2: of its squares), the mean over the items."""

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Gives the loss."""
        scores = bottoms[0].flatten(1) if bottoms[0].dim() > 1 else bottoms[0][:, None]
        items, classes = scores.shape
        labels = class_numbers(self.spec, bottoms[1].flatten()[:items], classes)
        sign = torch.ones_like(scores).scatter_(1, labels[:, None], -1)
        margin = 1 + scores * sign
        missing = torch.where(margin > 0, margin, 0.0)  # NaN counts for nothing
        p = self.spec.param.hinge_loss_param
        return [(missing.square() if p.norm == p.L2 else missing).sum() / items]


class _Contrast(torch.autograd.Function):
    """The contrastive loss, whose gradient Caffe keeps from dividing by a distance of 0 by adding 1e-4."""

    @staticmethod
    def forward(ctx: Any, one: Tensor, two: Tensor, similar: Tensor, margin: float, legacy: bool) -> Tensor:
        apart = one - two
        square = apart.square().sum(1)
        missing = margin - (square if legacy else square.sqrt())
        ctx.save_for_backward(apart, square, similar, missing)
        ctx.legacy = legacy
        each = missing.clamp(min=0)
        return torch.where(similar, square, each if legacy else each.square()).sum() / (2 * len(one))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        apart, square, similar, missing = ctx.saved_tensors
        push = torch.ones_like(missing) if ctx.legacy else missing / (square.sqrt() + 1e-4)
        factor = torch.where(similar, torch.ones_like(push), torch.where(missing > 0, -push, torch.zeros_like(push)))
        grad = factor[:, None] * apart * (grads[0] / len(apart))
        return grad, -grad, None, None, None


@lowers("ContrastiveLoss")
class ContrastiveLoss(Lowered):
    """Pulls pairs together that are alike (label not 0), and pushes others apart up to a margin."""

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Gives the loss."""
        p = self.spec.param.contrastive_loss_param
        one, two = (bottom.flatten(1) for bottom in bottoms[:2])
        similar = bottoms[2].detach().flatten().long() != 0
        return [_Contrast.apply(one, two, similar, p.margin, p.legacy_version)]  # type: ignore[no-untyped-call]


@lowers("MultinomialLogisticLoss")
class MultinomialLogisticLoss(Lowered):
    """Minus the logarithm of the label's probability, the mean over the items."""

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Gives the loss."""
        chances = bottoms[0].flatten(1)
        labels = class_numbers(self.spec, bottoms[1].flatten(), chances.shape[1])
        chosen = Floor.apply(chances.gather(1, labels[:, None]), LEAST)  # type: ignore[no-untyped-call]
        return [-chosen.log().sum() / len(chances)]
