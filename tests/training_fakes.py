"""A trainer that does nothing but say what it was told, for tests of the loop around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from deeprebirth_caffe.engines.base import DivergedError, Score, Snapshot, Step
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.training.listening import Silence


class FakeTrainer:
    """Counts; `told` is what happened, in order.

    Attributes:
        losses: the loss of an iteration.
        full: the snapshots for which there is no room.
        before_step: called before each iteration.
        before_batch: called before each of the three batches of a test, with iteration and batch.
        broken: whether the weights are no numbers any more.
    """

    def __init__(self, start: int = 0, tests: int = 1) -> None:
        self.iteration = start
        self.tests = tests
        self.notes: list[str] = []
        self.told: list[tuple[str, int]] = []
        self.losses: Callable[[int], float] = lambda iteration: 1 / (iteration + 1)
        self.full: frozenset[int] = frozenset()
        self.before_step: Callable[[int], None] = lambda iteration: None
        self.before_batch: Callable[[int, int], None] = lambda iteration, batch: None
        self.broken = False

    def step(self) -> Step:
        self.before_step(self.iteration)
        self.told.append(("step", self.iteration))
        self.iteration += 1
        loss = self.losses(self.iteration - 1)
        return Step(self.iteration - 1, 0.01, loss, {"loss": loss}, 4, 0.5)

    def test(self, index: int = 0, between: Callable[[], object] | None = None) -> dict[str, Score]:
        for batch in range(3):
            if batch and between is not None:
                between()
            self.before_batch(self.iteration, batch)
        self.told.append(("test", self.iteration))
        return {"accuracy": 0.5 + index, "each": (0.25, 0.75)}

    def snapshot(self) -> Snapshot:
        if self.broken:
            raise DivergedError("the weights of layer ip have diverged")
        if self.iteration in self.full:
            raise RebirthError("net_iter.caffemodel: cannot write it: No space left on device")
        self.told.append(("snapshot", self.iteration))
        stem = f"net_iter_{self.iteration}"
        return Snapshot(Path(f"{stem}.caffemodel"), Path(f"{stem}.solverstate"))

    def happened(self, *kinds: str) -> list[tuple[str, int]]:
        """What happened of some kinds."""
        return [one for one in self.told if one[0] in kinds]


class Notebook(Silence):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.shown: list[tuple[int, float]] = []
        self.ended = 0
        self.left: list[float | None] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def stopping(self, signal: str) -> None:
        self.lines.append(f"stopping: {signal}")

    def stepped(self, step: Step, loss: float, show: bool, left: float | None) -> None:
        assert left is None or (math.isfinite(left) and left >= 0)
        self.left.append(left)
        if show:
            self.shown.append((step.iteration, loss))

    def tested(self, iteration: int, index: int, scores: Mapping[str, Score]) -> None:
        self.lines.append(f"test {index} at {iteration}")

    def end(self) -> None:
        self.ended += 1
