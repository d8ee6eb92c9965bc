"""Training logs (`rebirth finetune --log`) as curves: as many points as a picture can show, whatever the log's length.

A curve's point is the mean of the losses of its iterations. Iterations whose loss is no number are counted, not drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import open_regular
from deeprebirth_caffe.formats.jsonfile import as_number, parse_json, shaped
from deeprebirth_caffe.training.runlog import LINE_SHAPE

POINTS = 160
"""Of a curve."""

Curve = tuple[tuple[float, float], ...]
"""(iteration, value) in order."""


@dataclass(frozen=True)
class Log:
    """One training run.

    Attributes:
        label: its folder within the step.
        iterations: how many the log has.
        loss: the curve.
        tests: a curve for each output of the first test net that is one number.
        falls: the iterations at which a learning rate that had stayed the same fell.
        bad: how many losses were no number.
    """

    label: str
    iterations: int
    loss: Curve
    tests: Mapping[str, Curve]
    falls: tuple[int, ...]
    bad: int


def read_log(path: Path, label: str = "") -> Log:
    """Reads a log line by line.

    Raises:
        RebirthError: a line is none of a log. The last one may be torn: the run may be at it now.
    """
    iterations: list[int] = []
    losses: list[float] = []
    tests: dict[str, list[tuple[float, float]]] = {}
    falls: list[int] = []
    rates: list[float] = []  # the last two
    with open_regular(path) as file:
        for index, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                row = shaped(parse_json(line), LINE_SHAPE)
            except ValueError as error:
                raise RebirthError(f"{path}: line {index} is none of a log of rebirth finetune ({error})") from None
            iteration, rate, loss = row["iteration"], row["lr"], row["loss"]
            found = [(one["iteration"], one["outputs"]) for one in row.get("tests", []) if not one["net"]]
            iterations.append(iteration)
            losses.append(loss)
            if len(rates) == 2 and rates[0] == rates[1] > rate:
                falls.append(iteration)
            rates = [*rates[-1:], rate]
            for done, outputs in found:
                for name, value in outputs.items():
                    if (figure := as_number(value)) is not None:
                        tests.setdefault(name, []).append((float(done), figure))
    bad = sum(not isfinite(loss) for loss in losses)
    return Log(label, len(iterations), _thinned(iterations, losses), _sorted(tests), tuple(falls), bad)


def _thinned(iterations: list[int], losses: list[float]) -> Curve:
    """Means of stretches of equal length."""
    values = np.asarray(losses, np.float64)
    kept = np.flatnonzero(np.isfinite(values))
    parts = np.array_split(kept, min(POINTS, len(kept))) if len(kept) else []
    where = np.asarray(iterations, np.float64)
    return tuple((float(where[part].mean()), float(values[part].mean())) for part in parts)


def _sorted(tests: Mapping[str, list[tuple[float, float]]]) -> dict[str, Curve]:
    """A test that a resumed run repeats counts once."""
    return {name: tuple(sorted(dict(points).items())) for name, points in tests.items()}
