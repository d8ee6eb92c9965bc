"""`rebirth finetune`: a solver run in whichever engine, with everything checked before it starts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from deeprebirth_caffe.engines.base import DivergedError, Engine, EngineError, Parts, Snapshot, Trainer
from deeprebirth_caffe.engines.caffe.engine import CaffeEngine
from deeprebirth_caffe.engines.caffe.kernels import Kernels
from deeprebirth_caffe.engines.choose import Choice, choose
from deeprebirth_caffe.engines.lesson import Lesson
from deeprebirth_caffe.engines.plan import Plan, read_plan
from deeprebirth_caffe.errors import RebirthError, UsageError, spelled_command
from deeprebirth_caffe.formats.hdf5 import check_writable
from deeprebirth_caffe.formats.outputs import check_inputs
from deeprebirth_caffe.formats.prototxt import format_message
from deeprebirth_caffe.formats.solver import read_solver
from deeprebirth_caffe.inputs.labels import check_labels
from deeprebirth_caffe.inputs.roots import check_regular, find_root
from deeprebirth_caffe.inputs.sources import check_sources, reads_source, source_layers, source_of
from deeprebirth_caffe.options.fields import words
from deeprebirth_caffe.options.finetune import FinetuneOptions
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.relearn.teaching import plan_lesson
from deeprebirth_caffe.results import Figures, Result, to_json
from deeprebirth_caffe.training.listening import Listener, Silence
from deeprebirth_caffe.training.loop import Course, Training
from deeprebirth_caffe.training.resuming import check_resume
from deeprebirth_caffe.training.runlog import RunLog
from deeprebirth_caffe.training.schedule import Schedule
from deeprebirth_caffe.training.snapshots import (
    check_overwriting,
    check_room,
    continues,
    older_snapshots,
    written_again,
)
from deeprebirth_caffe.training.solver_nets import SolverNets, solver_nets
from deeprebirth_caffe.training.start_weights import StartLedger, check_start, start_files
from deeprebirth_caffe.wording import counted

NAMED = 8
"""How many layers a note names before it only counts them."""


@dataclass(frozen=True)
class Prepared:
    """A run that has been checked and can start.

    Attributes:
        solver: what counts: the file with `--max-iter` put in and its weights taken out, which stand below.
        same: whether the file itself says just that.
        root: where its paths start.
        weights: files to start from.
        ledger: what becomes of them; None when resuming.
        schedule: the iterations.
        choice: the engine.
        lesson: what a teacher says; None without one.
        older: files of an older run's snapshots, which go as this one starts.
    """

    solver: pb.SolverParameter
    same: bool
    root: Path
    weights: Sequence[Path]
    ledger: StartLedger | None
    schedule: Schedule
    choice: Choice
    lesson: Lesson | None = None
    older: Sequence[Path] = ()


@dataclass(frozen=True, kw_only=True)
class UsedKernels:
    """What real Caffe's OpenBLAS computed with.

    Attributes:
        core: the core type, such as `"SkylakeX"`.
        chosen_by: `"user"` (`OPENBLAS_CORETYPE`), `"rebirth"` or `"openblas"`.
        openblas_picks: what OpenBLAS picks by itself; empty where it was not asked.
    """

    core: str
    chosen_by: str
    openblas_picks: str


@dataclass(frozen=True, kw_only=True)
class TaughtHead:
    """A place where scores were compared.

    Attributes:
        name: the student's loss or Softmax; the blob where there is none.
        student: the student's blob.
        teacher: the teacher's.
    """

    name: str
    student: str
    teacher: str


@dataclass(frozen=True, kw_only=True)
class Taught:
    """What was learned from a teacher.

    Attributes:
        net: path.
        weights: path.
        temperature: what scores were divided by.
        alpha: what the teacher's scores counted; the net's own losses counted the rest of 1.
        match_weight: what the blobs counted; null where none were compared.
        heads: where scores were compared.
        blobs: the other blobs that were compared.
        parts: the losses of the last iteration, as in the log; null where none was done.
    """

    net: Path
    weights: Path
    temperature: float
    alpha: float
    match_weight: float | None
    heads: Sequence[TaughtHead]
    blobs: Sequence[str]
    parts: Parts | None


@dataclass(frozen=True, kw_only=True)
class Finetuned(Result):
    """What `rebirth finetune` came to.

    Attributes:
        engine: `"caffe"` or `"torch"`.
        kernels: what real Caffe's OpenBLAS computed with ([caffe.md](caffe.md)); null of the embedded engine and of
            another matrix library.
        solver: path.
        weights: paths of the weights it started from; empty where it started from fillers or went on from a state.
        resumed: path of `--resume`.
        start: iterations done before it.
        iteration: iterations done after it.
        max_iter: where it was to end.
        stopped: `"SIGINT"` or `"SIGTERM"`, where one ended it; null where it went to the end.
        loss: the mean of the last `average_loss` losses; null where no iteration was done.
        teacher: what was learned from a teacher; null without `--teacher`.
        test: what the first test net gave last, by output blob: as in `test`; null where it did not run.
        test_iteration: how many iterations were done when that test ran; null where none did.
        snapshots: paths of the solverstates it wrote, in order.
        model: path of the last weights it wrote.
        state: path of the last solverstate it wrote.
        images_per_second: over all its iterations, without tests and snapshots; null for nets without data layers.
        ledger: what became of the weights, by layer; null when resuming.
    """

    engine: str
    kernels: UsedKernels | None
    solver: Path
    weights: Sequence[Path]
    resumed: Path | None
    start: int
    iteration: int
    max_iter: int
    stopped: str | None
    loss: float | None
    teacher: Taught | None
    test: Figures | None
    test_iteration: int | None
    snapshots: Sequence[Path]
    model: Path | None
    state: Path | None
    images_per_second: float | None
    ledger: StartLedger | None


def finetune(options: FinetuneOptions, listener: Listener | None = None) -> Finetuned:
    """Trains.

    Args:
        options: what to do.
        listener: is told what happens.

    Raises:
        RebirthError: something is missing or does not fit, which is found before training starts wherever it can be;
            the engine fails; training diverges; or the last snapshot cannot be written.
    """
    watcher = listener or Silence()
    plan = prepare(options, watcher)
    log = RunLog(options.log, plan.schedule.start, options.force) if options.log else None
    try:
        with (
            _solver_file(plan, options.solver) as solver,
            _trainer(plan, options, solver) as trainer,
        ):
            for note in trainer.notes:
                watcher.say(note)
            for path in plan.older:
                path.unlink(missing_ok=True)
            if plan.older:
                watcher.say(f"removed, for they are an older run's: {_some([*map(str, plan.older)])}")
            training = Training(trainer, plan.schedule, watcher, log)
            try:
                course = training.run()
            except DivergedError as error:
                raise DivergedError(f"{error}; {_advice(plan, options, training.course)}") from error
            except EngineError as error:
                if training.course.snapshots:
                    how = go_on(options, training.course.snapshots[-1].state)
                    error.args = (f"{error}; go on from the last snapshot with: {how}",)
                raise
    finally:
        if log is not None:
            log.close()
    if course.signal is not None:
        watcher.say(_stopped(options, course))
    return _summary(options, plan, course)


def prepare(options: FinetuneOptions, listener: Listener) -> Prepared:
    """Checks everything that can be known before training starts; see `finetune`."""
    if options.weights and options.resume:
        raise UsageError("-w and --resume exclude each other: a solverstate names its own weights")
    file = options.solver
    check_regular(file)
    original = _read(file)
    root = find_root(_net_paths(original), file)
    if root != Path():
        listener.say(f"paths in {file} start in {root}")
    plan = read_plan(file, root)
    solver = _settled(original, options, plan)
    data = _data_root(plan)
    if data != root:
        listener.say(f"paths in {plan.train.source} start in {data if data != Path() else 'the working directory'}")
        _leave(solver, plan)
    nets = solver_nets(replace(plan, root=data))
    _check_sources(nets, data)
    lesson, lines = plan_lesson(options.teacher, nets.train.view) if options.teacher is not None else (None, [])
    choice = _choose(options, nets, lesson)
    if choice.reason:
        listener.say(f"engine {choice.engine.name}: {choice.reason}")
    kernels = _kernels(choice.engine)
    if kernels is not None and kernels.name:
        listener.say(f"OpenBLAS kernels {kernels.name} ({kernels.words()})")
    for line in lines:
        listener.say(line)
    start, weights, ledger = 0, list[Path](), None
    if options.resume is not None:
        start = check_resume(options.resume, solver, nets.train, root)
        listener.say(f"going on from iteration {start}, {options.resume}")
    else:
        weights, why = start_files(options.weights, original, file, root)
        ledger = check_start(nets.train, weights)
        for line in _ledger_lines(ledger, weights, why):
            listener.say(line)
    if start >= solver.max_iter:
        raise RebirthError(f"{file}: max_iter is {solver.max_iter}: nothing to train; set it, or give --max-iter")
    schedule = Schedule.of(solver, start)
    older: list[Path] = []
    teacher = options.teacher
    read = (file, options.resume, *weights, *((teacher.net, teacher.weights) if teacher is not None else ()))
    if options.log is not None:
        check_inputs([options.log], read)
    if continues(plan, options.resume):
        again = written_again(plan, schedule.snapshots())
        if again:
            listener.say(
                f"snapshots after iteration {start} of this run will be written again: {_some([*map(str, again)])}"
            )
    else:
        older = older_snapshots(plan)
        if options.force:
            check_inputs(older, read)
        else:
            check_overwriting(plan, schedule.snapshots())
            if older:
                listener.say(f"snapshots of an older run stay there: {_some([*map(str, older)])}")
                older = []
    if plan.hdf5:
        check_writable([layer.name for layer in nets.train.view.layers], str(file))
    check_room(plan, solver, nets.train.view)
    return Prepared(solver, solver == original, data, weights, ledger, schedule, choice, lesson, older)


def go_on(options: FinetuneOptions, state: Path | None) -> str:
    """The command that continues a run.

    Args:
        options: how it was started.
        state: the solverstate to go on from; None starts anew.
    """
    weights = options.weights if state is None else ()
    return spelled_command("finetune", *words(replace(options, weights=weights, resume=state, force=False)))


def _choose(options: FinetuneOptions, nets: SolverNets, lesson: Lesson | None) -> Choice:
    """The engine; with a teacher the embedded one."""
    if lesson is None:
        return choose(options.running, nets.views)
    if options.engine.name == "caffe":
        raise UsageError(
            "--teacher is the embedded engine's; leave --engine caffe out, or train what rebirth distil writes"
        )
    found = choose(replace(options.running, name="torch"), [*nets.views, *lesson.net.views])
    return replace(found, reason="the one that has --teacher") if options.engine.name == "auto" else found


def _trainer(plan: Prepared, options: FinetuneOptions, solver: Path) -> AbstractContextManager[Trainer]:
    engine = plan.choice.engine
    if plan.lesson is None:
        return engine.trainer(solver, weights=plan.weights, resume=options.resume, root=plan.root)
    from deeprebirth_caffe.engines.torch.engine import TorchEngine

    assert isinstance(engine, TorchEngine)
    return engine.trainer(solver, weights=plan.weights, resume=options.resume, root=plan.root, lesson=plan.lesson)


def _read(file: Path) -> pb.SolverParameter:
    source = read_solver(file)
    top = {name.split(".")[0] for name in source.unknown}
    if not source.message.ListFields() or not top.isdisjoint(("layer", "layers", "input")):
        raise RebirthError(f"{file}: this is {'a net' if 'layer' in top else 'not a solver'}; finetune wants a solver")
    return source.message


def _net_paths(solver: pb.SolverParameter) -> list[str]:
    """The files of a solver's nets, else the sources of those that stand in it."""
    files = [name for name in (solver.train_net, solver.net, *solver.test_net) if name]
    inline = [*solver.test_net_param, solver.net_param, solver.train_net_param]
    parts = [(one.data_param, one.image_data_param, one.hdf5_data_param) for net in inline for one in net.layer]
    return files or [part.source for group in parts for part in group if part.source]


