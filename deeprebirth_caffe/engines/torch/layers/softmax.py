"""Softmax, SoftmaxWithLoss and Accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.engines.torch.layers.base import Lowered, Spec, lowers
from deeprebirth_caffe.ops.base import axis_of
from deeprebirth_caffe.proto import caffe_pb2 as pb

SMALLEST = torch.finfo(torch.float32).tiny
"""Caffe takes the logarithm of no probability below this."""


@lowers("Softmax")
class Softmax(Lowered):
    """Probabilities along an axis."""

    def forward(self, bottoms: Sequence[torch.Tensor], blobs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        axis = axis_of(self.spec.param, self.spec.param.softmax_param.axis, tuple(bottoms[0].shape))
        return [torch.softmax(bottoms[0], axis)]


@lowers("SoftmaxWithLoss")
class SoftmaxWithLoss(Lowered):
    """The mean of minus the logarithm of the right class's probability; the probabilities as second top."""

    def forward(self, bottoms: Sequence[torch.Tensor], blobs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        scores = bottoms[0]
        axis = axis_of(self.spec.param, self.spec.param.softmax_param.axis, tuple(scores.shape))
        labels, counted = class_labels(self.spec, scores, bottoms[1], axis, ignored_label(self.spec.param.loss_param))
        norm = normalizer(self.spec.param, scores, axis, counted)
        loss, probabilities = _SoftmaxLoss.apply(scores, labels, counted, norm, axis)  # type: ignore[no-untyped-call]
        return [loss, probabilities][: max(1, len(self.spec.param.top))]


class _SoftmaxLoss(torch.autograd.Function):
    """Caffe's gradient: that of the logarithm, also where the loss itself stops at the smallest probability."""

    @staticmethod
    def forward(
        ctx: Any, scores: torch.Tensor, labels: torch.Tensor, counted: torch.Tensor | None, norm: float, axis: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        probabilities = torch.softmax(scores, axis)
        right = probabilities.gather(axis, labels).clamp_min(SMALLEST).log()
        if counted is not None:
            right = right * counted
        ctx.save_for_backward(probabilities, labels, counted)
        ctx.norm, ctx.axis = norm, axis
        ctx.mark_non_differentiable(probabilities)
        return right.sum().neg().div(norm), probabilities

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        probabilities, labels, counted = ctx.saved_tensors
        diff = probabilities.clone()
        diff.scatter_add_(ctx.axis, labels, torch.full_like(labels, -1, dtype=diff.dtype))
        if counted is not None:
            diff *= counted
        return diff.mul_(grads[0] / ctx.norm), None, None, None, None


@lowers("Accuracy")
class Accuracy(Lowered):
    """The share of labels among the `top_k` best scores; as second top for each class."""

    def forward(self, bottoms: Sequence[torch.Tensor], blobs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        p = self.spec.param.accuracy_param
        scores = bottoms[0].detach()
        axis = axis_of(self.spec.param, p.axis, tuple(scores.shape))
        ignored = p.ignore_label if p.HasField("ignore_label") else None
        labels, counted = class_labels(self.spec, scores, bottoms[1].detach(), axis, ignored)
        # A score that ties with the right one counts as better, as in Caffe.
        better = (scores >= scores.gather(axis, labels)).sum(axis, keepdim=True) - 1
        hits = (better < p.top_k).float()
        if counted is not None:
            hits = hits * counted
        seen = counted if counted is not None else torch.ones_like(hits)
        tops = [hits.sum() / seen.sum().clamp_min(1)]
        if len(self.spec.param.top) > 1:
            classes = torch.zeros(2, scores.shape[axis], device=scores.device)
            classes[0].index_add_(0, labels.flatten(), hits.flatten())
            classes[1].index_add_(0, labels.flatten(), seen.flatten())
            tops.append(classes[0] / classes[1].clamp_min(1))
        return tops


def ignored_label(p: pb.LossParameter) -> int | None:
    """The label that does not count, if there is one."""
    return p.ignore_label if p.HasField("ignore_label") else None


def class_labels(
    spec: Spec, scores: torch.Tensor, labels: torch.Tensor, axis: int, ignored: int | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Labels as class numbers, shaped as the scores with one class, and 1 or 0 for whether each counts.

    Raises:
        EngineError: a label is no class. (Caffe would read memory that is not its own.)
    """
    shape = list(scores.shape)
    classes, shape[axis] = shape[axis], 1
    numbers = labels.reshape(shape).long()
    counted = None
    if ignored is not None:
        counts = numbers != ignored
        numbers = torch.where(counts, numbers, 0)
        counted = counts.float()
    low, high = (int(each) for each in torch.aminmax(numbers)) if numbers.numel() else (0, 0)
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise EngineError(
            f'layer "{spec.param.name}": label {wrong} is no class, for "{spec.param.bottom[0]}" has {classes} '
            f"(0 to {classes - 1}); correct the labels or the layer's size, or set ignore_label"
        )
    return numbers, counted


def normalizer(param: pb.LayerParameter, scores: torch.Tensor, axis: int, counted: torch.Tensor | None) -> float:
    """What the loss is divided by; at least 1."""
    p = param.loss_param
    mode = p.normalization
    if not p.HasField("normalization") and p.HasField("normalize"):
        mode = p.VALID if p.normalize else p.BATCH_SIZE
    outer = 1
    for dim in scores.shape[:axis]:
        outer *= dim
    everything = scores.numel() // scores.shape[axis]
    if mode == p.VALID:
        total = float(counted.sum()) if counted is not None else float(everything)
    else:
        total = {p.FULL: float(everything), p.BATCH_SIZE: float(outer)}.get(mode, 1.0)
    return max(1.0, total)
