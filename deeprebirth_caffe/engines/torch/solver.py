"""Training in the embedded engine: Caffe's solver loop, one iteration at a time."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from deeprebirth_caffe.engines.base import Score, Snapshot, Step
from deeprebirth_caffe.engines.lesson import Lesson
from deeprebirth_caffe.engines.plan import (
    Plan,
    PlannedNet,
    check_prefix,
    find_model,
    read_plan,
    unrestorable,
    weights_of,
)
from deeprebirth_caffe.engines.policy import learning_rate
from deeprebirth_caffe.engines.snapshots import remove_leftovers
from deeprebirth_caffe.engines.torch.frozen import Budget
from deeprebirth_caffe.engines.torch.net import TorchNet
from deeprebirth_caffe.engines.torch.snapshots import Resume, read_resume, write_snapshot
from deeprebirth_caffe.engines.torch.teacher import Teacher, Verdict, parts
from deeprebirth_caffe.engines.torch.updates import Updater
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.caffemodel import matches_shape
from deeprebirth_caffe.formats.hdf5 import check_writable
from deeprebirth_caffe.formats.solverstate import SolverState, read_solverstate
from deeprebirth_caffe.ir import Weights

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.torch.engine import TorchEngine


@dataclass(frozen=True)
class Saved:
    """A snapshot that was found.

    Attributes:
        path: of the solverstate.
        state: what it says.
        model: the weights that belong to it.
        resume: the state of data and random numbers, where this engine saved it.
        why_not: why that is not used, where it is there.
    """

    path: Path
    state: SolverState
    model: Path
    resume: Resume | None
    why_not: str


def read_saved(path: Path, root: Path) -> Saved:
    """Finds all that belongs to a solverstate.

    Raises:
        RebirthError: something is missing, damaged, or of another snapshot.
    """
    state = read_solverstate(path)
    model = find_model(state.learned_net, path, root)
    return Saved(path, state, model, *read_resume(path, state, model))


class TorchTrainer:
    """A solver that has been set up; see `engines.base.Trainer`.

    Attributes:
        iteration: how many iterations are done.
        notes: what people should know.
        net: the net that learns.
        teacher: what it learns from besides its labels; None: from those alone.
        test_nets: those it is tested with; they use its weights.
        updater: the update rule, with its history.
    """

    def __init__(
        self, plan: Plan, net: TorchNet, test_nets: Sequence[TorchNet], seed: int, teacher: Teacher | None = None
    ) -> None:
        self.plan = plan
        self.net = net
        self.teacher = teacher
        self.test_nets = list(test_nets)
        self.updater = Updater(plan.param, net.learnable)
        self.iteration = 0
        self.notes: list[str] = []
        self._seed = seed
        self._current_step = 0
        self._before_tests: list[dict[str, Any]] | None = None

    @property
    def tests(self) -> int:
        """How many test nets there are."""
        return len(self.test_nets)

    def step(self) -> Step:
        """Does one iteration: `iter_size` times forward and backward, then the update."""
        begin = time.perf_counter()
        self._before_tests = None
        size = self.plan.param.iter_size
        outputs: dict[str, torch.Tensor] = {}
        loss = torch.zeros((), device=self.net.device)
        self.updater.clear()
        verdicts: list[Verdict] = []
        for _ in range(size):
            if self.teacher is None:
                outputs = self.net.forward()
                loss = loss + self.net.loss.detach()
                self.net.backward()
            else:
                outputs, verdict = self.teacher.learn(self.net)
                loss = loss + verdict.loss
                verdicts.append(verdict)
        done = self.iteration
        rate, self._current_step = learning_rate(self.plan.param, done, self._current_step)
        self.updater.apply(rate, done)
        self.iteration += 1
        return Step(
            iteration=done,
            lr=rate,
            loss=float(loss / size),
            outputs={name: float(value.float().mean()) for name, value in outputs.items()},
            images=self.net.images * size,
            seconds=time.perf_counter() - begin,
            parts=parts(verdicts) if verdicts else None,
        )

    def test(self, index: int = 0, between: Callable[[], object] | None = None) -> dict[str, Score]:
        """Runs a test net, with the weights of now, over its `test_iter` batches; see `engines.base.Trainer`."""
        net, count = self.test_nets[index], self.plan.tests[index].iterations
        if self._before_tests is None:
            self._before_tests = [one.state() for one in self.test_nets]
        totals: dict[str, torch.Tensor] = {}
        for number in range(count):
            if number and between is not None:
                try:
                    between()
                except BaseException:
                    self._undo_tests()
                    raise
            for name, value in net.forward().items():
                flat = value.float().reshape(-1)
                totals[name] = totals[name] + flat if name in totals else flat
        return {name: _score((total / count).tolist()) for name, total in totals.items()}

    def _undo_tests(self) -> None:
        """Brings the data of all test nets back to where they were before the tests since the last step."""
        for net, before in zip(self.test_nets, self._before_tests or (), strict=False):
            net.restore(before)
        self._before_tests = None

    def snapshot(self) -> Snapshot:
        """Saves weights and solver state: under temporary names, read back, then renamed.

        Raises:
            DivergedError: the weights are no numbers any more.
            RebirthError: they cannot be written (a full disk). In either case older snapshots are as they were.
        """
        name, layers = self.net.export()
        learned = self.plan.model_name(self.iteration)
        state = SolverState(self.iteration, learned, [_array(one) for one in self.updater.history], self._current_step)
        resume = Resume(self.net.device.type, self._seed, self.net.state(), [net.state() for net in self.test_nets])
        return write_snapshot(
            self.plan.root / learned,
            self.plan.root / self.plan.state_name(self.iteration),
            name,
            layers,
            self._shared(),
            state,
            resume,
        )

    def restore(self, saved: Saved) -> None:
        """Goes on from a solverstate.

        Raises:
            RebirthError: it belongs to another net or solver.
        """
        path, state, resume = saved.path, saved.state, saved.resume
        self._check_history(path, state)
        self.net.load(read_weights(saved.model, self.plan.train))
        with torch.no_grad():
            for mine, array in zip(self.updater.history, state.history, strict=True):
                mine.copy_(torch.from_numpy(np.array(array, np.float32)).reshape(mine.shape))
        self.iteration, self._current_step = state.iteration, state.current_step
        if saved.why_not:
            self.notes.append(saved.why_not)
        if resume is None:
            self._catch_up()
            return
        if len(resume.tests) != len(self.test_nets):
            raise RebirthError(
                f"{path}: saved with {len(resume.tests)} test nets, the solver has {len(self.test_nets)}; "
                f"remove {path.name}.resume to go on without the state of their data"
            )
        same = resume.device == self.net.device.type
        try:
            for net, kept in zip((self.net, *self.test_nets), (resume.train, *resume.tests), strict=True):
                net.restore(kept if same else {**kept, "generator": net.state()["generator"]})
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
            raise RebirthError(
                f"{path}.resume: damaged, or of another net; remove it to go on without the state of data and random "
                "numbers"
            ) from error
        if not same:
            here = self.net.device.type
            self.notes.append(f"saved on {resume.device}: dropout and the like go on with other numbers on {here}")

    def _check_history(self, path: Path, state: SolverState) -> None:
        mine = self.updater.history
        if len(state.history) != len(mine):
            raise RebirthError(
                f"{path}: holds {len(state.history)} arrays of history where this solver ({self.plan.param.type}) has "
                f"{len(mine)}; it belongs to another net or another type of solver"
            )
        learnable = self.net.learnable
        for index, (array, own) in enumerate(zip(state.history, mine, strict=True)):
            legacy = index < len(state.legacy) and state.legacy[index]
            if not matches_shape(array.shape, own.shape, legacy):
                blob = learnable[index % len(learnable)]
                raise RebirthError(
                    f'{path}: the history of blob {blob.index} of layer "{blob.layer}" is {_by(array.shape)}, '
                    f"the net wants {_by(own.shape)}; it belongs to another net"
                )

    def _catch_up(self) -> None:
        """Moves the data to where another engine left it, as far as a solverstate tells; says what is lost."""
        batches = self.iteration * self.plan.param.iter_size
        runs = self.plan.tests_before(self.iteration)
        for source in self.net.sources.values():
            source.skip(batches)
        for net, planned in zip(self.test_nets, self.plan.tests, strict=True):
            for source in net.sources.values():
                source.skip(runs * planned.iterations)
        lost = dict.fromkeys(what for one in (self.plan.train, *self.plan.tests) for what in unrestorable(one))
        if lost:
            self.notes.append(
                f"the data is moved forward by {batches} batches; what was random goes on differently than it would "
                f"have without the break: {', '.join(lost)}"
            )

    def _shared(self) -> frozenset[tuple[str, int]]:
        """The parameters that belong to an earlier layer, which HDF5 keeps once."""
        owners: set[int] = set()
        shared = []
        for layer, blobs in self.net.blobs_of.items():
            for index, tensor in enumerate(blobs):
                if id(tensor) in owners:
                    shared.append((layer, index))
                owners.add(id(tensor))
        return frozenset(shared)


@contextmanager
def open_trainer(
    engine: TorchEngine,
    solver: Path | str,
    *,
    weights: Sequence[Path | str] = (),
    resume: Path | str | None = None,
    root: Path | str = ".",
    lesson: Lesson | None = None,
) -> Iterator[TorchTrainer]:
    """Sets a solver up; see `engines.base.Engine.trainer`.

    Args:
        engine: where and how its nets run.
        solver: its prototxt.
        weights: caffemodels to start from.
        resume: a solverstate to go on from.
        root: where relative paths start.
        lesson: what a teacher says besides the labels.

    Raises:
        RebirthError: a file cannot be read, or the solver, its nets and the weights do not fit each other.
    """
    plan = read_plan(solver, root)
    check_prefix(plan)
    remove_leftovers(plan.root / plan.prefix)
    saved = read_saved(Path(resume), plan.root) if resume is not None else None
    seed = _seed(plan, engine)
    data_seed = saved.resume.seed if saved is not None and saved.resume is not None else seed
    budget = None if engine.cache == 0 else Budget.of(engine.cache, engine.device)
    with ExitStack() as stack:

        def build(planned: PlannedNet, number: int, share: TorchNet | None = None) -> TorchNet:
            net = TorchNet(
                planned.net,
                planned.state,
                device=engine.device,
                precision=engine.precision,
                seed=seed + number,
                share=share,
                root=plan.root,
                data_seed=data_seed,
                cache=budget,
                entries=lesson.watched if lesson is not None and share is None else (),
            )
            stack.callback(net.close)
            return net

        net = build(plan.train, 0)
        if plan.hdf5:
            check_writable([layer.name for layer in net.view.layers], str(plan.path))
        tests = [build(planned, number, net) for number, planned in enumerate(plan.tests, 1)]
        teacher = Teacher(lesson, engine.device, engine.precision, plan.root, budget) if lesson is not None else None
        trainer = TorchTrainer(plan, net, tests, data_seed, teacher)
        if plan.param.snapshot_diff:
            trainer.notes.append("snapshot_diff is not done: snapshots hold weights without their gradients")
        if saved is not None:
            trainer.restore(saved)
        else:
            # As `caffe train --weights`: those given count instead of the solver's own.
            for path in map(Path, weights or weights_of(plan.param, plan.root)):
                for one, planned in zip((net, *tests), (plan.train, *plan.tests), strict=True):
                    one.load(read_weights(path, planned))
        yield trainer


def read_weights(path: Path, planned: PlannedNet) -> Weights:
    """Reads weights for a net."""
    return Weights.read(path, [layer.param for layer in planned.net.layers])


def _seed(plan: Plan, engine: TorchEngine) -> int:
    if plan.param.random_seed >= 0:
        return int(plan.param.random_seed)
    return secrets.randbits(31) if engine.seed is None else engine.seed


def _score(values: Sequence[float]) -> Score:
    return values[0] if len(values) == 1 else tuple(values)


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    return np.ascontiguousarray(tensor.detach().cpu().numpy())


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
