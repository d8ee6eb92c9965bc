"""The steps of a run: the base, stages reborn, joint relearning, Tucker, deploy, time.

Each is a function that makes its parts (`state.Parts`), writes `result.json`, and gives the net that the next one
starts from. None of them asks whether it ran before: parts that are made are not made again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeprebirth_caffe.commands.convert import convert
from deeprebirth_caffe.commands.deploy import deploy
from deeprebirth_caffe.errors import RebirthError, RefusedError
from deeprebirth_caffe.formats.files import atomic_file, atomic_write
from deeprebirth_caffe.formats.jsonfile import ANYTHING, Each
from deeprebirth_caffe.formats.outputs import MANIFEST
from deeprebirth_caffe.formats.solver import read_solver
from deeprebirth_caffe.ir import Weights
from deeprebirth_caffe.ir.probe import save_weights
from deeprebirth_caffe.nets.load import load_net
from deeprebirth_caffe.nets.rewriting import INIT
from deeprebirth_caffe.nets.strip import DEPLOY, DEPLOY_WEIGHTS
from deeprebirth_caffe.options.deploy import DeployOptions
from deeprebirth_caffe.options.time import TimingOptions
from deeprebirth_caffe.results import ABSENT, Absent, Figures, Result
from deeprebirth_caffe.rewrite import Rewriter
from deeprebirth_caffe.rewrite.learning import restore
from deeprebirth_caffe.runs.schedule.accuracy import points
from deeprebirth_caffe.runs.schedule.context import Context, Stage
from deeprebirth_caffe.runs.schedule.digests import file_digest
from deeprebirth_caffe.runs.schedule.learning import (
    FINAL,
    LOG,
    SOLVER,
    Attempt,
    AttemptRow,
    Learned,
    Stopped,
    Stretch,
    attempt_rows,
    chosen,
    copy_file,
    evaluate,
    relearn,
    train,
)
from deeprebirth_caffe.runs.schedule.recipes import convert_options, looks_at_images, tucker_options
from deeprebirth_caffe.runs.schedule.shapes import RESULT_SHAPE, TIME_SHAPE, read_ours
from deeprebirth_caffe.runs.schedule.solvers import adopted
from deeprebirth_caffe.runs.schedule.state import RESULT, Parts, write_json

if TYPE_CHECKING:
    from deeprebirth_caffe.runs.schedule.model import Budget, Joint, Learn, Schedule, Step, TuckerStep

CONVERTED = "convert"
WEIGHTS = "result.caffemodel"
TIMES = "time.json"
DONE, ROLLED_BACK, SKIPPED, OVER = "done", "rolled back", "skipped", "over budget"
DISTILLED = "distil"
READ = tuple(name.removesuffix("?") for name in RESULT_SHAPE)
"""What of a `result.json` is read again."""
BASE, MERGED = "base", "merged"
"""Folders beside the deployed net: of the net that the run began with; where Tucker came behind, of the merged one."""


@dataclass(frozen=True, kw_only=True)
class BudgetRow:
    """The budget of a step, as in the schedule."""

    metric: str | None
    step: float | None
    total: float | None
    retries: int
    factor: float
    then: str


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """A deployed net; paths as in `StepResult`."""

    net: str
    weights: str


@dataclass(frozen=True, kw_only=True)
class StepResult(Result):
    """What `result.json` says of a step.

    Attributes:
        step: its folder.
        kind: `"base"`, `"step"`, `"joint"`, `"tucker"`, `"deploy"`, `"time"`.
        stages: what it merged, as the schedule names it.
        net: what it made, from the run's folder; absolute where it lies elsewhere; null where all attempts diverged.
        weights: likewise.
        test: figures by output, as `test` has them, with `top1`, `top5` and `images`.
        after_convert: the same before it learned.
        drop: points lost against the base, by metric; below 0 where it gained.
        iterations: of the attempt that counts.
        seconds: that it worked, in all sittings; what `kill -9` cut off is missing.
        losses: its log (`finetune --log`), in the step's folder.
        attempts: relearnings, in order; empty in a step that does not learn.
        per_image: the hits of each image, in the step's folder: NumPy, uint8, images x 2, top-1 and top-5.
        after_distil: the same as `after_convert`, when its blocks were distilled.
        loss: mean of the last 20 iterations.
        images_per_second: median over its iterations.
        budget: as in the schedule.
        metric: what its budget goes by.
        beside: in `deploy`: `base`, and `merged` where Tucker came behind.
        times: in `time`: its file, with `times`, a list of `engine`, `threads` and `time`, which is what `rebirth time
            --json` prints.
        status: `"done"`; `"rolled back"` and `"over budget"`: made and not gone on from; `"skipped"`.
        why: why it lost more than it may; in steps that learn.
    """

    step: str
    kind: str
    stages: Sequence[str]
    net: str | None
    weights: str | None
    test: Figures | None
    after_convert: Figures | None
    drop: Mapping[str, float] | None
    iterations: int = 0
    seconds: float | None
    losses: str | None = None
    attempts: Sequence[AttemptRow] = ()
    per_image: str | None = None
    after_distil: Figures | Absent | None = ABSENT
    loss: float | Absent | None = ABSENT
    images_per_second: float | Absent | None = ABSENT
    budget: BudgetRow | Absent = ABSENT
    metric: str | Absent = ABSENT
    beside: Mapping[str, Deployed] | Absent = ABSENT
    times: str | Absent = ABSENT
    status: str
    why: str | Absent | None = ABSENT


@dataclass(frozen=True)
class Task:
    """One step of a run.

    Attributes:
        name: of its folder, and for `--from` and `--until`.
        kind: base, step, joint, tucker, deploy or time.
        stages: that it is about.
        do: does it: given the context, its parts and the net so far, gives the net to go on with.
    """

    name: str
    kind: str
    stages: tuple[str, ...]
    do: Callable[[Context, Parts, Stage | None], Stage]


def tasks_of(schedule: Schedule) -> list[Task]:
    """The steps of a run, in order."""
    found = [Task("base", "base", (), _base)]
    for step in schedule.steps:
        found.append(Task(step.name, "step", step.stages, partial(_step, step=step)))
    if (joint := schedule.joint) is not None:
        found.append(Task("joint", "joint", (), partial(_joint, step=joint)))
    if (tucker := schedule.tucker) is not None:
        found.append(Task("tucker", "tucker", tucker.only, partial(_tucker, step=tucker)))
    if schedule.deploy is not None:
        found.append(Task("deploy", "deploy", (), _deploy))
    if schedule.time is not None:
        found.append(Task("time", "time", (), _time))
    return found


def _base(context: Context, parts: Parts, _: Stage | None) -> Stage:
    """Tests the net that the run begins with, and keeps its text for the report."""
    inputs = context.inputs
    values, hits = evaluate(context, parts, "test", inputs.net, inputs.weights)

    def make(_: bool) -> dict[str, Any]:
        copy_file(inputs.net, parts.folder / inputs.net.name)
        return {}

    parts.part("net", {"net": file_digest(inputs.net)}, [inputs.net.name], make)
    made = Stage(inputs.net, inputs.weights, values)
    context.base = made
    parts.finish(replace(_result(context, parts, "base", (), made, values), per_image=hits))
    return made


def _step(context: Context, parts: Parts, before: Stage | None, step: Step) -> Stage:
    """Merges stages and relearns."""
    assert before is not None
    if step.skip:
        return _skipped(context, parts, before, step.stages)
    inputs = context.inputs
    out = parts.folder / CONVERTED
    options = convert_options(inputs, step, before.net, before.weights, out)
    of = {
        "options": step.model_dump(exclude={"finetune", "budget", "distil", "calibrate", "name", "note", "skip"}),
        "batch": options.batch,
        "shapes": {name: list(shape) for name, shape in inputs.schedule.input_shapes.items()},
        "seed": options.seed,
        **_given(before),
    }
    if looks_at_images(step):
        of["calibrate"] = step.calibrate.samples
        of["images"] = context.calibration_digest(step.calibrate)

    def make(_: bool) -> dict[str, Any]:
        found = convert(options, None, context.watcher.say)
        if not found.outcome.rewrites:
            raise RefusedError(f"step {step.name}: there is nothing to merge in {', '.join(step.stages)}")
        return {"rewrites": len(found.outcome.rewrites)}

    parts.part(CONVERTED, of, [CONVERTED], make)
    net = out / before.net.name
    distilled = _distil(context, parts, net, before, step)
    work = _Relearning("step", step.stages, net, out / INIT, step.finetune, step.budget, step.paper, distilled)
    return _relearned(context, parts, work, before)


def _distil(context: Context, parts: Parts, net: Path, before: Stage, step: Step) -> Path | None:
    """Trains the blocks one by one; gives their weights, None where none is wanted."""
    converted = net.parent
    iterations = context.inputs.iterations(step.distil, f"step {step.name}", lent=False)
    if not iterations:
        return None
    from deeprebirth_caffe.commands.distil import distil
    from deeprebirth_caffe.options.distil import DistilOptions

    out = parts.folder / DISTILLED
    more = step.distil.model_dump(include={"batch", "base_lr"}, exclude_none=True)
    options = DistilOptions(
        directory=converted,
        weights=converted / INIT,
        out=out,
        teacher=before.net,
        teacher_weights=before.weights,
        max_iter=iterations,
        force=True,
        **more,
    )
    of = {"iterations": iterations, **more, "start": file_digest(converted / INIT), **_given(before)}

    def make(_: bool) -> dict[str, Any]:
        distil(options)
        return {}

    parts.part(DISTILLED, {**of, "converted": file_digest(net)}, [DISTILLED], make)
    taught = Stretch(out / "distil.prototxt", (out / INIT,), iterations, adopted(read_solver(out / SOLVER)))
    train(context, parts, f"{DISTILLED}-train", taught, context.inputs.schedule.seed)
    return parts.folder / f"{DISTILLED}-train" / FINAL


def _joint(context: Context, parts: Parts, before: Stage | None, step: Joint) -> Stage:
    """Relearns the whole net, every layer at the rate it had in the beginning."""
    assert before is not None
    out = parts.folder / CONVERTED
    batch = step.finetune.batch or context.inputs.batch

    def make(_: bool) -> dict[str, Any]:
        out.mkdir(exist_ok=True)
        net = load_net(before.net, shapes=context.inputs.schedule.input_shapes)
        rewriter = Rewriter(net)
        for layer in net.view("TRAIN").layers:
            rewriter.set_batch(layer, batch)
        manifest = _manifest_of(before.net)
        restored = restore(net, manifest.get("lr_mult", {}))
        atomic_write(out / before.net.name, net.text())
        if manifest:
            # It also says what else the net's maker did; only the rates are settled now.
            write_json(out / MANIFEST, {**manifest, "lr_mult": {}})
        copy_file(before.weights, out / INIT)
        return {"restored": restored}

    parts.part(CONVERTED, {"batch": batch, **_given(before)}, [CONVERTED], make)
    net = out / before.net.name
    paper = context.inputs.schedule.defaults.paper
    work = _Relearning("joint", (), net, out / INIT, step.finetune, step.budget, paper)
    return _relearned(context, parts, work, before)


def _tucker(context: Context, parts: Parts, before: Stage | None, step: TuckerStep) -> Stage:
    """Decomposes the net and relearns."""
    from deeprebirth_caffe.commands.tucker import tucker

    assert before is not None
    inputs = context.inputs
    out = parts.folder / CONVERTED
    options = tucker_options(inputs, step, before.net, before.weights, out)
    of = {
        "options": step.model_dump(exclude={"finetune", "budget", "calibrate", "ranks"}),
        "ranks": step.ranks if step.ranks in (None, "vbmf") else file_digest(inputs.file(str(step.ranks))),
        "batch": options.batch,
        **_given(before),
    }
    if step.calibrate is not None:
        of["calibrate"] = step.calibrate.samples
        of["images"] = context.calibration_digest(step.calibrate)

    def make(_: bool) -> dict[str, Any]:
        found = tucker(options)
        if not found.outcome.rewrites:
            raise RefusedError("step tucker: there is nothing to decompose")
        return {"rewrites": len(found.outcome.rewrites)}

    parts.part(CONVERTED, of, [CONVERTED], make)
    net = out / before.net.name
    work = _Relearning("tucker", step.only, net, out / INIT, step.finetune, step.budget, inputs.schedule.defaults.paper)
    made = _relearned(context, parts, work, before)
    if made is not before:
        context.merged = before
    return made


@dataclass(frozen=True)
class _Relearning:
    """A net that has been changed and is to relearn.

    Attributes:
        kind: of the step.
        stages: of it.
        net: the training net.
        start: its weights.
        learn: how it relearns.
        budget: what it may lose.
        paper: whether all is as in the paper.
        distilled: weights of its blocks alone, which come on top of `start`; None where there are none.
    """

    kind: str
    stages: tuple[str, ...]
    net: Path
    start: Path
    learn: Learn
    budget: Budget
    paper: bool
    distilled: Path | None = None


def _relearned(context: Context, parts: Parts, work: _Relearning, before: Stage) -> Stage:
    """What follows a change: tests, relearning, the budget, the result."""
    inputs = context.inputs
    learned = bool(inputs.iterations(work.learn, parts.folder.name))
    at_first: Figures | None = None
    if learned or work.distilled:
        at_first, _ = evaluate(context, parts, "test-converted", work.net, work.start)
    start = work.start
    distilled: Figures | None = None
    if work.distilled is not None:
        start = _joined(parts, work.net, work.start, work.distilled)
        distilled, _ = evaluate(context, parts, "test-distilled", work.net, start)
    attempts = relearn(context, parts, work.net, start, work.learn, work.budget, before, work.paper)
    metric = work.budget.metric or inputs.schedule.test.metric
    best = chosen(attempts, metric)
    status, why = _judged(work.budget, attempts, best)
    if best is not None and best.weights is not None:
        _keep(parts, best.weights)
    made = Stage(work.net, parts.folder / WEIGHTS, best.values) if best is not None else None
    came = best.learned if best is not None else Learned()
    parts.finish(
        replace(
            _result(context, parts, work.kind, work.stages, made, best.values if best else None),
            after_convert=at_first,
            after_distil=distilled,
            iterations=came.iterations,
            loss=None if came.loss is ABSENT else came.loss,
            images_per_second=None if came.images_per_second is ABSENT else came.images_per_second,
            losses=f"{best.name}/{LOG}" if best is not None and best.name else None,
            attempts=attempt_rows(attempts, context.origin, inputs.metrics),
            budget=BudgetRow(**work.budget.model_dump()),
            metric=metric,
            per_image=best.per_image if best is not None else None,
            status=status,
            why=why or None,
        )
    )
    name = parts.folder.name
    if status == OVER or (made is None and status != ROLLED_BACK):
        raise RefusedError(
            f"{name}: {why}; give it more iterations or a larger budget in {inputs.path} and run it again"
        )
    if status == ROLLED_BACK or made is None:
        context.watcher.say(f"{name}: {why}; rolled back")
        return before
    if why:
        context.watcher.say(f"{name}: {why}; going on all the same")
    return made


def _keep(parts: Parts, weights: Path) -> None:
    """Puts the weights that count under the name that every step has for them."""

    def make(_: bool) -> dict[str, Any]:
        copy_file(weights, parts.folder / WEIGHTS)
        return {}

    parts.part("result", {"weights": file_digest(weights)}, [WEIGHTS], make)


def _judged(budget: Budget, attempts: Sequence[Attempt], best: Attempt | None) -> tuple[str, str]:
    """The status of a step, and why where it is over its budget."""
    why = attempts[-1].why if best is None else best.why
    if not why:
        return DONE, ""
    if budget.then == "rollback":
        return ROLLED_BACK, why
    return (DONE, why) if budget.then == "continue" and best is not None else (OVER, why)


def _joined(parts: Parts, net: Path, start: Path, distilled: Path) -> Path:
    """One file with the weights of the start, and over them those of the blocks that were distilled."""
    file = "distilled.caffemodel"
    of = {"net": file_digest(net), "start": file_digest(start), "distilled": file_digest(distilled)}

    def make(_: bool) -> dict[str, Any]:
        whole = load_net(net, start)
        assert whole.weights is not None
        learned = Weights.read(distilled, [layer.param for layer in whole.layers])
        for name in whole.weights:
            if name in learned:
                whole.weights.set(name, learned[name])
        with atomic_file(parts.folder / file) as out:
            save_weights(out, whole, whole.weights)
        return {}

    parts.part("distilled", of, [file], make)
    return parts.folder / file


def _skipped(context: Context, parts: Parts, before: Stage, stages: tuple[str, ...]) -> Stage:
    parts.finish(replace(_result(context, parts, "step", stages, before, before.values), status=SKIPPED))
    return before


def _deploy(context: Context, parts: Parts, before: Stage | None) -> Stage:
    """The net for the phone, and beside it what it is compared with."""
    assert before is not None
    inputs = context.inputs
    asked = inputs.schedule.deploy
    assert asked is not None
    nets = {"": before, BASE: context.origin}
    if context.merged is not None:
        nets[MERGED] = context.merged
    engine = None
    if asked.check:
        from deeprebirth_caffe.engines import engine as open_engine

        engine = open_engine("caffe", caffe=inputs.engine.caffe)
    for name, stage in nets.items():
        out = parts.folder / name
        options = DeployOptions(
            stage.net,
            stage.weights,
            out,
            batch=asked.batch,
            input_shapes=inputs.schedule.input_shapes,
            force=True,
            shared=True,
        )

        def make(_: bool, options: DeployOptions = options) -> dict[str, Any]:
            found = deploy(options, engine)
            return {"before": found.before, "after": found.after, "check": found.check}

        files = [str(Path(name) / file) for file in (DEPLOY, DEPLOY_WEIGHTS, MANIFEST)]
        of = {"batch": asked.batch, "check": asked.check, **_given(stage)}
        parts.part(name or "deploy", of, files, make)
    made = replace(before, net=parts.folder / DEPLOY, weights=parts.folder / DEPLOY_WEIGHTS)
    others = {name: _names(parts, parts.folder / name) for name in nets if name}
    parts.finish(replace(_result(context, parts, "deploy", (), made, before.values), beside=others))
    return made


def _names(parts: Parts, folder: Path) -> Deployed:
    return Deployed(net=_from_run(parts, folder / DEPLOY), weights=_from_run(parts, folder / DEPLOY_WEIGHTS))


def _time(context: Context, parts: Parts, before: Stage | None) -> Stage:
    """Times the deployed nets, in each engine and with each number of threads."""
    from deeprebirth_caffe.commands.time import time_nets
    from deeprebirth_caffe.options.time import Plan

    assert before is not None
    inputs = context.inputs
    asked = inputs.schedule.time
    assert asked is not None
    folder = before.net.parent
    places = [folder / BASE, *([folder / MERGED] if context.merged is not None else []), folder]
    nets = [(place / DEPLOY, place / DEPLOY_WEIGHTS) for place in places]
    rows = []
    for engine in asked.engines:
        for threads in asked.threads:
            options = TimingOptions(
                engine=engine,
                on=asked.on,
                plan=Plan(asked.runs, asked.iterations),
                threads=threads,
                batch=asked.batch,
                caffe=inputs.engine.caffe,
            )
            of = {
                "asked": asked.model_dump(exclude={"engines", "threads"}),
                "engine": engine,
                "threads": threads,
                "nets": [[file_digest(net), file_digest(weights)] for net, weights in nets],
            }
            file = f"{engine}-{threads}.json"

            def make(_: bool, options: TimingOptions = options, file: str = file) -> dict[str, Any]:
                total = options.plan.steps(len(nets))
                words = f"timing, {options.engine}, {options.threads} threads"
                found = time_nets(nets, options, lambda done, _: context.watcher.show(words, done, total))
                if found.interrupted:
                    raise Stopped("SIGINT")
                write_json(parts.folder / file, found)
                return {}

            parts.part(f"{engine}-{threads}", of, [file], make)
            time = read_ours(parts.folder / file, TIME_SHAPE)
            rows.append({"engine": engine, "threads": threads, "time": time})
    write_json(parts.folder / TIMES, {"version": 1, "times": rows})
    parts.finish(replace(_result(context, parts, "time", (), before, before.values), times=TIMES))
    return before


def _given(stage: Stage) -> dict[str, Any]:
    """What a part that starts from a net depends on."""
    manifest = _manifest_of(stage.net)
    # The rates that go back are in it, and the layers that become one again; the paths in it do not count.
    settled = {name: manifest[name] for name in ("lr_mult", "reparam") if manifest.get(name)}
    return {"net": file_digest(stage.net), "weights": file_digest(stage.weights), "settled": settled}


def _manifest_of(net: Path) -> dict[str, Any]:
    """The manifest of the conversion that made a net; empty where there is none."""
    found = read_ours(net.parent / MANIFEST, {"outputs?": Each(ANYTHING)})
    return found if found is not None and net.name in found.get("outputs", {}).values() else {}


def _result(
    context: Context,
    parts: Parts,
    kind: str,
    stages: tuple[str, ...],
    made: Stage | None,
    values: Figures | None,
) -> StepResult:
    """What every `result.json` says; paths inside the run's folder start there, others are absolute."""
    base, metrics = context.origin, context.inputs.metrics
    return StepResult(
        step=parts.folder.name,
        kind=kind,
        stages=stages,
        net=_from_run(parts, made.net) if made is not None else None,
        weights=_from_run(parts, made.weights) if made is not None else None,
        test=values,
        after_convert=None,
        drop=points(base.values, values, metrics) if values is not None else None,
        seconds=round(parts.seconds, 3),
        status=DONE,
    )


