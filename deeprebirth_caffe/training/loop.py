"""The training loop: Caffe's own schedule around a Trainer, whichever engine is behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from signal import Signals

from deeprebirth_caffe.engines.base import DivergedError, EngineError, Parts, Score, Snapshot, Step, Trainer
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.results import ABSENT, Absent, Figures
from deeprebirth_caffe.training.divergence import DivergenceWatch
from deeprebirth_caffe.training.interruption import Interrupted, Interruption
from deeprebirth_caffe.training.listening import Listener
from deeprebirth_caffe.training.pace import Pace
from deeprebirth_caffe.training.runlog import RunLog
from deeprebirth_caffe.training.schedule import Schedule, Smoothed
from deeprebirth_caffe.wording import WORTH_TELLING, about


@dataclass(frozen=True)
class Tested:
    """What a test net gave, with the weights after so many iterations."""

    iteration: int
    outputs: Mapping[str, Score]


@dataclass(frozen=True, kw_only=True)
class TestRun:
    """A test of a test net.

    Attributes:
        iteration: how many iterations were done then.
        net: which test net.
        outputs: its outputs.
    """

    __test__ = False  # no test of pytest's, whatever its name

    iteration: int
    net: int
    outputs: Figures


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """An iteration in the log.

    Attributes:
        iteration: which, from 0.
        lr: the solver's rate in it.
        loss: the weighted total loss, not smoothed: the mean over `iter_size` batches; null where it is NaN or
            infinite.
        outputs: the mean of each output blob of the training net.
        images_per_second: null for nets without data layers.
        parts: only with `--teacher`: what `loss` is made of, the means over `iter_size` batches.
        test: only where a test ran: what the first test net gave, by output blob.
        tests: with `test`: all tests that ran, those before this iteration, and in the last line those at the end.
    """

    iteration: int
    lr: float
    loss: float | None
    outputs: Mapping[str, float | None]
    images_per_second: float | None
    parts: Parts | Absent = ABSENT
    test: Figures | Absent = ABSENT
    tests: Sequence[TestRun] | Absent = ABSENT


@dataclass
class Course:
    """What came of a run.

    Attributes:
        iteration: how many iterations are done.
        signal: what ended it early ("SIGINT"); None where nothing did.
        loss: the smoothed loss of its last iteration; None where it did none.
        parts: what the loss of its last iteration was made of, where a teacher had a say in it; not smoothed.
        tests: what the test nets gave last, by their number.
        snapshots: all that are on the disk, in order.
        good: the last snapshot from before anything went wrong.
        images: how many records its iterations took.
        seconds: how long those took, without tests and snapshots.
    """

    iteration: int
    signal: str | None = None
    loss: float | None = None
    parts: Parts | None = None
    tests: dict[int, Tested] = field(default_factory=dict)
    snapshots: list[Snapshot] = field(default_factory=list)
    good: Snapshot | None = None
    images: int = 0
    seconds: float = 0.0


class Training:
    """One run of a trainer."""

    def __init__(
        self,
        trainer: Trainer,
        schedule: Schedule,
        listener: Listener,
        log: RunLog | None = None,
    ) -> None:
        """Args:
        trainer: set up, at the schedule's start.
        schedule: when to test and save.
        listener: is told what happens.
        log: gets a line an iteration.
        """
        self.course = Course(schedule.start)
        self._trainer = trainer
        self._schedule = schedule
        self._listener = listener
        self._log = log
        self._watch = DivergenceWatch()
        self._unsaved = ""
        self._log_waits = False

    def run(self) -> Course:
        """Trains to the end, or until a signal comes; `course` holds what is done also where this raises.

        Raises:
            DivergedError: the loss says so; nothing of it was saved.
            RebirthError: the engine failed, or the last snapshot cannot be written.
        """
        schedule, course = self._schedule, self.course
        smoothed = Smoothed(schedule.average_loss)
        self._listener.begin(schedule.start, schedule.max_iter)
        pace, estimated = Pace(), False
        line: LogLine | None = None
        with Interruption(self._interrupted) as interruption:
            try:
                while course.iteration < schedule.max_iter and interruption.signal is None:
                    try:
                        tests = self._test(interruption.check) if schedule.tests_before(course.iteration) else []
                    except Interrupted:
                        break
                    step = self._trainer.step()
                    course.iteration = step.iteration + 1
                    course.loss = smoothed.add(step.loss)
                    course.parts = step.parts
                    course.images += step.images
                    course.seconds += step.seconds
                    line = _line(step, tests)
                    wrong = self._watch.look(step.loss)
                    if wrong:
                        raise DivergedError(f"iteration {step.iteration}: {wrong}")
                    left = schedule.max_iter - course.iteration
                    pace.add(step.seconds)
                    ahead = pace.left(left)
                    if ahead is not None and not estimated:
                        estimated = True
                        if ahead > WORTH_TELLING:
                            self._listener.say(f"{about(ahead)} for {left} more iterations, tests not counted")
                    self._listener.stepped(step, course.loss, schedule.shows(step.iteration), ahead)
                    if left:
                        self._write(line)
                        line = None
                    if schedule.saves_after(course.iteration):
                        self._save()
                if course.iteration < schedule.max_iter:
                    course.signal = interruption.signal.name if interruption.signal else None
                    if self._fresh:
                        self._save()
                else:
                    if schedule.saves_at_end or (self._unsaved and schedule.snapshot_after_train):
                        self._save()
                    if schedule.tests_at_end and interruption.signal is None and line is not None:
                        try:
                            line = _with_tests(line, self._test(interruption.check))
                        except Interrupted:
                            self._listener.say("the last test is left out; rebirth test runs it")
            finally:
                if line is not None:
                    self._write(line)
                self._listener.end()
        if self._unsaved:
            raise RebirthError(f"iteration {course.iteration} is not saved: {self._unsaved}")
        if self._log_waits:
            raise RebirthError(self._log.flush() if self._log else "")
        return course

    @property
    def _fresh(self) -> bool:
        """Whether iterations were done that no snapshot holds."""
        done = self.course.iteration
        return done > self._schedule.start and not (self._schedule.saves_after(done) and not self._unsaved)

    def _interrupted(self, number: Signals) -> None:
        self._listener.stopping(number.name)

    def _test(self, between: Callable[[], object]) -> list[TestRun]:
        found = []
        for index in range(self._trainer.tests):
            self._listener.testing(self.course.iteration, index)
            scores = self._trainer.test(index, between)
            self.course.tests[index] = Tested(self.course.iteration, scores)
            self._listener.tested(self.course.iteration, index, scores)
            found.append(TestRun(iteration=self.course.iteration, net=index, outputs=scores))
        return found

    def _save(self) -> None:
        """Takes a snapshot; one that fails is a warning as long as training can go on without it."""
        try:
            snapshot = self._trainer.snapshot()
        except DivergedError as error:
            raise DivergedError(f"iteration {self.course.iteration}: {error}") from error
        except RebirthError as error:
            if isinstance(error, EngineError) and error.fatal:
                raise
            self._unsaved = str(error)
            if self.course.iteration < self._schedule.max_iter:
                self._listener.say(f"no snapshot at iteration {self.course.iteration}: {error}")
            return
        self._unsaved = ""
        self.course.snapshots.append(snapshot)
        if not self._watch.above:
            self.course.good = snapshot
        self._listener.saved(snapshot)

    def _write(self, line: LogLine) -> None:
        if self._log is None:
            return
        trouble = self._log.write(line)
        if trouble and not self._log_waits:
            self._listener.say(trouble)
        self._log_waits = bool(trouble)


def _line(step: Step, tests: Sequence[TestRun]) -> LogLine:
    """A line of the log."""
    line = LogLine(
        iteration=step.iteration,
        lr=float(f"{step.lr:.7g}"),  # as many figures as Caffe's single precision has
        loss=step.loss,
        outputs=step.outputs,
        images_per_second=step.images / step.seconds if step.images and step.seconds > 0 else None,
        parts=ABSENT if step.parts is None else step.parts,
    )
    return _with_tests(line, tests)


def _with_tests(line: LogLine, tests: Sequence[TestRun]) -> LogLine:
    first = [test.outputs for test in tests if test.net == 0]
    return replace(line, test=first[-1], tests=[*(line.tests or ()), *tests]) if first else line
