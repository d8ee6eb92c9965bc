"""Pooling, with Caffe's windows: also where PyTorch would clip them otherwise or refuse them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from deeprebirth_caffe.engines.torch.layers.base import Lowered, Spec, lowers
from deeprebirth_caffe.ops.geometry import PoolGeometry, pool_geometry

LOWEST = torch.finfo(torch.float32).min
"""What Caffe's max pooling starts from, and leaves in a window without a pixel."""


@lowers("Pooling")
class Pooling(Lowered):
    """MAX (with its mask as second top), AVE and STOCHASTIC pooling."""

    half = True

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self._mask = len(spec.param.top) > 1

    def forward(self, bottoms: Sequence[torch.Tensor], blobs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        x = bottoms[0]
        window = pool_geometry(self.spec.param, tuple(x.shape))
        if window.method == "MAX":
            top, mask = max_pool(x, window, self._mask)
            return [top] if mask is None else [top, mask]
        if window.method == "AVE":
            return [average_pool(x, window)]
        return [_stochastic_pool(x, window, self.spec)]


def max_pool(x: torch.Tensor, window: PoolGeometry, mask: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The largest of each window and, if asked for, where in its plane it lies (-1 in a window without a pixel)."""
    size = (x.shape[2], x.shape[3])
    native = _native(window, size)
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)
    if native is None:
        pad = _padding(window, size)
        x = functional.pad(x, pad, value=LOWEST)
    own = window.pad if native is not None else (0, 0)
    if not mask:
        return functional.max_pool2d(x, window.kernel, window.stride, own, ceil_mode=bool(native)), None
    top, where = functional.max_pool2d(
        x, window.kernel, window.stride, own, ceil_mode=bool(native), return_indices=True
    )
    where = where.detach()
    if native is None:
        row, column = where // x.shape[3] - pad[2], where % x.shape[3] - pad[0]
        inside = (row >= 0) & (row < size[0]) & (column >= 0) & (column < size[1])
        where = torch.where(inside, row * size[1] + column, -1)
    return top, where.float()


def average_pool(x: torch.Tensor, window: PoolGeometry) -> torch.Tensor:
    """The mean of each window, whose size counts padding but not what lies beyond it."""
    if window.global_pooling:
        return x.mean((2, 3), keepdim=True)
    size = (x.shape[2], x.shape[3])
    native = _native(window, size)
    if native is not None:
        return functional.avg_pool2d(x, window.kernel, window.stride, window.pad, native, True)
    total = functional.avg_pool2d(
        functional.pad(x, _padding(window, size)), window.kernel, window.stride, divisor_override=1
    )
    lengths = []
    for length, out, kernel, stride, pad in zip(
        size, window.output(size), window.kernel, window.stride, window.pad, strict=True
    ):
        start = np.arange(out) * stride - pad
        lengths.append(np.minimum(start + kernel, length + pad) - start)
    counts = torch.from_numpy((lengths[0][:, None] * lengths[1][None, :]).astype(np.float32))
    return total / counts.to(x.device)


def _stochastic_pool(x: torch.Tensor, window: PoolGeometry, spec: Spec) -> torch.Tensor:
    """TRAIN picks a pixel as often as it is large; TEST takes the mean weighted so. Inputs are not negative."""
    x = functional.pad(x, _padding(window, (x.shape[2], x.shape[3])))
    (kh, kw), (sh, sw) = window.kernel, window.stride
    taps = x.unfold(2, kh, sh).unfold(3, kw, sw).flatten(4)
    total = taps.sum(-1)
    if not spec.train:
        return torch.where(total > 0, taps.square().sum(-1) / total, 0.0)
    sums = taps.detach().cumsum(-1)
    draw = torch.rand(total.shape, generator=spec.generator, device=x.device) * sums[..., -1]
    picked = (sums >= draw.unsqueeze(-1)).to(torch.uint8).argmax(-1, keepdim=True)
    return taps.gather(-1, picked).squeeze(-1)


def _native(window: PoolGeometry, size: tuple[int, int]) -> bool | None:
    """Whether PyTorch gets Caffe's windows by itself: the `ceil_mode` for it; None if it does not."""
    if any(2 * pad > kernel for pad, kernel in zip(window.pad, window.kernel, strict=True)):
        return None
    wanted = window.output(size)
    for ceil in (False, True):
        if all(
            _pytorch_size(length, kernel, stride, pad, ceil) == out
            for out, length, kernel, stride, pad in zip(
                wanted, size, window.kernel, window.stride, window.pad, strict=True
            )
        ):
            return ceil
    return None


def _pytorch_size(length: int, kernel: int, stride: int, pad: int, ceil: bool) -> int:
    room = length + 2 * pad - kernel
    if room < 0:
        return 0 if not ceil else -(-room // stride) + 1
    out = (-(-room // stride) if ceil else room // stride) + 1
    return out - 1 if ceil and (out - 1) * stride >= length + pad else out


def _padding(window: PoolGeometry, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """What makes a pool without padding hit Caffe's windows: left, right, top, bottom; negative cuts off."""
    ends = [
        (out - 1) * stride + kernel - length - pad
        for length, out, kernel, stride, pad in zip(
            size, window.output(size), window.kernel, window.stride, window.pad, strict=True
        )
    ]
    return window.pad[1], ends[1], window.pad[0], ends[0]
