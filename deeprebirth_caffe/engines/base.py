"""What every engine can do, and how it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Protocol

from deeprebirth_caffe.errors import RebirthError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.generic]
    FloatArray = NDArray[np.float32]


class EngineError(RebirthError):
    """An engine refused, crashed or is missing.

    Attributes:
        stderr_tail: The last lines the engine printed, for those who want to dig; may be empty.
        fatal: Whether the engine's process is gone.
    """

    def __init__(self, message: str, *, stderr_tail: str = "", fatal: bool = False) -> None:
        super().__init__(message)
        self.stderr_tail = stderr_tail
        self.fatal = fatal


@dataclass(frozen=True)
class NetTiming:
    """Forward times of one net.

    Attributes:
        path: The net.
        runs: For each run, the milliseconds of each of its forward passes.
    """

    path: Path
    runs: tuple[tuple[float, ...], ...]

    @property
    def median_ms(self) -> float:
        """The median over the runs of each run's median."""
        return median(median(run) for run in self.runs)

    @property
    def best_ms(self) -> float:
        """The fastest single pass."""
        return min(min(run) for run in self.runs)


@dataclass(frozen=True)
class TrainResult:
    """What a training run showed.

    Attributes:
        losses: The weighted total loss of each iteration.
        outputs: For each watched blob, its mean in each iteration.
        learning_rate: The solver's rate in the first iteration.
        rates: Where measured: for each layer and parameter, the step of the first iteration divided by
            gradient and learning rate. That is `lr_mult`, read off what the solver did rather than off its
            text. 0 where the parameter did not move, None where it moved without a gradient (decay alone).
        decays: Where measured: likewise `decay_mult` times the weight decay.
    """

    losses: tuple[float, ...]
    outputs: Mapping[str, tuple[float, ...]]
    learning_rate: float
    rates: Mapping[str, tuple[float | None, ...]]
    decays: Mapping[str, tuple[float | None, ...]]


class Engine(Protocol):
    """Runs nets that lie on disk."""

    @property
    def name(self) -> str:
        """What `engine()` knows it by."""
        ...

    def describe(self) -> dict[str, object]:
        """Versions and whatever else decides its results and its speed."""
        ...

    def session(self) -> AbstractContextManager[object]:
        """Stays started for all calls within, where each would start it anew."""
        ...

    def forward(
        self,
        net: Path | str,
        weights: Path | str | None,
        inputs: Array | Mapping[str, Array],
        blobs: Sequence[str] | None = None,
    ) -> dict[str, FloatArray]:
        """Runs a net forward and gives back the blobs asked for (None: all)."""
        ...

    def train(self, solver: Path | str, iterations: int, weights: Path | str | None = None) -> TrainResult:
        """Trains for some iterations."""
        ...

    def time_nets(
        self,
        nets: Sequence[Path | str],
        runs: int = 5,
        iterations: int = 10,
        threads: int | None = None,
        weights: Sequence[Path | str | None] | None = None,
    ) -> list[NetTiming]:
        """Times nets side by side, run by run in turn."""
        ...