def _from_run(parts: Parts, path: Path) -> str:
    out = parts.folder.parent
    return path.relative_to(out).as_posix() if path.is_relative_to(out) else str(path)


def result_of(folder: Path) -> StepResult | None:
    """What a step's `result.json` says; None where it has none."""
    found = read_ours(folder / RESULT, RESULT_SHAPE)
    if found is None:
        return None
    nothing = dict.fromkeys(("net", "weights", "test", "after_convert", "drop", "seconds"))
    known = {name: found[name] for name in READ if found.get(name) is not None}
    return StepResult(**{"step": folder.name, "kind": "", "stages": (), **nothing, **known})


def results_of(folders: Sequence[Path]) -> list[StepResult | None]:
    """What the steps of a run say of themselves, as far as it counts; None for a step of which nothing does.

    Behind a step without a result, or one that ended the run, results are those of an earlier sitting: what they rest
    on is being made anew.

    Args:
        folders: of all steps, in order.

    Raises:
        RebirthError: a result cannot be read.
    """
    found: list[StepResult | None] = []
    past = False
    for folder in folders:
        result = None if past else result_of(folder)
        past = past or result is None or result.status == OVER
        found.append(result)
    return found


def stage_of(out: Path, result: StepResult) -> Stage:
    """The net that a finished step left.

    Raises:
        RebirthError: its files are not there any more.
    """
    if result.net is None or result.weights is None:
        raise RebirthError(f"{out / RESULT}: it names no net; run step {result.step} again")
    made = Stage(out / result.net, out / result.weights, result.test or {})
    for path in (made.net, made.weights):
        if not path.is_file():
            raise RebirthError(f"{path}: this is gone, and step {result.step} left it; run from there again")
    return made
