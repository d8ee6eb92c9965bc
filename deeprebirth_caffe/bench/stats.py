"""Statistics of runs: best and robust figures, and the ratio of two nets with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np

RESAMPLES = 4000
CONFIDENCE = 0.95
ENOUGH_RUNS = 6
"""With fewer runs, chance puts all on the same side more than once in twenty times; then there is no interval."""
SAME = 0.02
"""Two processes with the same net differ by less than this for as long as they live, because of where their memory
lies (1.3 % was measured); the interval over runs does not show that."""


@dataclass(frozen=True)
class Summary:
    """A net's forward times in milliseconds.

    Attributes:
        runs: the mean pass of each run.
        best: the smallest run: the paper's figure.
        median: of all passes of all runs, like the next two.
        p10: a tenth of the passes are faster.
        p90: a tenth are slower.
    """

    runs: tuple[float, ...]
    best: float
    median: float
    p10: float
    p90: float

    @property
    def spread(self) -> float:
        """(p90 - p10) / median."""
        return (self.p90 - self.p10) / self.median if self.median else 0.0


def summarize(runs: Sequence[Sequence[float]]) -> Summary:
    """Sums up runs.

    Args:
        runs: of each run the milliseconds of its passes, or only their mean.
    """
    means = tuple(fmean(run) for run in runs)
    passes = np.concatenate([np.asarray(run, np.float64) for run in runs])
    low, mid, high = (float(value) for value in np.percentile(passes, (10, 50, 90)))
    return Summary(means, min(means), mid, low, high)


@dataclass(frozen=True)
class Ratio:
    """How many times as long one net takes as another.

    Attributes:
        median: over the pairs of runs.
        low: the lower end of the interval; None with too few runs.
        high: the upper end.
    """

    median: float
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        """In words, about the second net: faster, slower, or why neither."""
        if self.low is None or self.high is None:
            return f"too few runs to tell: at least {ENOUGH_RUNS} are needed"
        if abs(self.median - 1) <= SAME or self.low <= 1 <= self.high:
            return "no clear difference"
        return "faster" if self.median > 1 else "slower"


def ratio(runs: Sequence[Sequence[float]], other: Sequence[Sequence[float]], seed: int = 0) -> Ratio:
    """Compares two nets that took turns.

    Each run is paired with the other net's run of the same round, so that a slow machine slows both; the interval comes
    from resampling the pairs (bootstrap, 95 %).

    Args:
        runs: of each run of the first net the milliseconds of its passes.
        other: of each run of the second net the milliseconds of its passes.
        seed: of the resampling.
    """
    pairs = np.array([median(first) / median(second) for first, second in zip(runs, other, strict=True)])
    middle = float(np.median(pairs))
    if len(pairs) < ENOUGH_RUNS:
        return Ratio(middle, None, None)
    rng = np.random.default_rng(seed)
    medians = np.median(pairs[rng.integers(0, len(pairs), (RESAMPLES, len(pairs)))], axis=1)
    edge = 50 * (1 - CONFIDENCE)
    low, high = (float(value) for value in np.percentile(medians, (edge, 100 - edge)))
    return Ratio(middle, low, high)
