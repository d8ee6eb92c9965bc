"""Layers that pick, repeat and look up: ArgMax, BatchReindex, Crop, Embed, Filter, Tile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from deeprebirth_caffe.engines.torch.layers.base import Lowered, lowers
from deeprebirth_caffe.engines.torch.layers.labels import class_numbers
from deeprebirth_caffe.ops import axis_of

if TYPE_CHECKING:
    from torch import Tensor


@lowers("ArgMax")
class ArgMax(Lowered):
    """The places of the largest values, or these values; of equal ones the last comes first. Nothing flows back."""

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Gives the one top."""
        p = self.spec.param.argmax_param
        x = bottoms[0].detach()
        by_axis = p.HasField("axis")
        axis = axis_of(self.spec.param, p.axis, tuple(x.shape)) if by_axis else 1
        rows = x if by_axis else x.reshape(x.shape[0], -1)
        values, places = rows.flip(axis).sort(dim=axis, descending=True, stable=True)
        values = values.narrow(axis, 0, p.top_k)
        places = (rows.shape[axis] - 1 - places.narrow(axis, 0, p.top_k)).to(x.dtype)
        if by_axis:
            return [values if p.out_max_val else places]
        both = torch.stack([places, values], 1) if p.out_max_val else places[:, None]
        return [both.reshape(*both.shape, *[1] * (x.dim() - 3))]


@lowers("BatchReindex")
class BatchReindex(Lowered):
    """Items by their numbers, any of them several times or never."""

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Gives the one top."""
        x, places = bottoms
        return [x.index_select(0, class_numbers(self.spec, places, x.shape[0], what="index"))]


@lowers("Crop")
class Crop(Lowered):
    """A piece of the first input, as large as the second."""

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Gives the one top."""
        x, size = bottoms
        offset = self.spec.param.crop_param.offset
        first = axis_of(self.spec.param, self.spec.param.crop_param.axis, tuple(x.shape))
        for axis in range(first, x.dim()):
            start = 0 if not offset else offset[0 if len(offset) == 1 else axis - first]
            x = x.narrow(axis, start, size.shape[axis])
        return [x]


@lowers("Embed")
class Embed(Lowered):
    """A row of the weights for each number, and the bias."""

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Gives the one top."""
        weights, *bias = blobs
        rows = weights[class_numbers(self.spec, bottoms[0], weights.shape[0], what="input")]
        return [rows + bias[0] if bias else rows]


@lowers("Filter")
class Filter(Lowered):
    """The items whose selector, the last input, is not 0."""

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Gives one top for each input but the last."""
        *inputs, selector = bottoms
        chosen = selector.detach().flatten().nonzero().flatten()
        return [x.index_select(0, chosen) for x in inputs]


@lowers("Tile")
class Tile(Lowered):
    """The input several times over, along an axis."""

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Gives the one top."""
        p = self.spec.param.tile_param
        x = bottoms[0]
        return [torch.cat([x] * p.tiles, axis_of(self.spec.param, p.axis, tuple(x.shape)))]
