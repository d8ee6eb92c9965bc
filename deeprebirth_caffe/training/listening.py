"""What a training run tells those who watch it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from deeprebirth_caffe.engines.base import Score, Snapshot, Step


class Listener(Protocol):
    """Shows a run; the command line has one for terminals and one for pipes."""

    def say(self, text: str) -> None:
        """A line about what happens, such as a warning."""
        ...

    def stopping(self, signal: str) -> None:
        """A first signal has come, and the run ends in good order; it may be in its last iteration anyway."""
        ...

    def begin(self, start: int, end: int) -> None:
        """Training starts: so many iterations are done, so many will be."""
        ...

    def testing(self, iteration: int, index: int) -> None:
        """A test net starts."""
        ...

    def tested(self, iteration: int, index: int, scores: Mapping[str, Score]) -> None:
        """A test net has run with the weights after so many iterations."""
        ...

    def stepped(self, step: Step, loss: float, show: bool, left: float | None) -> None:
        """An iteration is done.

        Args:
            step: which, and what came out.
            loss: the mean of the last `average_loss` losses.
            show: whether Caffe would print it.
            left: seconds until the end, as it looks now, without tests and snapshots; None: nobody can tell yet.
        """
        ...

    def saved(self, snapshot: Snapshot) -> None:
        """A snapshot is on the disk."""
        ...

    def end(self) -> None:
        """Nothing more comes."""
        ...


class Silence:
    """Shows nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def stopping(self, signal: str) -> None:
        """Nothing."""

    def begin(self, start: int, end: int) -> None:
        """Nothing."""

    def testing(self, iteration: int, index: int) -> None:
        """Nothing."""

    def tested(self, iteration: int, index: int, scores: Mapping[str, Score]) -> None:
        """Nothing."""

    def stepped(self, step: Step, loss: float, show: bool, left: float | None) -> None:
        """Nothing."""

    def saved(self, snapshot: Snapshot) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""
