"""A solver of real Caffe, driven step by step: Caffe computes, the caller decides when it steps, tests and saves.

The worker gets a copy of the solver file in which its own testing, printing and saving are switched off.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deeprebirth_caffe.engines.base import Score, Snapshot, Step
from deeprebirth_caffe.engines.caffe import saving
from deeprebirth_caffe.engines.caffe.labels import label_rules
from deeprebirth_caffe.engines.caffe.moving import moves
from deeprebirth_caffe.engines.caffe.plain_files import plain_net, plain_weights
from deeprebirth_caffe.engines.plan import Plan, check_prefix, find_model, read_plan, unrestorable, weights_of
from deeprebirth_caffe.engines.policy import learning_rate
from deeprebirth_caffe.engines.snapshots import remove_leftovers, workspace
from deeprebirth_caffe.formats import hdf5
from deeprebirth_caffe.formats.prototxt import format_message
from deeprebirth_caffe.formats.solverstate import SolverState, read_solverstate, write_solverstate
from deeprebirth_caffe.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import FloatArray
    from deeprebirth_caffe.engines.caffe.client import CaffeWorker

_NEVER = (1 << 31) - 1
_SECONDS = 2.0
"""How long data layers are moved forward in one call, so that time-outs keep their meaning."""

_TEST_SECONDS = 0.5
"""How long a test net runs in one call, one batch at the least: so soon a test can be ended."""


class CaffeTrainer:
    """A solver in a worker of its own; `open_trainer` makes it. See `engines.base.Trainer`."""

    def __init__(self, worker: CaffeWorker, plan: Plan, work: Path, opened: dict[str, Any]) -> None:
        """Takes over what the worker has opened; see `open_trainer`."""
        self._worker = worker
        self._plan = plan
        self._work = work
        self._iteration = int(opened["iteration"])
        self._current_step = 0
        self._layers = [(str(name), [tuple(shape) for shape in shapes]) for name, shapes in opened["layers"]]
        self._sources = [[(str(n), str(k), int(b)) for n, k, b in found] for found in opened["sources"]]
        self._notes: list[str] = []

    @property
    def iteration(self) -> int:
        """How many iterations are done."""
        return self._iteration

    @property
    def notes(self) -> Sequence[str]:
        """What people should know; grows while it is set up."""
        return self._notes

    @property
    def tests(self) -> int:
        """How many test nets there are."""
        return len(self._plan.tests)

    def step(self) -> Step:
        """Does one iteration in Caffe."""
        done = self._iteration
        # Caffe is not asked: with "multistep" each question would move it on.
        rate, following = learning_rate(self._plan.param, done, self._current_step)
        begin = time.perf_counter()
        result, _ = self._worker.call("step")
        seconds = time.perf_counter() - begin
        self._iteration, self._current_step = int(result["iteration"]), following
        outputs = {str(name): float(mean) for name, mean in result["outputs"]}
        return Step(done, rate, float(result["loss"]), outputs, self._images(), seconds)

    def test(self, index: int = 0, between: Callable[[], object] | None = None) -> dict[str, Score]:
        """Runs a test net as Caffe's own TestAll does, adding up in single precision; see `engines.base.Trainer`."""
        count = self._plan.tests[index].iterations
        left, sums = count, list[tuple[Any, Any]]()
        while left:
            if sums and between is not None:
                between()
            result, sums = self._worker.call("test", sums, index=index, batches=left, seconds=_TEST_SECONDS)
            left -= int(result["done"])
        return {str(name): _score(total / np.float32(count)) for name, total in sums}

    def snapshot(self) -> Snapshot:
        """Lets Caffe save, reads the files back, and gives them their names; see `saving.save`."""
        return saving.save(self._plan, self._iteration, self._layers, self._work, lambda: self._worker.call("snapshot"))

    def resumed(self, state: SolverState) -> None:
        """Moves the data layers to where they were, and notes what cannot be brought back."""
        self._current_step = state.current_step
        for move in moves(self._plan, self._iteration, self._sources):
            left = move.batches
            while left:
                result, _ = self._worker.call("advance", net=move.net, layer=move.layer, batches=left, seconds=_SECONDS)
                left -= int(result["done"])
        for planned in (self._plan.train, *self._plan.tests):
            for what in unrestorable(planned):
                where = "training" if planned is self._plan.train else "test"
                note = f"{what} in the {where} net cannot be restored: Caffe draws anew"
                if note not in self._notes:
                    self._notes.append(note)

    def note(self, text: str) -> None:
        """Adds a note."""
        self._notes.append(text)

    def _images(self) -> int:
        sources = self._sources[0]
        return sources[0][2] * max(1, self._plan.param.iter_size) if sources else 0


