"""Im2col and SPP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from deeprebirth_caffe.engines.torch.layers.base import Lowered, lowers, make
from deeprebirth_caffe.ops import PoolGeometry
from deeprebirth_caffe.ops.geometry import conv_split
from deeprebirth_caffe.ops.pooling import spp_windows
from deeprebirth_caffe.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    from torch import Tensor


@lowers("Im2col")
class Im2col(Lowered):
    """Every window's values side by side in the channel axis, over any number of spatial axes."""

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Gives the one top."""
        x = bottoms[0]
        axis, window = conv_split(self.spec.param, tuple(x.shape))
        out = window.output(x.shape[axis + 1 :])
        x = functional.pad(x, [pad for each in reversed(window.pad) for pad in (each, each)])
        # A kernel that sticks out of the padded input still gives one output: Caffe reads zeros there.
        reach = [
            stride * (length - 1) + extent
            for stride, length, extent in zip(window.stride, out, window.extent, strict=True)
        ]
        beyond = [max(0, need - have) for need, have in zip(reach, x.shape[axis + 1 :], strict=True)]
        x = functional.pad(x, [pad for each in reversed(beyond) for pad in (0, each)])
        taps = []
        for place in product(*map(range, window.kernel)):
            tap = x
            for offset, (at, dilation, stride, length) in enumerate(
                zip(place, window.dilation, window.stride, out, strict=True)
            ):
                start = at * dilation
                index = [slice(None)] * (axis + 1 + offset) + [slice(start, start + stride * (length - 1) + 1, stride)]
                tap = tap[tuple(index)]
            taps.append(tap)
        return [torch.stack(taps, axis + 1).flatten(axis, axis + 1)]


@lowers("SPP")
class SPP(Lowered):
    """Pooling into 1, 4, 16… bins, all side by side; the windows go by the size of the input at hand."""

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Gives the one top; a single level stays as it is."""
        windows = spp_windows(self.spec.param, tuple(bottoms[0].shape))
        tops = [self._level(window).forward(bottoms, ())[0] for window in windows]
        return tops if len(tops) == 1 else [torch.cat([top.flatten(1) for top in tops], 1)]

    def _level(self, window: PoolGeometry) -> Lowered:
        pool = pb.PoolingParameter(pool=window.method)
        (pool.kernel_h, pool.kernel_w), (pool.stride_h, pool.stride_w) = window.kernel, window.stride
        pool.pad_h, pool.pad_w = window.pad
        name = self.spec.param.name
        param = pb.LayerParameter(name=name, type="Pooling", bottom=["x"], top=["y"], pooling_param=pool)
        return make(replace(self.spec, param=param))
