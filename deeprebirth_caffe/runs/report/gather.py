"""Reads the folder of a run: `run.json`, and one folder a step with its result, manifests, logs and timings.

What a step has not written (yet) is simply not there; what is there and cannot be read is an error that names the file.
Nothing outside the folder is read: paths in its files only tell which step they belong to.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import read_regular, read_regular_text
from deeprebirth_caffe.formats.outputs import MANIFEST
from deeprebirth_caffe.runs.report.logs import Log, read_log
from deeprebirth_caffe.runs.schedule.shapes import (
    MANIFEST_SHAPE,
    RUN_SHAPE,
    TIMES_SHAPE,
    numbers,
    read_ours,
)
from deeprebirth_caffe.runs.schedule.state import RUN, SCHEDULE
from deeprebirth_caffe.runs.schedule.steps import BASE, CONVERTED, DONE, MERGED, TIMES, StepResult, results_of

FOLDER = re.compile(r"\d{2,}-(.+)")
"""Names of the folders of steps."""
OPEN = "not done"
"""The status of a step that has no result."""
LEARNING = ("base", "step", "joint", "tucker")
"""Kinds of steps that leave a net with an accuracy of its own."""
DEPLOYED, TIMED = "deploy", "time"
"""The other kinds."""


@dataclass(frozen=True)
class Manifest:
    """What a conversion did, and the net it made.

    Attributes:
        data: of `manifest.json`.
        folder: where it lies, and with it the nets that `outputs` names.
    """

    data: Mapping[str, Any]
    folder: Path


@dataclass(frozen=True)
class Step:
    """One step of a run.

    Attributes:
        folder: its folder's name.
        name: without the number.
        kind: one of LEARNING, DEPLOYED or TIMED.
        status: as `result.json` says (done, rolled back, skipped, over budget), or OPEN.
        stages: of the net that it is about.
        test: what the test gave at its end, by output; numbers alone, and empty where it left no net of its own.
        after_convert: likewise, of the converted net before it learned.
        after_distil: likewise, of the net with distilled blocks, where there was distillation.
        iterations: of relearning.
        seconds: of the whole step.
        attempts: how often it was relearned.
        why: why it is over its budget; empty where it is not.
        manifest: of its conversion or decomposition.
        logs: of its training.
        hits: a row an image, top-1 and top-5; None where they were not kept.
    """

    folder: str
    name: str
    kind: str
    status: str
    stages: tuple[str, ...]
    test: Mapping[str, float]
    after_convert: Mapping[str, float]
    after_distil: Mapping[str, float]
    iterations: int | None
    seconds: float | None
    attempts: int
    why: str
    manifest: Manifest | None
    logs: tuple[Log, ...]
    hits: NDArray[np.bool_] | None

    @property
    def counts(self) -> bool:
        """Whether the nets after it have what it made."""
        return self.status == DONE


@dataclass(frozen=True)
class Timing:
    """One result of `rebirth time`.

    Attributes:
        label: how it was measured, in words.
        data: as docs/json.md says.
    """

    label: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """A run's folder.

    Attributes:
        folder: where it is.
        info: of `run.json`.
        schedule: the text of the schedule; empty where it is not there.
        steps: in their order.
        timings: of all engines and numbers of threads.
    """

    folder: Path
    info: Mapping[str, Any]
    schedule: str
    steps: tuple[Step, ...]
    timings: tuple[Timing, ...]

    @property
    def base(self) -> Step | None:
        """The net that the run began with."""
        return next((step for step in self.steps if step.kind == BASE), None)

    @property
    def learned(self) -> list[Step]:
        """The steps behind the base whose nets count, in order."""
        return [step for step in self.steps if step.counts and step.test and step.kind != BASE]

    @property
    def last(self) -> Step | None:
        """The step that left the last net; the base where no step counts yet."""
        return self.learned[-1] if self.learned else self.base

    @property
    def title(self) -> str:
        """What the schedule is called, else the folder."""
        return str(self.info.get("name") or self.folder.resolve().name)

    def timed_step(self, path: str) -> Step | None:
        """The step that made a net that was timed, by its path in the folder of deployed nets; None: none is known."""
        parts = PurePath(path).parts
        # The number may have been another one when it was timed.
        places = [
            index for index, part in enumerate(parts) if (named := FOLDER.fullmatch(part)) and named[1] == DEPLOYED
        ]
        if not places:
            return None
        below = parts[places[-1] + 1 :]
        if below[0] == BASE:
            return self.base
        if below[0] == MERGED:
            merged = [step for step in self.learned if step.kind != "tucker"]
            return merged[-1] if merged else self.base
        return self.last


def gather(folder: Path) -> Run:
    """Reads a run's folder.

    Args:
        folder: what `rebirth run` was told to write to.

    Raises:
        RebirthError: it is no such folder, of another version, or a file in it cannot be read.
    """
    info = read_ours(folder / RUN, RUN_SHAPE)
    if info is None:
        raise RebirthError(f"{folder}: there is no {RUN} in it; give the folder that rebirth run wrote")
    try:
        results = results_of([folder / one["folder"] for one in info["steps"]])
        steps = tuple(_step(folder, one, result) for one, result in zip(info["steps"], results, strict=True))
        schedule = folder / SCHEDULE
        text = read_regular_text(schedule, "replace") if schedule.is_file() else ""
    except OSError as error:
        raise RebirthError(f"{error.filename}: cannot read it: {error.strerror or error}") from error
    timed = [folder / step.folder for step in steps if step.kind == TIMED and step.counts]
    timings = tuple(timing for place in timed for timing in _timings(place))
    return Run(folder, info, text, steps, timings)


def _step(root: Path, planned: Mapping[str, Any], result: StepResult | None) -> Step:
    folder, kind = root / planned["folder"], planned["kind"]
    own = result is not None and kind in LEARNING and result.status != "skipped"
    return Step(
        folder=folder.name,
        name=planned["name"],
        kind=kind,
        status=result.status if result is not None else OPEN,
        stages=tuple(planned["stages"]),
        test=numbers(result.test) if result is not None and own else {},
        after_convert=numbers(result.after_convert if result is not None else None),
        after_distil=numbers((result.after_distil or None) if result is not None else None),
        iterations=(result.iterations or None) if result is not None else None,
        seconds=result.seconds if result is not None else None,
        attempts=len(result.attempts) if result is not None else 0,
        why=(result.why or "") if result is not None else "",
        manifest=_manifest(folder / CONVERTED) if kind in ("step", "tucker") else None,
        logs=tuple(read_log(path, path.parent.relative_to(folder).as_posix()) for path in _logs(folder)),
        hits=_hits(folder, result.per_image) if result is not None and own else None,
    )


def _logs(folder: Path) -> list[Path]:
    """Of each stretch of training, in the order in which they were begun."""
    found = [path for path in folder.glob("*/*.jsonl") if path.is_file()]
    return sorted(found, key=lambda path: (not path.parent.name.startswith("distil"), path.parent.name))


def _manifest(folder: Path) -> Manifest | None:
    data = read_ours(folder / MANIFEST, MANIFEST_SHAPE)
    return None if data is None else Manifest(data, folder)


def _hits(folder: Path, named: str | None) -> NDArray[np.bool_] | None:
    """The per-image results: the file of that name, in the folder."""
    if named is None:
        return None
    path = folder / named
    if not path.is_file():
        return None
    try:
        hits = _read_npy(read_regular(path))
    except (OSError, ValueError) as error:
        raise RebirthError(f"{path}: cannot read it: {error}; remove it, and the step makes it again") from error
    if hits.ndim != 2 or hits.shape[1] != 2:
        raise RebirthError(f"{path}: of shape {hits.shape}, where each image has two numbers: top-1 and top-5")
    return np.asarray(hits != 0, np.bool_)


def _read_npy(data: bytes) -> NDArray[Any]:
    """An array of numbers as `np.save` writes it; the array is never larger than the file.

    Raises:
        ValueError: it is none.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        if dtype.kind in "biuf" and prod(shape) * dtype.itemsize == len(data) - file.tell():
            file.seek(0)
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
    except Exception as error:  # its header is an expression of Python, which fails in many ways
        raise ValueError(f"this is no array, or a damaged one ({type(error).__name__})") from error
    raise ValueError(f"this is no array, or a damaged one: it says {shape} of {dtype}")


def _timings(folder: Path) -> Iterator[Timing]:
    """What `rebirth time` said, for each engine and number of threads."""
    data = read_ours(folder / TIMES, TIMES_SHAPE) or {"times": []}
    for row in data["times"]:
        if row["time"]["nets"]:
            yield Timing(_how(row["time"]["nets"][0]), row["time"])


def _how(net: Mapping[str, Any]) -> str:
    """Engine, threads and place."""
    words = [net["engine"]]
    if net["threads"]:
        words.append(f"{net['threads']} thread{'s' if net['threads'] != 1 else ''}")
    if net["batch"] not in (None, 1):
        words.append(f"batch {net['batch']}")
    return ", ".join(words) + ("" if net["on"] == "local" else f" on {net['on']}")
