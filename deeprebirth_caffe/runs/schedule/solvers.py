"""The solver of one stretch of relearning, from what the schedule says and what the user's own solver lends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deeprebirth_caffe.commands.convert import usual_clip
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.prototxt import format_message
from deeprebirth_caffe.formats.solver import SolverSource, parse_solver
from deeprebirth_caffe.nets.solver import DISPLAY, WEIGHT_DECAY, cut_gradients
from deeprebirth_caffe.options.shared import SolverOptions
from deeprebirth_caffe.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    from deeprebirth_caffe.runs.schedule.model import Learn

MOST_BETWEEN = 2_000
"""Iterations between two snapshots, at most, where the schedule does not say."""
SNAPSHOTS = 10
"""In how many parts a step is saved, where the schedule does not say."""
PREFIX = "rebirth"
MAX_INT = 2**31 - 1
"""What a solver counts to."""


SolverText = Callable[[int, int, Path, Path], str]
"""A solver's text for so many iterations, with a seed, of a net, whose snapshots go into a folder."""


def check_count(iterations: int, where: str) -> None:
    """Raises RebirthError for more iterations than a solver can count."""
    if iterations > MAX_INT:
        raise RebirthError(f"{where}: that is {iterations:.2g} iterations, and a solver counts to {MAX_INT}")


def relearning(learn: Learn, lent: SolverSource | None, test_iter: Sequence[int], paper: bool = False) -> SolverText:
    """The solver of a stretch of relearning.

    Args:
        learn: what the schedule says.
        lent: the user's own solver.
        test_iter: batches of a test on the way; empty: there is none.
        paper: as the paper did it, so that gradients are cut only where the schedule or the solver says so.
    """
    usual = SolverOptions()

    def text(iterations: int, seed: int, net: Path, folder: Path) -> str:
        message = pb.SolverParameter(weight_decay=WEIGHT_DECAY, display=DISPLAY, momentum=usual.momentum)
        if lent is not None:
            message = pb.SolverParameter()
            message.CopyFrom(lent.message)
        for name in ("test_interval", "test_initialization", "test_iter", "stepsize", "stepvalue", "gamma", "power"):
            message.ClearField(name)
        if test_iter and learn.tests:
            message.test_iter.extend(test_iter)
            message.test_interval = max(1, iterations // learn.tests)
            message.test_initialization = False
        message.base_lr = learn.base_lr if learn.base_lr is not None else usual.base_lr
        _set_policy(message, learn, iterations)
        if learn.momentum is not None:
            message.momentum = learn.momentum
        if learn.weight_decay is not None:
            message.weight_decay = learn.weight_decay
        if learn.type is not None:
            message.type = learn.type
        cut_gradients(message, learn.clip_gradients, usual_clip(paper))
        return _placed(message, iterations, seed, net, folder, learn.snapshot)

    return text


def adopted(source: SolverSource) -> SolverText:
    """A solver that says for itself how it learns."""

    def text(iterations: int, seed: int, net: Path, folder: Path) -> str:
        message = pb.SolverParameter()
        message.CopyFrom(source.message)
        return _placed(message, iterations, seed, net, folder, None)

    return text


def without_places(text: SolverText, iterations: int, seed: int) -> str:
    """What of a solver decides results: not where its files are, nor how often it is saved."""
    message = parse_solver(text(iterations, seed, Path("net"), Path("folder"))).message
    message.ClearField("snapshot")
    return format_message(message)


def _placed(
    message: pb.SolverParameter, iterations: int, seed: int, net: Path, folder: Path, snapshot: int | None
) -> str:
    for name in (
        *("net", "net_param", "train_net", "train_net_param", "test_net", "test_net_param", "test_state"),
        *("weights", "snapshot_format", "snapshot_after_train"),
    ):
        message.ClearField(name)
    message.net = str(net)
    message.max_iter = iterations
    message.snapshot = snapshot or max(1, min(MOST_BETWEEN, -(-iterations // SNAPSHOTS)))
    message.snapshot_prefix = str(folder / PREFIX)
    message.random_seed = seed
    message.solver_mode = pb.SolverParameter.CPU
    return format_message(message)


def _set_policy(message: pb.SolverParameter, learn: Learn, iterations: int) -> None:
    message.lr_policy = learn.policy
    if learn.policy == "multistep":
        message.gamma = learn.gamma
        message.stepvalue.extend(round(part * iterations) for part in learn.drops)
    elif learn.policy == "poly":
        message.power = learn.power
