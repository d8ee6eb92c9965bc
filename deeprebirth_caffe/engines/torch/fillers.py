"""Caffe's seven weight fillers, on PyTorch's random numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.proto import caffe_pb2 as pb


def filled(filler: pb.FillerParameter, shape: Sequence[int], generator: torch.Generator, where: str) -> torch.Tensor:
    """A new tensor, filled as Caffe would: the same distribution, other numbers.

    Args:
        filler: which, and with what.
        shape: of the tensor.
        generator: gives the random numbers, on its device.
        where: whose tensor it is, for messages.

    Raises:
        EngineError: there is no such filler, or Caffe would refuse it for this shape.
    """
    tensor = torch.empty(tuple(shape), device=generator.device)
    kind = filler.type
    if kind == "constant":
        tensor.fill_(filler.value)
    elif kind == "uniform":
        tensor.uniform_(filler.min, filler.max, generator=generator)
    elif kind == "gaussian":
        _gaussian(tensor, filler, generator)
    elif kind == "positive_unitball":
        _unit_ball(tensor, generator)
    elif kind == "xavier":
        bound = math.sqrt(3.0 / _fan(filler, shape))
        tensor.uniform_(-bound, bound, generator=generator)
    elif kind == "msra":
        tensor.normal_(0.0, math.sqrt(2.0 / _fan(filler, shape)), generator=generator)
    elif kind == "bilinear":
        _bilinear(tensor, where)
    else:
        raise EngineError(f'{where}: there is no filler "{kind}" in Caffe')
    return tensor


def _fan(filler: pb.FillerParameter, shape: Sequence[int]) -> float:
    count = math.prod(shape)
    fan_in = count / (shape[0] if shape else 1)
    fan_out = count / (shape[1] if len(shape) > 1 else 1)
    if filler.variance_norm == pb.FillerParameter.AVERAGE:
        return (fan_in + fan_out) / 2
    return fan_out if filler.variance_norm == pb.FillerParameter.FAN_OUT else fan_in


def _gaussian(tensor: torch.Tensor, filler: pb.FillerParameter, generator: torch.Generator) -> None:
    tensor.normal_(filler.mean, filler.std, generator=generator)
    if filler.sparse >= 0:
        share = min(1.0, filler.sparse / max(1, tensor.shape[0] if tensor.dim() else 1))
        tensor.mul_(torch.empty_like(tensor).bernoulli_(share, generator=generator))


def _unit_ball(tensor: torch.Tensor, generator: torch.Generator) -> None:
    tensor.uniform_(0.0, 1.0, generator=generator)
    rows = tensor.view(tensor.shape[0] if tensor.dim() else 1, -1)
    rows.div_(rows.sum(1, keepdim=True))


def _bilinear(tensor: torch.Tensor, where: str) -> None:
    if tensor.dim() != 4 or tensor.shape[2] != tensor.shape[3]:
        raise EngineError(f"{where}: the bilinear filler takes square kernels of 4 axes, not {tuple(tensor.shape)}")
    width = tensor.shape[3]
    f = math.ceil(width / 2.0)
    centre = (2 * f - 1 - f % 2) / (2.0 * f)
    line = 1 - (torch.arange(width, dtype=torch.float32, device=tensor.device) / f - centre).abs()
    tensor.copy_(line[:, None] * line[None, :])
