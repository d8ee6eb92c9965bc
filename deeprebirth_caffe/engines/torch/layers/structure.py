"""Layers that join, cut, combine or rename blobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from deeprebirth_caffe.engines.torch.layers.base import Lowered, Spec, lowers
from deeprebirth_caffe.ops import op
from deeprebirth_caffe.ops.shape_ops import concat_axis, slice_axis, slice_sizes


@lowers("Concat")
class Concat(Lowered):
    """Joins along an axis."""

    half = True
    fresh = True

    def forward(self, bottoms: Sequence[torch.Tensor], blobs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return [torch.cat(list(bottoms), concat_axis(self.spec.param, tuple(bottoms[0].shape)))]


@lowers("Slice")
class Slice(Lowered):
    """Cuts along an axis."""

    half = True

    def forward(self, bottoms: Sequence[torch.Tensor], blobs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        shape = tuple(bottoms[0].shape)
        return torch.split(bottoms[0], slice_sizes(self.spec.param, shape), slice_axis(self.spec.param, shape))


@lowers("Split")
class Split(Lowered):
    """Hands the same on several times."""

    half = True

    def forward(self, bottoms: Sequence[torch.Tensor], blobs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return [bottoms[0].view_as(bottoms[0]) for _ in self.spec.param.top]


@lowers("Silence")
class Silence(Lowered):
    """Reads, so that a blob is no output."""

    half = True

    def forward(self, bottoms: Sequence[torch.Tensor], blobs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return []


@lowers("Flatten", "Reshape")
class Reshape(Lowered):
    """Gives the same numbers another shape."""

    half = True

    def forward(self, bottoms: Sequence[torch.Tensor], blobs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        kind = op(self.spec.param.type)
        assert kind is not None
        return [bottoms[0].reshape(kind.shapes(self.spec.param, [tuple(bottoms[0].shape)])[0])]


@lowers("Eltwise")
class Eltwise(Lowered):
    """Product, weighted sum or maximum, element by element."""

    half = True

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.fresh = spec.param.eltwise_param.operation == spec.param.eltwise_param.SUM

    def forward(self, bottoms: Sequence[torch.Tensor], blobs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        p = self.spec.param.eltwise_param
        top = bottoms[0]
        if p.operation == p.PROD:
            if not p.stable_prod_grad:
                product: torch.Tensor = _Product.apply(*bottoms)  # type: ignore[no-untyped-call]
                return [product]
            for other in bottoms[1:]:
                top = top * other
        elif p.operation == p.MAX:
            # Of the first two the second gets the gradient where they tie; the others must be larger.
            top = torch.where(top > bottoms[1], top, bottoms[1])
            for other in bottoms[2:]:
                top = torch.where(other > top, other, top)
        else:
            coefficients = list(p.coeff) or [1.0] * len(bottoms)
            if coefficients[0] != 1.0:
                top = top * coefficients[0]
            for other, coefficient in zip(bottoms[1:], coefficients[1:], strict=True):
                top = torch.add(top, other, alpha=coefficient)
        return [top]


class _Product(torch.autograd.Function):
    """A product whose gradient divides it by each factor: faster with many, and not a number where one is zero."""

    @staticmethod
    def forward(ctx: Any, *factors: torch.Tensor) -> torch.Tensor:
        top = factors[0] * factors[1]
        for factor in factors[2:]:
            top = top * factor
        ctx.save_for_backward(top, *factors)
        return top

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, ...]:
        top, *factors = ctx.saved_tensors
        return tuple(top / factor * grads[0] for factor in factors)
