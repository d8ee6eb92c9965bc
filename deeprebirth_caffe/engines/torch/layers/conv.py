"""Convolution and Deconvolution, over any number of spatial axes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from deeprebirth_caffe.engines.torch.layers.base import Lowered, Spec, lowers
from deeprebirth_caffe.ops.geometry import Dims, conv_split

_CONVS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_DECONVS = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


class _Windowed(Lowered):
    half = True
    fresh = True

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self._axis, self._window = conv_split(spec.param, spec.bottoms[0])
        spatial = len(spec.bottoms[0]) - self._axis - 1
        # No spatial axis at all is one of length 1.
        self._flat = spatial == 0
        window = self._window
        self._kernel = window.kernel or (1,)
        self._stride, self._pad = window.stride or (1,), window.pad or (0,)
        self._dilation = window.dilation or (1,)

    def forward(self, bottoms: Sequence[torch.Tensor], blobs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        weight = blobs[0].unsqueeze(-1) if self._flat else blobs[0]
        bias = blobs[1] if len(blobs) > 1 else None
        return [self._one(bottom, weight, bias) for bottom in bottoms]

    def _one(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        lead, shape = x.shape[: self._axis], x.shape[self._axis :]
        if self._axis != 1:
            x = x.reshape(-1, *shape)
        if self._flat:
            x = x.unsqueeze(-1)
        if x.dim() == 4 and x.device.type != "mps":
            x = x.contiguous(memory_format=torch.channels_last)
        y = self._apply(x, weight, bias)
        if self._flat:
            y = y.squeeze(-1)
        return y if self._axis == 1 else y.reshape(*lead, *y.shape[1:])

    def _apply(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        raise NotImplementedError


@lowers("Convolution")
class Convolution(_Windowed):
    """A convolution; where Caffe lets a window stick out of the padded input, zeros are behind it."""

    def _apply(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        missing = [
            max(0, extent - length - 2 * pad)
            for extent, length, pad in zip(
                (d * (k - 1) + 1 for k, d in zip(self._kernel, self._dilation, strict=True)),
                x.shape[2:],
                self._pad,
                strict=True,
            )
        ]
        if any(missing):
            x = functional.pad(x, [amount for each in reversed(missing) for amount in (0, each)])
        return _conv(x, weight, bias, self._stride, self._pad, self._dilation, self._window.group)


@lowers("Deconvolution")
class Deconvolution(_Windowed):
    """A transposed convolution."""

    def _apply(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return _deconv(x, weight, bias, self._stride, self._pad, self._dilation, self._window.group)


def _conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Dims,
    pad: Dims,
    dilation: Dims,
    group: int,
) -> torch.Tensor:
    if x.dim() == 4 and x.device.type == "cpu" and weight.shape[2:] == (1, 1) and max(stride) > 1:
        # What a stride passes over is left out first. PyTorch 2.13's oneDNN writes over memory that is not its own when
        # it works out the weights' gradient of such a convolution of a few channels, where channels come last.
        x = functional.pad(x, (pad[1], pad[1], pad[0], pad[0])) if any(pad) else x
        x = x[:, :, :: stride[0], :: stride[1]].contiguous(memory_format=torch.channels_last)
        stride, pad = (1, 1), (0, 0)
    if x.dim() - 2 in _CONVS:
        return _CONVS[x.dim() - 2](x, weight, bias, stride, pad, dilation, group)
    # PyTorch convolves over at most 3 axes: the first is done here, the others by a convolution for each of its taps.
    x = functional.pad(x, [0] * (2 * (x.dim() - 3)) + [pad[0], pad[0]])
    taps = weight.unbind(2)
    length = (x.shape[2] - dilation[0] * (len(taps) - 1) - 1) // stride[0] + 1
    total: torch.Tensor | None = None
    for number, tap in enumerate(taps):
        start = number * dilation[0]
        lines = x[:, :, start : start + (length - 1) * stride[0] + 1 : stride[0]]
        part = _conv(_folded(lines), tap, bias if number == 0 else None, stride[1:], pad[1:], dilation[1:], group)
        total = part if total is None else total + part
    assert total is not None
    return _unfolded(total, length)


def _deconv(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Dims,
    pad: Dims,
    dilation: Dims,
    group: int,
) -> torch.Tensor:
    if x.dim() - 2 in _DECONVS:
        return _DECONVS[x.dim() - 2](x, weight, bias, stride, pad, 0, group, dilation)
    taps = weight.unbind(2)
    reach = (x.shape[2] - 1) * stride[0] + 1
    length = reach + dilation[0] * (len(taps) - 1)
    total: torch.Tensor | None = None
    for number, tap in enumerate(taps):
        part = _unfolded(_deconv(_folded(x), tap, None, stride[1:], pad[1:], dilation[1:], group), x.shape[2])
        if total is None:
            total = part.new_zeros(*part.shape[:2], length, *part.shape[3:])
        start = number * dilation[0]
        total[:, :, start : start + reach : stride[0]] += part
    assert total is not None
    total = total[:, :, pad[0] : length - pad[0]]
    return total if bias is None else total + bias.reshape(1, -1, *(1,) * (total.dim() - 2))


def _folded(x: torch.Tensor) -> torch.Tensor:
    """The first spatial axis taken into the batch."""
    return x.movedim(2, 1).flatten(0, 1)


def _unfolded(x: torch.Tensor, length: int) -> torch.Tensor:
    """And taken out of it."""
    return x.reshape(-1, length, *x.shape[1:]).movedim(1, 2)
