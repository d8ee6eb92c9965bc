"""`rebirth run`: a schedule from its first step to its last, in a folder that remembers how far it is."""

from __future__ import annotations

import os
import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeprebirth_caffe import __version__
from deeprebirth_caffe.bench import machine
from deeprebirth_caffe.engines.caffe import python_layers
from deeprebirth_caffe.errors import RebirthError, RefusedError, UsageError
from deeprebirth_caffe.formats.files import atomic_write, check_directory, read_regular
from deeprebirth_caffe.options.run import RunOptions
from deeprebirth_caffe.results import Figures, Result, common
from deeprebirth_caffe.runs.schedule.checks import check
from deeprebirth_caffe.runs.schedule.context import Context, Inputs, Stage, Watcher, inside, read_inputs
from deeprebirth_caffe.runs.schedule.files import read_schedule
from deeprebirth_caffe.runs.schedule.learning import Stopped
from deeprebirth_caffe.runs.schedule.lock import locked
from deeprebirth_caffe.runs.schedule.shapes import RUN_SHAPE, read_ours
from deeprebirth_caffe.runs.schedule.state import (
    RESULT,
    RUN,
    SCHEDULE,
    NotMade,
    Parts,
    arrange,
    is_begun,
    sweep,
    write_json,
)
from deeprebirth_caffe.runs.schedule.steps import (
    DONE,
    SKIPPED,
    Task,
    result_of,
    results_of,
    stage_of,
    tasks_of,
)
from deeprebirth_caffe.training.listening import Silence

if TYPE_CHECKING:
    from deeprebirth_caffe.runs.schedule.model import Schedule

LOCAL = "local"
"""The place that needs no word."""


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """A step that is done; see `run: result.json`.

    Attributes:
        step: its folder.
    """

    step: str
    kind: str
    stages: Sequence[str]
    status: str
    net: str | None
    weights: str | None
    test: Figures | None
    drop: Mapping[str, float] | None
    iterations: int
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class RunResult(Result):
    """What a run came to.

    Attributes:
        directory: the run's folder.
        status: `"done"`; `"partial"` where `--until` ended it; `"stopped"` by a signal; `"dry run"`.
        stopped: the signal (`"SIGINT"`, `"SIGTERM"`).
        metric: what budgets and tables go by.
        steps: names, in order.
        results: of the steps that are done; see `run: result.json`.
    """

    directory: Path
    status: str
    stopped: str | None
    metric: str
    steps: Sequence[str]
    results: Sequence[StepRow]


def run(options: RunOptions, watcher: Watcher) -> RunResult:
    """Runs a schedule, or goes on with it.

    Raises:
        RebirthError: something is missing or does not fit, which is found before anything runs wherever it can be; or a
            step fails.
        RefusedError: a step loses more than its budget allows.
    """
    given = {"net": options.net, "weights": options.weights, "solver": options.solver}
    schedule = read_schedule(options.schedule, {key: path for key, path in given.items() if path is not None})
    schedule = _with_users_word(schedule, options)
    tasks = tasks_of(schedule)
    names = [task.name for task in tasks]
    first = _position(names, options.first, "--from")
    last = _position(names, options.last, "--until") if options.last is not None else len(names) - 1
    if last < first:
        raise UsageError(f"--until {options.last} comes before --from {options.first}")
    out = Path(os.path.abspath(options.directory))  # noqa: PTH100 - links as they are
    if not is_begun(out):
        check_directory(out, options.force)
    inputs = read_inputs(schedule, options.schedule)
    _check_places(inputs, out, len(tasks))
    with inside(inputs.root):
        check(inputs)
        if options.dry_run:
            return _outcome(out, inputs, tasks, "dry run", None, [])
        out.mkdir(parents=True, exist_ok=True)
        with locked(out):
            return _run(options, inputs, tasks, out, first, last, watcher)


def _with_users_word(schedule: Schedule, options: RunOptions) -> Schedule:
    """The schedule with the program and the place that the user names.

    A schedule may come from somebody else: what it names is neither started nor connected to.

    Raises:
        UsageError: it names a program or a device, and the command line does not.
    """
    where = options.schedule
    if schedule.engine.caffe is not None and options.caffe is None:
        word = shlex.join(["--caffe", schedule.engine.caffe])
        raise UsageError(
            f"{where}: engine.caffe: a schedule does not choose which program runs; look at it, then add {word}"
        )
    if schedule.time is not None and schedule.time.on != LOCAL and options.on is None:
        word = shlex.join(["--on", schedule.time.on])
        raise UsageError(
            f"{where}: time.on: a schedule does not choose what is connected to; look at it, then add {word}"
        )
    if options.on is not None and schedule.time is None:
        raise UsageError(f"--on says where nets are timed, and {where} times none; leave it out, or add `time` there")
    update: dict[str, object] = {}
    if options.caffe is not None:
        # From the current folder, as on every other command line; the schedule's paths start in its own.
        caffe = os.path.abspath(options.caffe) if Path(options.caffe).exists() else options.caffe  # noqa: PTH100
        update["engine"] = schedule.engine.model_copy(update={"caffe": caffe})
    if options.on is not None and schedule.time is not None:
        update["time"] = schedule.time.model_copy(update={"on": options.on})
    return schedule.model_copy(update=update)


