"""`rebirth status`: how far a run is, while it runs or after it stopped."""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import open_regular
from deeprebirth_caffe.formats.jsonfile import parse_json, shaped
from deeprebirth_caffe.formats.solver import read_solver
from deeprebirth_caffe.runs.schedule.learning import LOG, SOLVER
from deeprebirth_caffe.runs.schedule.lock import holder, is_locked
from deeprebirth_caffe.runs.schedule.shapes import RUN_SHAPE, STEP_SHAPE, read_ours
from deeprebirth_caffe.runs.schedule.state import RUN, STEP
from deeprebirth_caffe.runs.schedule.steps import results_of
from deeprebirth_caffe.training.runlog import LINE_SHAPE

TAIL = 1 << 16
"""How much of a log's end is read."""


def status(directory: Path) -> dict[str, Any]:
    """What a run has done.

    Returns:
        What docs/json.md describes.

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
    return {
        "version": 1,
        "directory": str(directory),
        "name": facts.get("name"),
        "running": running,
        "by": holder(directory) if running else None,
        "metric": facts.get("schedule", {}).get("test", {}).get("metric") or "",
        "done": sum(row["status"] in ("done", "rolled back", "skipped") for row in rows),
        "steps": rows,
    }


def _row(folder: Path, task: Mapping[str, Any], result: Mapping[str, Any], running: bool) -> dict[str, Any]:
    found: dict[str, Any] = {**task, "status": "waiting", "test": None, "drop": None, "seconds": None, "part": None}
    if result:
        return {**found, **{name: result.get(name) for name in ("status", "test", "drop", "seconds")}}
    parts = (read_ours(folder / STEP, STEP_SHAPE) or {}).get("parts", {})
    if parts:
        found["seconds"] = sum(float(part["seconds"]) for part in parts.values())
    begun = [name for name, part in parts.items() if not part["done"]]
    if begun:
        found["status"] = "running" if running else "stopped"
        found["part"] = {"name": begun[-1], **_training(folder / begun[-1])}
    return found


def _training(folder: Path) -> dict[str, Any]:
    """How far a stretch of training is; empty for a part that is none."""
    try:
        solver = read_solver(folder / SOLVER).message
    except (OSError, RebirthError):
        return {}
    line = _last_line(folder / LOG)
    return {
        "iteration": line["iteration"] + 1 if line else 0,
        "iterations": solver.max_iter,
        "loss": line["loss"] if line and isfinite(line["loss"]) else None,
        "images_per_second": line.get("images_per_second") if line else None,
    }


def _last_line(log: Path) -> dict[str, Any] | None:
    """The last whole line of a log that may be written to at this moment."""
    try:
        with open_regular(log) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            lines = file.read().split(b"\n")[:-1]
        return dict(shaped(parse_json(lines[-1]), LINE_SHAPE)) if lines else None
    except (OSError, ValueError):
        return None
