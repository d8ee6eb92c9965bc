"""What several layers share: whole numbers that count something, and Caffe's floor below probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from deeprebirth_caffe.engines.base import EngineError

if TYPE_CHECKING:
    from torch import Tensor

    from deeprebirth_caffe.engines.torch.layers.base import Spec

LEAST = 1e-20
"""Caffe's older losses take the logarithm of no less."""


class Floor(torch.autograd.Function):
    """max(x, least) whose gradient does not stop below it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, least: float) -> Tensor:
        return x.clamp(min=least)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None


def class_numbers(spec: Spec, values: Tensor, classes: int, what: str = "label") -> Tensor:
    """Labels or indices as whole numbers, cut off as C does it.

    Raises:
        EngineError: one lies outside; Caffe would read beyond its memory.
    """
    numbers = values.detach().long()
    wrong = (numbers < 0) | (numbers >= classes)
    if bool(wrong.any()):
        raise EngineError(
            f'layer "{spec.param.name}": {what} {int(numbers[wrong][0])} does not lie between 0 and {classes - 1}'
        )
    return numbers
