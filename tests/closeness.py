"""How near is near enough: limits for float32 numbers that hold on any processor.

Processors, matrix libraries and numbers of threads add up in different orders, so no two machines leave the same last
digits, and no limit may be what one machine happened to give. What is allowed follows from the problem:

- `rounding(terms)` is how far a right float32 result may be from the truth. Each partial sum of n numbers rounds by
  about 0.4 eps of itself at random. Added up one after the other, the sum is off by 0.23 eps sqrt(n) of its size, and
  the worst of a million such sums lies five times as far out: 1.2 eps sqrt(n). Every other order is better, and a
  fused multiply-add rounds less. The rest is for what surrounds a sum: products, a bias, a root.
- Where a problem makes roundings grow (a difference of large numbers, a BatchNorm of few pixels), the truth in float64
  tells by how much: ours may be `FACTOR` times as far from it as real Caffe is, and `rounding` more. This alone would
  let pass what is wrong in ours and in the truth, which ours computes too. So Caffe must be near the truth as well, by
  a limit that does not depend on it.

`make test-kernels` lists how much of its limit each comparison used (`REBIRTH_TEST_MARGINS` names the file).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

EPS = float(np.finfo(np.float32).eps)
FACTOR = 4.0
"""How many times as far from the truth as Caffe ours may be."""
GROWTH = 10.0
"""How many roundings far from the truth Caffe may be: where it is further, one of the two computes something else."""
HUGE = 1e30
"""From here on a number stands for something else: Caffe's -FLT_MAX of an empty window."""


def rounding(terms: float = 1) -> float:
    """How far a float32 result may be from the truth, relative to the largest value of its kind.

    Args:
        terms: How many numbers are added up for one value; of sums that follow each other, all together.
    """
    return EPS * (4 + 2 * sqrt(terms))


def between(terms: float = 1) -> float:
    """How far two right float32 results may be from each other: each from the truth, on its own side of it."""
    return 2 * rounding(terms)


def trained(steps: int, terms: float) -> float:
    """How far losses and weights of two trainings may be from each other, in nets without `switches`.

    Each step's weights carry the rounding of its gradients into the next losses: as if all steps were layers of one
    net. Where a net learns, its losses fall, and so do differences of weights; where it runs away, they do not, and it
    is no net to compare trainings with.

    Args:
        steps: How many have been made.
        terms: How many numbers are added up for a value, and for a gradient, by all layers together.
    """
    return between(steps * terms)


def apart(true: Array, other: Array) -> float:
    """max|a-b| / max|a| over ordinary numbers; infinite where shapes differ, or what is no ordinary number."""
    if true.shape != other.shape:
        return np.inf
    special = ~np.isfinite(true) | (np.abs(true) > HUGE)
    if not np.array_equal(true[special], other[special], equal_nan=True):
        return np.inf
    a, b = true[~special].astype(np.float64), other[~special].astype(np.float64)
    if not np.isfinite(b).all():
        return np.inf
    worst, largest = float(np.abs(a - b).max(initial=0)), float(np.abs(a).max(initial=0))
    return worst / largest if largest else np.inf if worst else 0.0


@dataclass
class Comparison:
    """Collects what is further apart than it may be.

    Attributes:
        wrong: What is, in words.
    """

    wrong: list[str] = field(default_factory=list)

    def near(self, what: str, theirs: Array, ours: Array, terms: float = 1, true: Array | None = None) -> None:
        """Compares one array of ours with Caffe's.

        Args:
            what: Its name.
            theirs: Caffe's.
            ours: Ours.
            terms: How many numbers are added up for one value.
            true: The same in float64, where there is one.
        """
        if true is None:
            self.within(what, apart(theirs, ours), between(terms), theirs, ours)
            return
        if not np.array_equal(_special(theirs), _special(ours), equal_nan=True):
            self.within(what, np.inf, 0, theirs, ours)
            return
        # What stands for no number, or is too large for float32, is compared as it is, and the rest with the truth.
        true = np.where(_special(theirs), theirs, true)
        caffes = apart(true, theirs)
        self.within(f"{what}, Caffe from the truth", caffes, GROWTH * rounding(terms), theirs, true)
        self.within(what, apart(true, ours), FACTOR * caffes + rounding(terms), theirs, ours)

    def within(self, what: str, distance: float, limit: float, theirs: Array, ours: Array) -> None:
        """Notes a distance, and what is to be said of it where it is beyond its limit."""
        note(what, distance, limit)
        if not distance <= limit:
            text = f"{what}: off by {distance:.3g}, at most {limit:.3g} is allowed"
            self.wrong.append(f"{text}\nCaffe {theirs.ravel()[:8]}\nours  {ours.ravel()[:8]}")

    def verify(self, about: object = "") -> None:
        """Fails where anything was too far apart."""
        assert not self.wrong, f"{about}\n" + "\n".join(self.wrong)


def assert_within(what: str, theirs: Any, ours: Any, limit: float) -> None:
    """Fails where numbers, relative to the largest of them, are further apart than the limit."""
    comparison, theirs, ours = Comparison(), np.asarray(theirs), np.asarray(ours)
    comparison.within(what, apart(theirs, ours), limit, theirs, ours)
    comparison.verify()


def assert_near(theirs: Mapping[str, Array], ours: Mapping[str, Array], terms: float = 1) -> None:
    """Fails where arrays of one name are further apart than two right float32 results may be."""
    assert set(theirs) == set(ours)
    comparison = Comparison()
    for name, values in theirs.items():
        comparison.near(name, np.asarray(values), np.asarray(ours[name]), terms)
    comparison.verify()


def note(what: str, distance: float, limit: float) -> None:
    """Adds a comparison to the list of `make test-kernels`, where one is wanted."""
    path = os.environ.get("REBIRTH_TEST_MARGINS")
    if path and limit > 0 and distance / limit > 0.01:
        test = os.environ.get("PYTEST_CURRENT_TEST", "").removesuffix(" (call)")
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps([float(distance / limit), f"{test}: {what}", float(distance), float(limit)]) + "\n")


def _special(values: Array) -> NDArray[np.float64]:
    """What is no ordinary number, as it is; 0 elsewhere."""
    return np.where(np.isfinite(values) & (np.abs(values) <= HUGE), 0, values)
