"""A stretch of training that may be stopped at any moment, with the tests and retries around it.

Each stretch has a folder: its solver, its snapshots, its log, and in the end `final.caffemodel` alone. One that was
begun goes on from its last whole snapshot; snapshots of the embedded engine go on to the bit.
"""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deeprebirth_caffe.commands.finetune import finetune
from deeprebirth_caffe.commands.test import test
from deeprebirth_caffe.engines.base import DivergedError, Score, Snapshot
from deeprebirth_caffe.engines.base import Step as Iteration
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import atomic_file, atomic_write, open_regular, read_regular, remove
from deeprebirth_caffe.formats.jsonfile import parse_json, shaped
from deeprebirth_caffe.formats.solverstate import read_solverstate
from deeprebirth_caffe.options.finetune import FinetuneOptions
from deeprebirth_caffe.options.test import TestOptions
from deeprebirth_caffe.results import ABSENT, Absent, Figures
from deeprebirth_caffe.runs.schedule.accuracy import over_budget, points, values_of
from deeprebirth_caffe.runs.schedule.context import Context, Stage
from deeprebirth_caffe.runs.schedule.digests import file_digest
from deeprebirth_caffe.runs.schedule.shapes import numbers
from deeprebirth_caffe.runs.schedule.solvers import PREFIX, SolverText, relearning, without_places
from deeprebirth_caffe.runs.schedule.state import Parts
from deeprebirth_caffe.training.runlog import LINE_SHAPE
from deeprebirth_caffe.wording import WORTH_TELLING, about

if TYPE_CHECKING:
    from deeprebirth_caffe.runs.schedule.model import Budget, Learn, Teacher
    from deeprebirth_caffe.training.listening import Listener

SOLVER = "solver.prototxt"
LOG = "log.jsonl"
FINAL = "final.caffemodel"
LAST = 20
"""The loss of a stretch is the mean of so many iterations."""
_STATE = re.compile(rf"{PREFIX}_iter_(\d+)\.solverstate")


