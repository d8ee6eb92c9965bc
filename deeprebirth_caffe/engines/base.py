"""What every engine can do, and how it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
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


class DivergedError(RebirthError):
    """Training went wrong: the loss is no number, or stays far above where it began, or the weights are no numbers."""


Score = float | tuple[float, ...]
"""The mean of an output blob: a number where it has one element, else one for each (as `caffe test` prints)."""


@dataclass(frozen=True)
class Parts:
    """What the loss of an iteration with a teacher is made of, the means over `iter_size` batches.

    The loss is (1 - alpha) * own + alpha * (the sum of heads) + match weight * (the sum of blobs).

    Attributes:
        own: the weighted total of the net's own losses.
        heads: the divergence from the teacher at each head, with T² and the loss weight in it.
        blobs: half the mean squared distance from the teacher's, for each blob that is compared.
    """

    own: float | None
    heads: Mapping[str, float | None]
    blobs: Mapping[str, float | None]


@dataclass(frozen=True)
class Step:
    """One iteration of training.

    Attributes:
        iteration: which; Caffe counts from 0, and the first snapshot after it says one more.
        lr: the solver's rate in it, before any lr_mult.
        loss: the weighted total loss, the mean over `iter_size` batches.
        outputs: the mean of each output blob of the training net, of the last batch.
        images: how many records it took, over all `iter_size` batches; 0 where the net has no data layer.
        seconds: how long it took, waiting for data included.
        parts: what the loss is made of, where a teacher has a say in it.
    """

    iteration: int
    lr: float
    loss: float
    outputs: Mapping[str, float]
    images: int
    seconds: float
    parts: Parts | None = None


@dataclass(frozen=True)
class Snapshot:
    """Two files that belong together, complete on the disk under their names.

    Attributes:
        model: `PREFIX_iter_N.caffemodel` (or `.caffemodel.h5`).
        state: `PREFIX_iter_N.solverstate` (or `.solverstate.h5`), which names the model.
    """

    model: Path
    state: Path


class Trainer(Protocol):
    """A solver that has been set up, in one engine. `commands.finetune` decides when it steps, tests and saves.

    It never writes, tests or prints by itself, whatever the solver file says.
    """

    @property
    def iteration(self) -> int:
        """How many iterations are done."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What people should know, such as what could not be restored; grows while it is set up."""
        ...

    @property
    def tests(self) -> int:
        """How many test nets there are."""
        ...

    def step(self) -> Step:
        """Does one iteration: `iter_size` times forward and backward, then the update."""
        ...

    def test(self, index: int = 0, between: Callable[[], object] | None = None) -> dict[str, Score]:
        """Runs a test net, with the weights of now, over its `test_iter` batches; the mean of each output blob.

        Args:
            index: which test net.
            between: called now and then between batches. What it raises ends the test; whoever goes on from a snapshot
                that is taken then runs all tests since the last step again, on the same data.
        """
        ...

    def snapshot(self) -> Snapshot:
        """Saves weights and solver state: under temporary names, read back, then renamed.

        Raises:
            DivergedError: the weights are no numbers any more.
            RebirthError: they cannot be written (a full disk). In either case older snapshots are as they were.
        """
        ...


class Forward(Protocol):
    """A loaded net that takes arrays; an input that is never given is zero."""

    def __call__(
        self, inputs: Array | Mapping[str, Array], blobs: Sequence[str] | None = None
    ) -> dict[str, FloatArray]:
        """Runs it.

        Args:
            inputs: arrays by blob name; a lone array goes to the first input.
            blobs: which to give back; None: all.
        """
        ...


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

    def loaded(
        self, net: Path | str, weights: Path | str | None, *, root: Path | str = "."
    ) -> AbstractContextManager[Forward]:
        """Loads a net in phase TEST, to run it many times.

        Args:
            net: a prototxt with Input layers; its input shapes follow the arrays given.
            weights: a caffemodel, or None.
            root: where relative paths inside the net start.
        """
        ...

    def forward(
        self,
        net_path: Path | str,
        weights_path: Path | str | None,
        input_array: Array | Mapping[str, Array],
        blobs: Sequence[str] | None = None,
    ) -> dict[str, FloatArray]:
        """Runs a net forward in phase TEST, once.

        Args:
            net_path: a prototxt; its input shapes follow the arrays given. Data layers that would read files take
                arrays as Input layers do: of a train_val.prototxt too, nothing is read but this file.
            weights_path: a caffemodel, or None.
            input_array: arrays by blob name; a lone array goes to the first top of the first such data layer, else to
                the first input. What is not given, such as labels, is zero.
            blobs: which to give back; None: all.

        Raises:
            EngineError: a file is missing, or the engine cannot run the net.
        """
        ...

    def trainer(
        self,
        solver: Path | str,
        *,
        weights: Sequence[Path | str] = (),
        resume: Path | str | None = None,
        root: Path | str = ".",
    ) -> AbstractContextManager[Trainer]:
        """Sets a solver up.

        Args:
            solver: its prototxt.
            weights: caffemodels to start from, one after the other; none: the fillers.
            resume: a solverstate, either engine's, to go on from; its caffemodel is found as Caffe finds it, else
                beside it.
            root: the directory where relative paths inside the solver and its nets start.
        """
        ...

    def batches(
        self,
        net: Path | str,
        weights: Path | str | None,
        iterations: int,
        blobs: Sequence[str] | None = None,
        *,
        root: Path | str = ".",
        stages: Sequence[str] = (),
        level: int = 0,
    ) -> Iterator[dict[str, FloatArray]]:
        """Runs a net with its own data layers in phase TEST, batch by batch.

        Gives, for each batch, the blobs asked for (None: the outputs). A blob is copied: keeping it is safe.
        """
        ...
