"""Where the right class stands among a net's scores: top-1, top-5, and a row for each image."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.inputs.labels import judge_of
from deeprebirth_caffe.ir import View
from deeprebirth_caffe.ops.base import by
from deeprebirth_caffe.wording import csv_cell

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import FloatArray

COLUMNS = ("index", "key", "label", "predicted", "rank", "top1", "top5", "score")


@dataclass(frozen=True)
class Classifier:
    """Where a net has its scores.

    Attributes:
        scores: the blob with one for each class.
        labels: the blob with the right classes.
        axis: of the classes.
        ignored: the label that does not count.
    """

    scores: str
    labels: str
    axis: int
    ignored: int | None


def find_classifier(view: View) -> Classifier | None:
    """What the net's last Accuracy reads, else its last loss over classes; None where it has neither.

    A net with auxiliary heads has the main one last.
    """
    judges = [judge for layer in view.layers if (judge := judge_of(view, layer)) is not None]
    judges.sort(key=lambda judge: judge.layer.type == "Accuracy")
    if not judges:
        return None
    scores, labels = view.ins[judges[-1].layer][:2]
    return Classifier(scores.name, labels.name, judges[-1].axis, judges[-1].ignored)


class Ranking:
    """Counts over the images of a test, and writes their rows.

    Attributes:
        images: how many counted.
        hits: how often the right class was first, and among the first five.
    """

    def __init__(self, classifier: Classifier, most: int | None = None, rows: BinaryIO | None = None) -> None:
        """Args:
        classifier: where the scores are.
        most: images after so many do not count: the data began anew.
        rows: gets a table, as CSV.
        """
        self.classifier = classifier
        self.images = 0
        self.hits = [0, 0]
        self._most = most
        self._index = 0
        self._rows = rows
        self._write([COLUMNS])

    def add(self, scores: FloatArray, labels: FloatArray, keys: Sequence[str] = ()) -> None:
        """Takes a batch in.

        Args:
            scores: of each image.
            labels: of each image.
            keys: what the images are called; empty where that is not known.

        Raises:
            RebirthError: the net has no single score for each class, or a label is none of its classes.
        """
        table = self._table(scores, labels.size)
        rows = []
        for position, (mine, value) in enumerate(zip(table, labels.reshape(-1), strict=True)):
            index, label = self._index, int(value)
            if self._most is not None and index >= self._most:
                break
            self._index += 1
            key = keys[position] if position < len(keys) else ""
            if label == self.classifier.ignored:
                continue
            if not 0 <= label < mine.size:
                raise RebirthError(
                    f"image {index}{f' ({key})' if key else ''} has label {label}, and blob "
                    f'"{self.classifier.scores}" has {mine.size} classes; correct the label or the net'
                )
            rank = _rank(mine, label)
            # A score that is no number is no hit, whatever Caffe makes of it.
            top = [bool(np.isfinite(mine[label])) and rank <= first for first in (1, 5)]
            self.images += 1
            self.hits = [count + hit for count, hit in zip(self.hits, top, strict=True)]
            best = int(np.argmax(mine))
            rows.append((index, key, label, best, rank, int(top[0]), int(top[1]), f"{mine[best]:.9g}"))
        self._write(rows)

    def _table(self, scores: FloatArray, images: int) -> FloatArray:
        axis = self.classifier.axis
        if not -scores.ndim <= axis < scores.ndim or scores.size != images * scores.shape[axis]:
            raise RebirthError(
                f'blob "{self.classifier.scores}" ({by(scores.shape)}) holds more than one score for each image and '
                "class; results for each image need a net that classifies whole images"
            )
        return np.moveaxis(scores, axis, -1).reshape(images, scores.shape[axis])

    def _write(self, rows: Sequence[Sequence[object]]) -> None:
        if self._rows is not None:
            text = io.StringIO(newline="")
            csv.writer(text, lineterminator="\n").writerows(map(csv_cell, row) for row in rows)
            self._rows.write(text.getvalue().encode(errors="surrogateescape"))


def _rank(scores: FloatArray, label: int) -> int:
    """The place of a class as Caffe's Accuracy counts it: a class with the same score stands before it."""
    own = scores[label]
    return int(np.count_nonzero(scores >= own)) if np.isfinite(own) else scores.size
