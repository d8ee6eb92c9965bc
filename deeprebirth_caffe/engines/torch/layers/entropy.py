"""Losses with normalization modes and ignored labels: SigmoidCrossEntropy and Infogain."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.engines.torch.layers.base import Lowered, Spec, lowers
from deeprebirth_caffe.engines.torch.layers.labels import LEAST, Floor
from deeprebirth_caffe.engines.torch.layers.softmax import class_labels, ignored_label, normalizer
from deeprebirth_caffe.formats.blobs import read_blob
from deeprebirth_caffe.formats.files import read_regular
from deeprebirth_caffe.ops import axis_of

if TYPE_CHECKING:
    from torch import Tensor


@lowers("SigmoidCrossEntropyLoss")
class SigmoidCrossEntropyLoss(Lowered):
    """Cross-entropy of each score's sigmoid with a target between 0 and 1."""

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Gives the loss."""
        scores = bottoms[0]
        targets = bottoms[1].detach().reshape(scores.shape)
        each = functional.binary_cross_entropy_with_logits(scores, targets, reduction="none")
        ignored = ignored_label(self.spec.param.loss_param)
        counted = torch.ones_like(targets, dtype=torch.bool) if ignored is None else targets.long() != ignored
        return [torch.where(counted, each, 0.0).sum() / self._divisor(scores, counted)]

    def _divisor(self, scores: Tensor, counted: Tensor) -> float:
        """What the loss is divided by; unlike other losses it goes by the items where nothing is said."""
        p = self.spec.param.loss_param
        mode = p.normalization if p.HasField("normalization") else p.VALID if p.normalize else p.BATCH_SIZE
        numbers = {p.VALID: int(counted.sum()), p.FULL: scores.numel(), p.BATCH_SIZE: scores.shape[0]}
        return float(max(1, numbers.get(mode, 1)))


@lowers("InfogainLoss")
class InfogainLoss(Lowered):
    """Softmax with a matrix that says how much each class counts for each label."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.matrix = _matrix(spec) if len(spec.bottoms) < 3 else None

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Gives the loss, and the probabilities where there is a second top."""
        param, scores = self.spec.param, bottoms[0]
        axis = axis_of(param, param.infogain_loss_param.axis, tuple(scores.shape))
        classes = scores.shape[axis]
        labels, counted = class_labels(self.spec, scores, bottoms[1].detach(), axis, ignored_label(param.loss_param))
        matrix = (self.matrix if self.matrix is not None else bottoms[2].detach()).to(scores.device)
        # For each label a row of the matrix, its classes along the axis.
        weights = matrix.reshape(classes, classes)[labels.squeeze(axis)].movedim(-1, axis)
        if counted is not None:
            weights = weights * counted
        logs = scores.log_softmax(axis)
        total = -(weights * Floor.apply(logs, log(LEAST))).sum()  # type: ignore[no-untyped-call]
        return [total / normalizer(param, scores, axis, counted), logs.detach().exp()][: max(1, len(param.top))]


def _matrix(spec: Spec) -> Tensor:
    source = spec.root / spec.param.infogain_loss_param.source
    try:
        data = read_regular(source)
        values = torch.tensor(read_blob(data, 0, len(data)).array.reshape(-1), dtype=torch.float32)
    except OSError as error:
        raise EngineError(
            f'layer "{spec.param.name}": cannot read its infogain matrix {source}: {error.strerror}'
        ) from error
    except ValueError as error:
        raise EngineError(f'layer "{spec.param.name}": {source} is not a BlobProto ({error})') from error
    axis = axis_of(spec.param, spec.param.infogain_loss_param.axis, spec.bottoms[0])
    classes = spec.bottoms[0][axis]
    if values.numel() != classes**2:
        raise EngineError(
            f'layer "{spec.param.name}": its infogain matrix {source} has {values.numel()} numbers, '
            f"not {classes} x {classes}"
        )
    return values