@contextmanager
def open_trainer(
    worker: CaffeWorker,
    solver: Path | str,
    weights: Sequence[Path | str],
    resume: Path | str | None,
    root: Path | str,
) -> Iterator[CaffeTrainer]:
    """Sets a solver up in a worker that nobody else uses, which it starts and ends.

    Raises:
        RebirthError: a file is missing or wrong, or Caffe refused it.
    """
    plan = read_plan(Path(solver), Path(root))
    base = plan.root.absolute()
    check_prefix(plan)
    prefix = base / plan.prefix
    remove_leftovers(prefix)
    work = workspace(prefix)
    with tempfile.TemporaryDirectory(prefix="rebirth-caffe-") as name, worker:
        private = Path(name)
        copy = private / "solver.prototxt"
        copy.write_text(
            format_message(_silent(plan.param, work, base, private)), encoding="utf-8", errors="surrogateescape"
        )
        state = None if resume is None else Path(resume).absolute()
        notes: list[str] = []
        found = read_solverstate(state) if state is not None else None
        worker.enter(base)
        opened, _ = worker.call(
            "open_solver",
            solver=str(copy),
            iter_size=plan.param.iter_size,
            weights=[] if state is not None else _loadable(weights or weights_of(plan.param, base), private),
            state=None if state is None or found is None else str(_restorable(state, found, base, private, notes)),
            labels=[label_rules(net.net, net.state) for net in (plan.train, *plan.tests)],
        )
        trainer = CaffeTrainer(worker, plan, work, opened)
        for text in notes:
            trainer.note(text)
        if plan.hdf5:
            # Caffe would abort when it saves, with all that was learned.
            hdf5.check_writable([name for name, _ in opened["layers"]], str(plan.path))
        if found is not None:
            trainer.resumed(found)
        yield trainer


def _silent(param: pb.SolverParameter, work: Path, root: Path, private: Path) -> pb.SolverParameter:
    """A copy in which Caffe neither tests nor prints nor saves by itself, and whose nets it can read."""
    copy = pb.SolverParameter()
    copy.CopyFrom(param)
    copy.snapshot = 0
    copy.snapshot_after_train = False
    copy.snapshot_prefix = str(work / saving.STEM)
    copy.test_initialization = False
    if copy.test_interval:
        copy.test_interval = _NEVER
    copy.display = 0
    copy.solver_mode = pb.SolverParameter.CPU
    del copy.weights[:]
    for name in ("net", "train_net"):
        if copy.HasField(name):
            setattr(copy, name, _readable(getattr(copy, name), root, private))
    copy.test_net[:] = [_readable(name, root, private) for name in param.test_net]
    return copy


def _readable(name: str, root: Path, folder: Path) -> str:
    path = plain_net(root / name, folder)
    return name if path == root / name else str(path)


def _restorable(state: Path, found: SolverState, root: Path, private: Path, notes: list[str]) -> Path:
    """A solverstate whose weights Caffe, started in `root`, finds: this one, or else a copy that names them."""
    model = find_model(found.learned_net, state, root)
    named = model == root / found.learned_net
    model = plain_weights(model.absolute(), private)
    if found.learned_net and named and found.plain and model.parent != private:
        return state
    if found.learned_net and not named:
        notes.append(f"weights are taken from {model}: {found.learned_net}, which the solverstate names, is not there")
    copy = private / f"resume.solverstate{'.h5' if hdf5.is_hdf5(state) else ''}"
    write_solverstate(copy, dataclasses.replace(found, learned_net=str(model)))
    return copy


def _score(mean: FloatArray) -> Score:
    return float(mean.item()) if mean.size == 1 else tuple(float(x) for x in mean.reshape(-1))


def _loadable(paths: Sequence[Path | str], folder: Path) -> list[str]:
    return [str(plain_weights(Path(path).absolute(), folder)) for path in paths]