class Stopped(Exception):
    """A signal ended a run in good order; it can go on.

    Attributes:
        signal: its name.
    """

    def __init__(self, signal: str) -> None:
        super().__init__(signal)
        self.signal = signal


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What a stretch of training came to.

    Attributes:
        iterations: how many it was.
        loss: the mean of the last ones; None where none is finite.
        images_per_second: the median over its iterations.
        diverged: in words, how it diverged.
    """

    iterations: int = 0
    loss: float | Absent | None = ABSENT
    images_per_second: float | Absent | None = ABSENT
    diverged: str | Absent = ABSENT


@dataclass(frozen=True)
class Attempt:
    """One relearning of a step.

    Attributes:
        name: of its folder; empty where nothing was trained.
        weights: what came of it; None where it diverged.
        values: what its test gave; empty where it diverged.
        learned: what its training came to.
        why: why it loses more than it may; empty where it does not.
        per_image: the file with the hits of each image; None where there is none.
    """

    name: str
    weights: Path | None
    values: Figures
    learned: Learned
    why: str
    per_image: str | None


def relearn(
    context: Context,
    parts: Parts,
    net: Path,
    start: Path,
    learn: Learn,
    budget: Budget,
    before: Stage,
    paper: bool = False,
) -> list[Attempt]:
    """Relearns a net, again and longer while its budget is overdrawn and retries are left.

    Returns:
        All attempts; `chosen` takes one.

    Raises:
        Stopped: a signal came.
    """
    inputs = context.inputs
    metric = budget.metric or inputs.schedule.test.metric
    iterations = inputs.iterations(learn, parts.folder.name)
    solver = relearning(learn, inputs.lent, inputs.test_batches() if learn.tests else (), paper)
    attempts: list[Attempt] = []
    for number in range(1 + (budget.retries if iterations else 0)):
        suffix = f"-{number + 1}" if number else ""
        weights, learned = start, Learned()
        if iterations:
            longer = round(iterations * budget.factor**number)
            if number:
                context.watcher.say(f"{attempts[-1].why}; once more, with {longer} iterations")
            stretch = Stretch(net, (start,), longer, solver, learn.teacher)
            learned = train(context, parts, f"train{suffix}", stretch, inputs.schedule.seed + number)
            weights = parts.folder / f"train{suffix}" / FINAL
        if learned.diverged:
            attempts.append(Attempt(f"train{suffix}", None, {}, learned, f"it diverged: {learned.diverged}", None))
            continue
        values, per_image = evaluate(context, parts, f"test{suffix}", net, weights)
        why = over_budget(budget, metric, values, before.values, context.origin.values)
        attempts.append(Attempt(f"train{suffix}" if iterations else "", weights, values, learned, why, per_image))
        if not why:
            break
    return attempts


def chosen(attempts: Sequence[Attempt], metric: str) -> Attempt | None:
    """The attempt that counts: one that is within its budget, else the best; None where all diverged."""
    good = [one for one in attempts if one.weights is not None]
    within = [one for one in good if not one.why]
    return within[-1] if within else max(good, key=lambda one: numbers(one.values).get(metric, 0.0), default=None)


@dataclass(frozen=True, kw_only=True)
class AttemptRow:
    """One relearning of a step, as `result.json` tells it.

    Attributes:
        folder: in the step's folder; null where nothing was trained.
        test: null where it diverged.
        over_budget: why it lost more than it may.
    """

    folder: str | None
    iterations: int
    test: Figures | None
    drop: Mapping[str, float] | None
    over_budget: str | None


def attempt_rows(attempts: Sequence[Attempt], base: Stage, metrics: Sequence[str]) -> list[AttemptRow]:
    """The attempts for `result.json`."""
    return [
        AttemptRow(
            folder=one.name or None,
            iterations=one.learned.iterations,
            test=one.values or None,
            drop=points(base.values, one.values, metrics) or None,
            over_budget=one.why or None,
        )
        for one in attempts
    ]


@dataclass(frozen=True)
class Stretch:
    """A stretch of training.

    Attributes:
        net: the training net.
        start: weights to begin with, one after the other.
        iterations: how many.
        solver: its text, once its places are known.
        teacher: what the net follows; None: nothing.
    """

    net: Path
    start: tuple[Path, ...]
    iterations: int
    solver: SolverText
    teacher: Teacher | None = None


def train(context: Context, parts: Parts, name: str, stretch: Stretch, seed: int) -> Learned:
    """Trains one stretch.

    Args:
        context: of the run.
        parts: of the step.
        name: of the stretch and its folder.
        stretch: what is trained.
        seed: of fillers, Dropout and the order of data.

    Raises:
        Stopped: a signal came.
    """
    inputs, iterations = context.inputs, stretch.iterations
    folder = parts.folder / name
    of: dict[str, Any] = {
        "solver": without_places(stretch.solver, iterations, seed),
        "net": file_digest(stretch.net),
        "start": [file_digest(path) for path in stretch.start],
        "data": context.data_of("TRAIN"),
        "engine": inputs.engine_facts,
    }
    extra: dict[str, Any] = {}
    if stretch.teacher is not None:
        from deeprebirth_caffe.runs.schedule.recipes import teacher_options

        of["teacher"] = stretch.teacher.model_dump(exclude={"net", "weights"})
        of["taught"] = [file_digest(path) for path in inputs.teacher_files(stretch.teacher)]
        extra["teacher"] = teacher_options(inputs, stretch.teacher)

    within = _Within(context.watcher.listener, context.ahead)

    def make(going_on: bool) -> Learned:
        folder.mkdir(exist_ok=True)
        if going_on and (folder / FINAL).is_file() and _logged(folder / LOG, iterations):
            # It was killed when all was done, but for saying so.
            return _ended(folder, iterations)
        # With the paths of now: the run's folder may have moved.
        atomic_write(folder / SOLVER, stretch.solver(iterations, seed, stretch.net, folder))
        state = last_state(folder, iterations) if going_on else None
        if state is None:
            _clear(folder, keep=(SOLVER,))
        elif _number(state) == iterations:
            copy_file(state.with_suffix(".caffemodel"), folder / FINAL)
            return _ended(folder, iterations)
        options = FinetuneOptions(
            solver=folder / SOLVER,
            weights=() if state is not None else stretch.start,
            resume=state,
            engine=inputs.engine,
            log=folder / LOG,
            force=True,
            **extra,
        )
        try:
            found = finetune(options, within)
        except DivergedError as error:
            return Learned(iterations=iterations, diverged=str(error.__cause__ or error))
        if found.stopped is not None:
            raise Stopped(found.stopped)
        assert found.model is not None, "the solver says that it saves at the end"
        copy_file(found.model, folder / FINAL)
        return _ended(folder, iterations)

    made = parts.part(name, of, [name], make)
    if within.asked is not None:
        # The signal came when all iterations were done: the stretch is whole, and the run ends behind it.
        raise Stopped(within.asked)
    return Learned(**made)


def last_state(folder: Path, iterations: int) -> Path | None:
    """The last snapshot of a stretch that is whole; None where there is none.

    One of the very end counts only if the log has all iterations: else the last is done again, for its line.
    """
    states = sorted((one for one in folder.iterdir() if _STATE.fullmatch(one.name)), key=_number, reverse=True)
    for state in states:
        try:
            read_solverstate(state)
        except RebirthError:
            continue
        if _number(state) == iterations and not _logged(folder / LOG, iterations):
            continue
        if state.with_suffix(".caffemodel").is_file():
            return state
    return None


def evaluate(context: Context, parts: Parts, name: str, net: Path, weights: Path) -> tuple[Figures, str | None]:
    """Tests a net.

    Returns:
        Its figures, and the name of the file with the hits of each image (uint8, images x 2: top-1, top-5).
    """
    asked = context.inputs.schedule.test
    hits = f"{name}.npy" if asked.per_image and "top1" in context.inputs.metrics else None
    of = {
        "net": file_digest(net),
        "weights": file_digest(weights),
        "iterations": asked.iterations,
        "data": context.data_of("TEST"),
        "engine": context.inputs.engine_facts,
        "per_image": hits is not None,
    }

    def make(_: bool) -> Figures:
        rows = parts.folder / f"{name}.csv" if hits else None
        options = TestOptions(net, weights, asked.iterations, context.inputs.engine, rows, force=True)
        try:
            found = test(options, context.watcher.say, context.watcher.show)
            if rows is not None and hits is not None:
                with atomic_file(parts.folder / hits) as file:
                    np.save(file, read_hits(rows))
        finally:
            if rows is not None:
                rows.unlink(missing_ok=True)
        return values_of(found)

    return parts.part(name, of, [hits] if hits else [], make), hits


def read_hits(rows: Path) -> NDArray[np.uint8]:
    """The hits of each image (images x 2: top-1, top-5) out of a table of `rebirth test --per-image`."""
    # Names of images are whatever their database calls them, commas and bytes that are no text included.
    with open_regular(rows) as raw, io.TextIOWrapper(raw, "utf-8", "surrogateescape", newline="") as file:
        hits = [[int(row["top1"]), int(row["top5"])] for row in csv.DictReader(file)]
    return np.array(hits, np.uint8).reshape(-1, 2)


def _ended(folder: Path, iterations: int) -> Learned:
    """Keeps nothing to go on from; the figures are the log's, however often it stopped."""
    _clear(folder, keep=(SOLVER, LOG, FINAL))
    try:
        lines = [shaped(parse_json(line), LINE_SHAPE) for line in read_regular(folder / LOG).splitlines()]
    except ValueError as error:
        raise RebirthError(f"{folder / LOG}: a line is none of a log ({error}); remove its folder") from error
    losses = [line["loss"] for line in lines[-LAST:] if isfinite(line["loss"])]
    speeds = [line["images_per_second"] for line in lines if line.get("images_per_second")]
    return Learned(
        iterations=iterations,
        loss=fmean(losses) if losses else None,
        images_per_second=median(speeds) if speeds else None,
    )


