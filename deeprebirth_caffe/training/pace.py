"""How long a training run still takes."""

from __future__ import annotations

from collections import deque

FEWEST = 3
"""So many iterations, after the first, which also sets things up, are needed to say anything."""

RECENT = 50
"""The time left follows from the last so many."""


class Pace:
    """Takes the times of iterations, without tests and snapshots."""

    def __init__(self) -> None:
        self._started = False
        self._last: deque[float] = deque(maxlen=RECENT)

    def add(self, seconds: float) -> None:
        """Takes in how long an iteration took."""
        if self._started:
            self._last.append(seconds)
        self._started = True

    def left(self, iterations: int) -> float | None:
        """Seconds that so many iterations will take; None as long as nobody can tell."""
        if len(self._last) < FEWEST:
            return None
        return iterations * sum(self._last) / len(self._last)
