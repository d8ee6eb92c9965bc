"""`rebirth status`: how far a run is, while it runs or after it stopped."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import open_regular
from deeprebirth_caffe.formats.jsonfile import parse_json, shaped
from deeprebirth_caffe.formats.solver import read_solver
from deeprebirth_caffe.results import ABSENT, Absent, Figures, Result
from deeprebirth_caffe.runs.schedule.learning import LOG, SOLVER
from deeprebirth_caffe.runs.schedule.lock import holder, is_locked
from deeprebirth_caffe.runs.schedule.shapes import RUN_SHAPE, STEP_SHAPE, read_ours
from deeprebirth_caffe.runs.schedule.state import RUN, STEP
from deeprebirth_caffe.runs.schedule.steps import StepResult, results_of
from deeprebirth_caffe.training.runlog import LINE_SHAPE

TAIL = 1 << 16
"""How much of a log's end is read."""


@dataclass(frozen=True, kw_only=True)
class PartRow:
    """What a step is at.

    Attributes:
        iteration: iterations done; these four in a training.
        iterations: of how many.
        loss: of the last one.
    """

    name: str
    iteration: int | Absent = ABSENT
    iterations: int | Absent = ABSENT
    loss: float | Absent | None = ABSENT
    images_per_second: float | Absent | None = ABSENT


@dataclass(frozen=True, kw_only=True)
class StepStatus:
    """A step of a run.

    Attributes:
        status: as in `run: result.json`, or `"waiting"`, `"running"`, `"stopped"`.
        seconds: so far.
        part: what it is at.
    """

    folder: str
    name: str
    kind: str
    stages: Sequence[str]
    status: str = "waiting"
    test: Figures | None = None
    drop: Mapping[str, float] | None = None
    seconds: float | None = None
    part: PartRow | None = None


@dataclass(frozen=True, kw_only=True)
class RunStatus(Result):
    """How far a run is.

    Attributes:
        directory: path.
        name: of the schedule.
        running: whether a process works there now.
        by: which.
        metric: what budgets and tables go by.
        done: steps that have a result.
        steps: all of them, in order.
    """

    directory: Path
    name: str | None
    running: bool
    by: str | None
    metric: str
    done: int
    steps: Sequence[StepStatus]


def status(directory: Path) -> RunStatus:
    """What a run has done.

    Raises:
        RebirthError: there is no run.
    """
    facts = read_ours(directory / RUN, RUN_SHAPE)
    if facts is None:
        raise RebirthError(f"{directory}: there is no run here (no {RUN}); give the folder of rebirth run")
    running = is_locked(directory)
    folders = [directory / one["folder"] for one in facts["steps"]]
    results = results_of(folders)
    rows = [_row(*row, running) for row in zip(folders, facts["steps"], results, strict=True)]
    return RunStatus(
        directory=directory,
        name=facts.get("name"),
        running=running,
        by=holder(directory) if running else None,
        metric=facts.get("schedule", {}).get("test", {}).get("metric") or "",
        done=sum(row.status in ("done", "rolled back", "skipped") for row in rows),
        steps=rows,
    )


def _row(folder: Path, task: Mapping[str, Any], result: StepResult | None, running: bool) -> StepStatus:
    step = StepStatus(folder=task["folder"], name=task["name"], kind=task["kind"], stages=task["stages"])
    if result is not None:
        return replace(step, status=result.status, test=result.test, drop=result.drop, seconds=result.seconds)
    parts = (read_ours(folder / STEP, STEP_SHAPE) or {}).get("parts", {})
    if parts:
        step = replace(step, seconds=sum(float(part["seconds"]) for part in parts.values()))
    begun = [name for name, part in parts.items() if not part["done"]]
    if begun:
        part = _training(folder / begun[-1], begun[-1])
        step = replace(step, status="running" if running else "stopped", part=part)
    return step


def _training(folder: Path, name: str) -> PartRow:
    """A part that is begun: of a stretch of training how far it is."""
    try:
        solver = read_solver(folder / SOLVER).message
    except (OSError, RebirthError):
        return PartRow(name=name)
    line = _last_line(folder / LOG)
    return PartRow(
        name=name,
        iteration=line["iteration"] + 1 if line else 0,
        iterations=solver.max_iter,
        loss=line["loss"] if line and isfinite(line["loss"]) else None,
        images_per_second=line.get("images_per_second") if line else None,
    )


def _last_line(log: Path) -> dict[str, Any] | None:
    """The last whole line of a log that may be written to at this moment."""
    try:
        with open_regular(log) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            lines = file.read().split(b"\n")[:-1]
        return dict(shaped(parse_json(lines[-1]), LINE_SHAPE)) if lines else None
    except (OSError, ValueError):
        return None