def copy_file(source: Path, target: Path) -> None:
    """Copies a file; the copy is there whole or not at all."""
    with open_regular(source) as read, atomic_file(target) as written:
        shutil.copyfileobj(read, written, 1 << 20)


def _clear(folder: Path, keep: Sequence[str]) -> None:
    for one in folder.iterdir():
        if one.name not in keep:
            remove(one)


def _number(state: Path) -> int:
    found = _STATE.fullmatch(state.name)
    return int(found[1]) if found else -1


def _logged(log: Path, iterations: int) -> bool:
    """Whether the log has the line of the last iteration, whole."""
    try:
        text = read_regular(log)
    except OSError:
        return False
    return text.endswith(b"\n") and text.splitlines()[-1].startswith(b'{"iteration": %d,' % (iterations - 1))


class _Within:
    """A listener for a stretch inside a run: how to go on with the stretch alone is no news.

    Attributes:
        asked: the signal that came; None where none did.
    """

    def __init__(self, outer: Listener, ahead: int = 0) -> None:
        """Args:
        outer: is told all the rest.
        ahead: the iterations of the steps behind this one.
        """
        self._outer = outer
        self._ahead = ahead
        self._end = 0
        self.asked: str | None = None

    def say(self, text: str) -> None:
        """A line about what happens."""
        if not text.startswith("stopped by "):
            self._outer.say(text)

    def stopping(self, signal: str) -> None:
        """A first signal has come."""
        self.asked = signal
        self._outer.stopping(signal)

    def begin(self, start: int, end: int) -> None:
        """Training starts."""
        self._end = end
        self._outer.begin(start, end)

    def testing(self, iteration: int, index: int) -> None:
        """A test net starts."""
        self._outer.testing(iteration, index)

    def tested(self, iteration: int, index: int, scores: Mapping[str, Score]) -> None:
        """A test net has run."""
        self._outer.tested(iteration, index, scores)

    def stepped(self, step: Iteration, loss: float, show: bool, left: float | None) -> None:
        """An iteration is done."""
        rest = self._end - step.iteration - 1
        if left is not None and rest > 0 and self._ahead:
            # Steps differ, in size and in what they read: it is a guess, and the best there is.
            whole = left * (1 + self._ahead / rest)
            if whole > WORTH_TELLING:
                self._outer.say(f"{about(whole)} with the {self._ahead} iterations of later steps")
            self._ahead = 0
        self._outer.stepped(step, loss, show, left)

    def saved(self, snapshot: Snapshot) -> None:
        """Nothing: the run finds its snapshots by itself, and removes them when the stretch is done."""

    def end(self) -> None:
        """Nothing more comes."""
        self._outer.end()
