"""ReLU and Dropout."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from deeprebirth_caffe.engines.torch.layers.base import Lowered, lowers


@lowers("ReLU")
class ReLU(Lowered):
    """Rectifies; negative values keep `negative_slope` of themselves."""

    half = True

    def forward(self, bottoms: Sequence[torch.Tensor], blobs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        x, slope = bottoms[0], self.spec.param.relu_param.negative_slope
        if slope == 0:
            return [functional.relu(x, inplace=self.overwrite)]
        # Written over, what is left tells the sign of what was there only if the slope is positive.
        return [functional.leaky_relu(x, slope, inplace=self.overwrite and slope > 0)]


@lowers("Dropout")
class Dropout(Lowered):
    """In TRAIN drops values at random and scales the others up; in TEST nothing."""

    half = True

    def forward(self, bottoms: Sequence[torch.Tensor], blobs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        x, ratio = bottoms[0], self.spec.param.dropout_param.dropout_ratio
        if not self.spec.train:
            return [x]
        mask = torch.empty_like(x, dtype=torch.bool).bernoulli_(1 - ratio, generator=self.spec.generator)
        return [(x * mask).mul_(1 / (1 - ratio))]
