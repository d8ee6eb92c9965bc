"""Learning from a teacher: another net, by the rules of TEST, sees each batch of the student's.

With s and t the scores of student and teacher at a head, T the temperature, p = softmax(s / T), q = softmax(t / T):

    D = T^2 * sum_c q_c (log q_c - log p_c),    dD/ds = T (p - q),

summed over the batch (and positions) and divided by what the head divides its own loss by. T^2 keeps the gradient as
large as that of labels, whatever T is (Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network").
For a blob of N x C x H x W in both nets:

    E = sum (s - t)^2 / (2 N C H W),    dE/ds = (s - t) / (N C H W),

an EuclideanLoss with the weight 1 / (C H W). The loss is (1 - alpha) * (the net's own) + alpha * (the sum over the
heads of D, each times its loss weight) + match weight * (the sum over the blobs of E). Gradients are these formulas;
they enter the student at the blobs (`TorchNet.backward`) and add up there with those of its own losses.

The teacher has no memory and draws nothing, so a run that is resumed needs nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from deeprebirth_caffe.engines.base import EngineError, Parts
from deeprebirth_caffe.engines.lesson import Head, Lesson
from deeprebirth_caffe.engines.torch.frozen import Budget
from deeprebirth_caffe.engines.torch.layers.softmax import normalizer
from deeprebirth_caffe.engines.torch.net import TorchNet
from deeprebirth_caffe.ir import NetState


@dataclass(frozen=True)
class Verdict:
    """What came of one batch; all numbers are scalars on the device.

    Attributes:
        loss: what is minimised.
        own: the student's own losses.
        heads: by head.
        blobs: by blob.
    """

    loss: Tensor
    own: Tensor
    heads: Mapping[str, Tensor]
    blobs: Mapping[str, Tensor]


class Teacher:
    """A net that says what it would answer.

    Attributes:
        lesson: what is asked of it.
        net: the net.
    """

    def __init__(self, lesson: Lesson, device: str, precision: str, root: Path, cache: Budget | None = None) -> None:
        """Builds it, with its weights; `cache`: memory to keep what it said of images that may come again.

        Raises:
            EngineError: it cannot be run, or its weights do not fit.
        """
        self.lesson = lesson
        self.net = TorchNet(
            lesson.net,
            NetState("TEST"),
            device=device,
            precision=precision,
            seed=0,
            root=root,
            sources=False,
            cache=cache,
            learns=False,
        )
        if lesson.net.weights is not None:
            self.net.load(lesson.net.weights)

    def learn(self, student: TorchNet) -> tuple[dict[str, Tensor], Verdict]:
        """One forward and backward pass of the student with what the teacher says; adds to its gradients.

        Returns:
            The student's outputs, and what the loss was.

        Raises:
            EngineError: the two do not fit each other.
        """
        lesson = self.lesson
        found = student.forward(keep=[*student.outputs, *lesson.watched])
        heads, blobs, diffs = self.judge(student.batch, found)
        if self.net.frozen is not None:
            for source in list(student.sources.values())[:1]:
                self.net.frozen.seen(source.keys)
        # A loss that does not count may be infinite.
        total = student.loss * (1 - lesson.alpha) if lesson.alpha < 1 else torch.zeros_like(student.loss)
        for value in heads.values():
            total = total + lesson.alpha * value
        for value in blobs.values():
            total = total + lesson.match_weight * value
        reached = {name: diff for name, diff in diffs.items() if student.learns_below(name)}
        student.backward(reached, 1 - lesson.alpha)
        outputs = {name: found[name] for name in student.outputs}
        return outputs, Verdict(total, student.loss, heads, blobs)

    def judge(
        self, batch: Mapping[str, Tensor], found: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Compares the student's blobs with the teacher's.

        Args:
            batch: the student's data.
            found: the student's blobs that the lesson watches.

        Returns:
            The losses of heads and of blobs, and the gradient of the weighted sum of both in each of `found`.
        """
        lesson = self.lesson
        said = self.net.forward({its: batch[mine] for its, mine in lesson.inputs.items()}, lesson.asked)
        diffs: dict[str, Tensor] = {}
        heads: dict[str, Tensor] = {}
        for head in lesson.heads:
            _same_shape(head.student, found[head.student], head.teacher, said[head.teacher])
            value, diff = divergence(head, found[head.student], said[head.teacher], lesson.temperature)
            heads[head.name] = value
            _add(diffs, head.student, diff * lesson.alpha)
        blobs: dict[str, Tensor] = {}
        for name in lesson.blobs:
            _same_shape(name, found[name], name, said[name])
            apart = found[name].float() - said[name].float()
            blobs[name] = apart.square().sum() / (2 * apart.numel())
            _add(diffs, name, apart * (lesson.match_weight / apart.numel()))
        return heads, blobs, diffs


def divergence(head: Head, student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """A head's loss and its gradient in the student's scores; see the module's text.

    Args:
        head: where.
        student: its scores.
        teacher: its scores, of the same shape.
        temperature: what both are divided by.
    """
    logs = (student.float() / temperature).log_softmax(head.axis)
    wanted = (teacher.float() / temperature).log_softmax(head.axis)
    chances = wanted.exp()
    factor = head.weight / normalizer(head.param, student, head.axis, None)
    value = (chances * (wanted - logs)).sum() * (factor * temperature**2)
    return value, (logs.exp() - chances) * (factor * temperature)


def parts(verdicts: Sequence[Verdict]) -> Parts:
    """The means over the batches of an iteration, as numbers."""

    def mean(values: Sequence[Tensor]) -> float:
        return float(torch.stack(list(values)).mean())

    first = verdicts[0]
    return Parts(
        own=mean([one.own for one in verdicts]),
        heads={name: mean([one.heads[name] for one in verdicts]) for name in first.heads},
        blobs={name: mean([one.blobs[name] for one in verdicts]) for name in first.blobs},
    )


def _add(diffs: dict[str, Tensor], name: str, diff: Tensor) -> None:
    diffs[name] = diffs[name] + diff if name in diffs else diff


def _same_shape(mine: str, student: Tensor, its: str, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise EngineError(
            f'the student\'s blob "{mine}" is {_by(student)} and the teacher\'s "{its}" {_by(teacher)}: they cannot be '
            "compared; give a teacher with the same classes and the same input size"
        )


def _by(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