def _check_places(inputs: Inputs, out: Path, steps: int) -> None:
    """Refuses a net or weights in a folder that a step of this run would replace."""
    for path in (inputs.net, inputs.weights):
        inner = path.relative_to(out).parts[:-1] if path.is_relative_to(out) else ()
        if inner and re.fullmatch(rf"0*({'|'.join(map(str, range(steps)))})-.*", inner[0]):
            raise RebirthError(
                f"{path}: this run reads it, and a step of it would replace it; choose another folder: -o"
            )


def _run(
    options: RunOptions, inputs: Inputs, tasks: Sequence[Task], out: Path, first: int, last: int, watcher: Watcher
) -> RunResult:
    sweep(out)
    folders = arrange(out, [task.name for task in tasks])
    _record(options, inputs, tasks, folders, out)
    context = Context(inputs, watcher)
    stage: Stage | None = None
    stopped: str | None = None
    if first:
        stage = _taken_over(context, tasks, folders, first, out)
    if options.first is not None:
        # All at once: stopped in the first of them, it does the others anew all the same.
        for task, folder in zip(tasks[first : last + 1], folders[first : last + 1], strict=True):
            if folder.is_dir():
                _parts(task, folder).forget()
    _drop_past(context, tasks, folders, first, stage)
    lengths = _lengths(inputs)
    if any(lengths.values()):
        watcher.say(f"{sum(lengths.values())} iterations of training in all, if no step is tried again")
    for number in range(first, last + 1):
        task, folder = tasks[number], folders[number]
        parts = _parts(task, folder)
        watcher.say(f"step {number + 1} of {len(tasks)}: {task.name}{_about(task)}")
        context.ahead = sum(lengths.get(one.name, 0) for one in tasks[number + 1 : last + 1])
        try:
            stage = task.do(context, parts, stage)
        except Stopped as stop:
            stopped = stop.signal
            watcher.say(f"stopped by {stop.signal} in {folder.name}; the same command goes on: {_again(options)}")
            break
        except RebirthError as error:
            if task.name not in str(error):
                error.within(f"step {task.name}")
            raise
        watcher.say(_said(folder, inputs.schedule.test.metric))
    rows = [StepRow(**common(found, StepRow)) for found in results_of(folders) if found is not None]
    ended = "done" if last == len(tasks) - 1 else "partial"
    return _outcome(out, inputs, tasks, ended if stopped is None else "stopped", stopped, rows)


def _lengths(inputs: Inputs) -> dict[str, int]:
    """The iterations of each step that trains, by its name."""
    schedule = inputs.schedule
    found = {
        step.name: inputs.iterations(step.distil, step.name, lent=False) + inputs.iterations(step.finetune, step.name)
        for step in schedule.steps
        if not step.skip
    }
    for name, more in (("joint", schedule.joint), ("tucker", schedule.tucker)):
        if more is not None:
            found[name] = inputs.iterations(more.finetune, name)
    return found


def _parts(task: Task, folder: Path, look: bool = False) -> Parts:
    return Parts(folder, {"step": folder.name, "kind": task.kind, "stages": list(task.stages)}, look)


def _drop_past(
    context: Context, tasks: Sequence[Task], folders: Sequence[Path], first: int, stage: Stage | None
) -> None:
    """Removes results that this schedule and its files would not give: of the first such step, and of all behind it.

    Nothing is made yet, and it may be that nothing will be for long (`--until`), but status and report read them. What
    steps have made stays, and counts again where the schedule goes back to what it was.
    """
    looking = replace(context, watcher=_Quiet())
    for number in range(first, len(tasks)):
        task, folder = tasks[number], folders[number]
        if not (folder / RESULT).is_file():
            past = number
            break
        try:
            stage = task.do(looking, _parts(task, folder, look=True), stage)
        except RefusedError:
            past = number + 1
            break
        except (NotMade, RebirthError, OSError):
            past = number
            break
    else:
        return
    for folder in folders[past:]:
        (folder / RESULT).unlink(missing_ok=True)


