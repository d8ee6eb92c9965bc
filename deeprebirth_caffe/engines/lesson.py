"""What a student learns from a teacher, and where: settled before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.proto import caffe_pb2 as pb


@dataclass(frozen=True)
class Head:
    """One place where student and teacher have scores of the same classes.

    Attributes:
        name: the student's layer that makes probabilities of them, or the blob itself where there is none.
        param: that layer, which says over how many positions the mean is taken; an empty message: over all.
        student: the student's scores, a blob.
        teacher: the teacher's.
        axis: of the classes, counted from the front.
        weight: the layer's loss weight.
    """

    name: str
    param: pb.LayerParameter
    student: str
    teacher: str
    axis: int
    weight: float


@dataclass(frozen=True)
class Lesson:
    """All that a teacher says of each batch.

    Attributes:
        net: the teacher, cut down to what is asked of it; its data are inputs. It has its weights, and runs in TEST.
        inputs: for each of its inputs the student's blob that goes there.
        heads: where scores are compared.
        blobs: which blobs of both nets are compared.
        temperature: what scores are divided by.
        alpha: what the teacher's scores count; the student's own losses count the rest of 1.
        match_weight: what the blobs count.
    """

    net: Net
    inputs: Mapping[str, str]
    heads: tuple[Head, ...]
    blobs: tuple[str, ...]
    temperature: float
    alpha: float
    match_weight: float

    @property
    def watched(self) -> list[str]:
        """The student's blobs that are looked at, where gradients enter."""
        return list(dict.fromkeys([*(head.student for head in self.heads), *self.blobs]))

    @property
    def asked(self) -> list[str]:
        """The teacher's blobs that are looked at."""
        return list(dict.fromkeys([*(head.teacher for head in self.heads), *self.blobs]))
