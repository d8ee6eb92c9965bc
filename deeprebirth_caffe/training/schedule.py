"""When Caffe's solver tests, saves and shows: `Solver::Step` and `Solver::Solve` without the arithmetic."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from deeprebirth_caffe.proto import caffe_pb2 as pb


@dataclass(frozen=True)
class Schedule:
    """The iterations of one run.

    Attributes:
        start: how many iterations were done before it.
        max_iter: how many are done after it.
        test_interval, test_initialization, snapshot, snapshot_after_train, display, average_loss: as in the solver.
    """

    start: int
    max_iter: int
    test_interval: int = 0
    test_initialization: bool = True
    snapshot: int = 0
    snapshot_after_train: bool = True
    display: int = 0
    average_loss: int = 1

    @classmethod
    def of(cls, solver: pb.SolverParameter, start: int = 0) -> Schedule:
        """What a solver says."""
        return cls(
            start,
            solver.max_iter,
            solver.test_interval,
            solver.test_initialization,
            solver.snapshot,
            solver.snapshot_after_train,
            solver.display,
            solver.average_loss,
        )

    def tests_before(self, iteration: int) -> bool:
        """Whether the test nets run before an iteration."""
        due = self.test_interval > 0 and iteration % self.test_interval == 0
        return due and (iteration > 0 or self.test_initialization)

    def saves_after(self, done: int) -> bool:
        """Whether a snapshot is due when so many iterations are done."""
        return self.snapshot > 0 and done % self.snapshot == 0

    @property
    def saves_at_end(self) -> bool:
        """Whether the end brings a snapshot of its own."""
        return self.snapshot_after_train and not self.saves_after(self.max_iter)

    @property
    def tests_at_end(self) -> bool:
        """Whether the test nets run once more after the last iteration."""
        return self.test_interval > 0 and self.max_iter % self.test_interval == 0

    def shows(self, iteration: int) -> bool:
        """Whether Caffe would print a line about an iteration."""
        return self.display > 0 and iteration % self.display == 0

    def snapshots(self) -> list[int]:
        """The numbers that the snapshots of this run have in their names."""
        first = (self.start // self.snapshot + 1) * self.snapshot if self.snapshot > 0 else self.max_iter + 1
        numbers = list(range(first, self.max_iter + 1, self.snapshot or 1))
        return [*numbers, self.max_iter] if self.saves_at_end else numbers


class Smoothed:
    """The mean of the last losses, `average_loss` of them: what Caffe prints."""

    def __init__(self, size: int) -> None:
        self._last: deque[float] = deque(maxlen=max(1, size))

    def add(self, loss: float) -> float:
        """Takes a loss in and gives the mean."""
        self._last.append(loss)
        return sum(self._last) / len(self._last)
