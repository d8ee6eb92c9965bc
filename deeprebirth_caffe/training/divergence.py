"""Training that has gone wrong: a loss that is no number, or that stays far above where it began."""

from __future__ import annotations

import math

FIRST = 20
"""The mean of so many losses is where a run began."""

FACTOR = 10.0
"""A loss so many times that is far above. A SoftmaxWithLoss that has diverged ends at 87.3, and begins at 6.9 with
1000 classes."""

PATIENCE = 50
"""For so many iterations in a row it may be."""


class DivergenceWatch:
    """Looks at each loss of one run."""

    def __init__(self) -> None:
        self._first: list[float] = []
        self._above = 0

    @property
    def above(self) -> bool:
        """Whether the loss is far above where it began now."""
        return self._above > 0

    def look(self, loss: float) -> str:
        """Takes a loss in; says what is wrong where training has to stop, else the empty string."""
        if not math.isfinite(loss):
            return "the loss is no number any more (NaN or infinite)"
        if len(self._first) < FIRST:
            self._first.append(loss)
            return ""
        # Losses far below 1 may rise many times and be small still: where a fine-tuned net begins is no measure then.
        limit = FACTOR * max(1.0, sum(self._first) / FIRST)
        self._above = self._above + 1 if loss > limit else 0
        if self._above < PATIENCE:
            return ""
        return f"the loss has been above {limit:g} for {PATIENCE} iterations, {FACTOR:g} times where it began"