def _data_root(plan: Plan) -> Path:
    """Where the paths in a solver's nets start: as its own do, unless they lead somewhere from elsewhere alone."""
    planned = (plan.train, *plan.tests)
    names = dict.fromkeys(source_of(layer) for one in planned for layer in one.net.layers if reads_source(layer))
    missing = [name for name in names if not (plan.root / name).exists()]
    elsewhere = find_root(missing, Path(plan.train.source))
    return elsewhere if missing and (elsewhere / missing[0]).exists() else plan.root


def _leave(solver: pb.SolverParameter, plan: Plan) -> None:
    """Makes a solver's paths absolute, so that those in its nets can start elsewhere."""
    for name in ("net", "train_net"):
        if solver.HasField(name):
            setattr(solver, name, str((plan.root / getattr(solver, name)).absolute()))
    tests = [str((plan.root / name).absolute()) for name in solver.test_net]
    del solver.test_net[:]
    solver.test_net.extend(tests)
    solver.snapshot_prefix = str((plan.root / plan.prefix).absolute())


def _settled(original: pb.SolverParameter, options: FinetuneOptions, plan: Plan) -> pb.SolverParameter:
    """The solver as it will run: with what the command line says, its weights apart."""
    solver = pb.SolverParameter()
    solver.CopyFrom(original)
    if options.max_iter is not None:
        solver.max_iter = options.max_iter
    del solver.weights[:]
    if solver != original:
        # It will lie elsewhere, and where there is no prefix, its own path is one.
        solver.snapshot_prefix = plan.prefix
    return solver