class _Quiet(Silence):
    """Shows nothing of a run."""

    @property
    def listener(self) -> Silence:
        """Shows nothing of training."""
        return self

    def show(self, what: str, done: int, total: int) -> None:
        """Nothing."""


def _outcome(
    out: Path, inputs: Inputs, tasks: Sequence[Task], status: str, stopped: str | None, rows: Sequence[StepRow]
) -> RunResult:
    return RunResult(
        directory=out,
        status=status,
        stopped=stopped,
        metric=inputs.schedule.test.metric,
        steps=[task.name for task in tasks],
        results=rows,
    )


def _taken_over(context: Context, tasks: Sequence[Task], folders: Sequence[Path], first: int, out: Path) -> Stage:
    """The net that the steps in front of `--from` left, as they are.

    Raises:
        RebirthError: one of them is not done.
    """
    stage: Stage | None = None
    for task, folder in zip(tasks[:first], folders[:first], strict=True):
        result = result_of(folder)
        if result is None:
            raise RebirthError(
                f"--from {tasks[first].name}: step {task.name} in front of it is not done; leave --from out"
            )
        if result.status == DONE and task.kind != "time":
            before, stage = stage, stage_of(out, result)
            if task.kind == "base":
                context.base = stage
            if task.kind == "tucker":
                context.merged = before
        elif result.status != SKIPPED and result.status != DONE and task.kind != "time":
            context.watcher.say(f"{folder.name} is {result.status}, and does not count")
    assert stage is not None, "the base comes first"
    return stage


def _record(options: RunOptions, inputs: Inputs, tasks: Sequence[Task], folders: Sequence[Path], out: Path) -> None:
    """Writes what the run is, and that it was started once more."""
    before = read_ours(out / RUN, RUN_SHAPE) or {}
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    commands = [*before.get("commands", []), {"at": now, "command": list(options.command), "rebirth": __version__}]
    atomic_write(out / SCHEDULE, read_regular(inputs.path))
    write_json(
        out / RUN,
        {
            "version": 1,
            "rebirth": __version__,
            "name": inputs.schedule.name or options.schedule.stem,
            "schedule": inputs.schedule.model_dump(mode="json"),
            "source": {"schedule": str(inputs.path), "net": str(inputs.net), "weights": str(inputs.weights)},
            "root": str(inputs.root),
            "steps": [
                {"folder": folder.name, "name": task.name, "kind": task.kind, "stages": list(task.stages)}
                for task, folder in zip(tasks, folders, strict=True)
            ],
            "metrics": list(inputs.metrics),
            "machine": machine.facts(machine.read_files(machine.FACTS)),
            "engines": _engines(inputs),
            "started": before.get("started", now),
            "commands": commands,
        },
    )


def _engines(inputs: Inputs) -> dict[str, Any]:
    """What would run the nets, with versions."""
    from deeprebirth_caffe.engines.choose import choose

    chosen = choose(inputs.engine, [inputs.train, inputs.test]).engine
    return {"python": platform.python_version(), chosen.name: dict(chosen.describe())}


def _position(names: Sequence[str], name: str | None, flag: str) -> int:
    if name is None:
        return 0
    if name not in names:
        raise UsageError(f"{flag}: this schedule has no step {name}; there is {', '.join(names)}")
    return names.index(name)


def _about(task: Task) -> str:
    return f" ({', '.join(task.stages)})" if task.stages and tuple(task.stages) != (task.name,) else ""


def _said(folder: Path, metric: str) -> str:
    """A line on how a step ended."""
    result = result_of(folder)
    assert result is not None
    value = (result.test or {}).get(metric)
    facts = [result.status]
    if isinstance(value, float):
        facts.append(f"{metric} {100 * value:.2f} %")
        lost = (result.drop or {}).get(metric)
        if lost is not None and result.kind != "base":
            facts.append(f"{0 - lost:+.2f} points against the base")
    return f"{folder.name}: {', '.join(facts)}"


def _again(options: RunOptions) -> str:
    words: list[object] = ["rebirth", "run", options.schedule]
    for flag, value in (
        ("-o", options.out),
        ("--net", options.net),
        ("-w", options.weights),
        ("--solver", options.solver),
        ("--caffe", options.caffe),
        ("--on", options.on),
        ("--until", options.last),
    ):
        if value is not None:
            words += [flag, value]
    if python_layers.allowed():
        words.append("--python-layers")
    return shlex.join(map(str, words))
