"""InnerProduct."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from deeprebirth_caffe.engines.torch.layers.base import Lowered, Spec, lowers
from deeprebirth_caffe.ops.base import axis_of


@lowers("InnerProduct")
class InnerProduct(Lowered):
    """A matrix product over all axes from one on."""

    half = True
    fresh = True

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self._axis = axis_of(spec.param, spec.param.inner_product_param.axis, tuple(spec.bottoms[0]))

    def forward(self, bottoms: Sequence[torch.Tensor], blobs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        x = bottoms[0].flatten(self._axis)
        weight = blobs[0].t() if self.spec.param.inner_product_param.transpose else blobs[0]
        return [functional.linear(x, weight, blobs[1] if len(blobs) > 1 else None)]