def _check_sources(nets: SolverNets, root: Path) -> None:
    different = {layer.param.SerializeToString(): layer for view in nets.views for layer in source_layers(view)}
    check_sources(different.values(), root)
    for view in nets.views:
        check_labels(view, root)


def _ledger_lines(ledger: StartLedger, weights: Sequence[Path], why: str) -> Iterator[str]:
    if not weights:
        left = len(ledger.left)
        start = "1 layer starts from its" if left == 1 else f"all {left} layers start from their"
        yield f"no weights given: {start} fillers"
        return
    names = ", ".join(map(str, weights))
    yield f"weights {names} ({why}): {counted(len(ledger.loaded), 'layer')} loaded"
    if ledger.left:
        yield f"left at their fillers: {_some(ledger.left)}"
    if ledger.unused:
        yield f"in the file and not used: {_some(ledger.unused)}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


@contextmanager
def _solver_file(plan: Prepared, file: Path) -> Iterator[Path]:
    """The file itself where it says all that counts, else one that lives as long as the run."""
    if plan.same:
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="rebirth-finetune-") as folder:
        path = Path(folder) / file.name
        path.write_text(format_message(plan.solver), encoding="utf-8")
        yield path


def _advice(plan: Prepared, options: FinetuneOptions, course: Course) -> str:
    rate = f"lower base_lr ({plan.solver.base_lr:g} now) in {options.solver} and start again"
    if course.good is not None:
        return f"{rate}, or go on from the last good snapshot: {go_on(options, course.good.state)}"
    if options.resume is not None:
        return f"{rate} from {options.resume}, which is as it was"
    return f"{rate}; nothing was saved"


