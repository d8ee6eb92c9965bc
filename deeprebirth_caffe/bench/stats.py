"""What many runs say together: best and robust figures, and the ratio of two nets with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np

RESAMPLES = 4000
CONFIDENCE = 0.95
ENOUGH_RUNS = 6
"""With fewer, all runs lie on one side by luck more than once in twenty times, and no interval is given."""
SAME = 0.02
"""Two processes of one net differ by less than this for as long as they live, by where their memory lies (1.3 % was
measured); the interval over runs does not see that."""


@dataclass(frozen=True)
class Summary:
    """One net's forward times in milliseconds.

    Attributes:
        runs: the mean pass of each run.
        best: the smallest of them: the paper's figure.
        median: of all passes of all runs, as are the next two.
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
        """From p10 to p90, as a part of the median."""
        return (self.p90 - self.p10) / self.median if self.median else 0.0


def summarize(runs: Sequence[Sequence[float]]) -> Summary:
    """Sums up runs.

    Args:
        runs: of each run the milliseconds of its passes, or their mean alone where no more is known.
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
        low: the lower end of the interval; None where there are too few runs for one.
        high: the upper end.
    """

    median: float
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        """In words, from the view of the second net: faster, slower, or not to be told."""
        if self.low is None or self.high is None:
            return f"too few runs to tell: at least {ENOUGH_RUNS} are needed"
        if abs(self.median - 1) <= SAME or self.low <= 1 <= self.high:
            return "no difference that can be told"
        return "faster" if self.median > 1 else "slower"


def ratio(runs: Sequence[Sequence[float]], other: Sequence[Sequence[float]], seed: int = 0) -> Ratio:
    """Compares two nets that took turns.

    Each run is paired with the other net's run beside it, so that what slowed both down drops out; the interval comes
    from resampling the pairs (bootstrap, 95 %).

    Args:
        runs: of each run of the first net the milliseconds of its passes.
        other: likewise of the second.
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