def _stopped(options: FinetuneOptions, course: Course) -> str:
    state = course.snapshots[-1].state if course.snapshots else options.resume
    done = counted(course.iteration, "iteration")
    return f"stopped by {course.signal} after {done}; go on with: {go_on(options, state)}"


def _taught(options: FinetuneOptions, plan: Prepared, course: Course) -> Taught | None:
    """What the summary says of a teacher."""
    given, lesson = options.teacher, plan.lesson
    if given is None or lesson is None:
        return None
    return Taught(
        net=given.net,
        weights=given.weights,
        temperature=lesson.temperature,
        alpha=lesson.alpha,
        match_weight=lesson.match_weight if lesson.blobs else None,
        heads=[TaughtHead(name=one.name, student=one.student, teacher=one.teacher) for one in lesson.heads],
        blobs=list(lesson.blobs),
        parts=course.parts,
    )


def _kernels(engine: Engine) -> Kernels | None:
    """The kernels of real Caffe's matrix library; None of the embedded engine."""
    return engine.kernels() if isinstance(engine, CaffeEngine) else None


def _summary(options: FinetuneOptions, plan: Prepared, course: Course) -> Finetuned:
    last: Snapshot | None = course.snapshots[-1] if course.snapshots else None
    tested = course.tests.get(0)
    kernels = _kernels(plan.choice.engine)
    return Finetuned(
        engine=plan.choice.engine.name,
        kernels=UsedKernels(core=kernels.name, chosen_by=kernels.by, openblas_picks=kernels.own)
        if kernels is not None and kernels.name
        else None,
        solver=options.solver,
        weights=plan.weights,
        resumed=options.resume,
        start=plan.schedule.start,
        iteration=course.iteration,
        max_iter=plan.schedule.max_iter,
        stopped=course.signal,
        loss=course.loss,
        teacher=_taught(options, plan, course),
        test=to_json(tested.outputs) if tested else None,
        test_iteration=tested.iteration if tested else None,
        snapshots=[one.state for one in course.snapshots],
        model=last.model if last else None,
        state=last.state if last else None,
        images_per_second=course.images / course.seconds if course.images and course.seconds > 0 else None,
        ledger=plan.ledger,
    )
