"""A run on the disk: `run.json`, a folder a step, and in it which parts of the step are made, of what.

A step is a script of *parts* (converting, a stretch of training, a test, ...). Each leaves files, and in `step.json`
the digest of all it depends on. Running again runs the script again; a part whose digest is the same and whose files
are there is not made again, one that was begun is told so and may go on, any other begins anew. So stopping, changing
the schedule and changing the files behind it are all the same case.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deeprebirth_caffe.formats.files import atomic_write, remove
from deeprebirth_caffe.results import to_json
from deeprebirth_caffe.runs.schedule.digests import digest
from deeprebirth_caffe.runs.schedule.lock import LOCK
from deeprebirth_caffe.runs.schedule.shapes import STEP_SHAPE, read_ours
from deeprebirth_caffe.wording import json_bytes

RUN = "run.json"
SCHEDULE = "schedule.yaml"
STEP = "step.json"
RESULT = "result.json"
UNUSED = "unused"
"""Where the folders of steps go that the schedule does not have any more."""

_HALF = re.compile(r"\..*[.-][0-9a-f]{8}\.tmp")
"""What `formats.files` calls a file or folder until it is whole."""

_FOLDER = re.compile(r"\d{2,}-(.+)")
"""What the folders of steps are called."""

Made = dict[str, Any]


class NotMade(Exception):
    """A part is not made, or of something else than it would be made of now."""


def write_json(path: Path, data: object) -> None:
    """Writes a file whole or not at all; numbers that are none become null."""
    atomic_write(path, json_bytes(data))


class Parts:
    """The folder of one step.

    Attributes:
        folder: where it is.
        seconds: how long its parts have worked, in all sittings.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], look: bool = False) -> None:
        """Args:
        folder: made if need be.
        facts: what `step.json` says of the step beside its parts.
        look: make nothing: a part that is not made raises `NotMade`.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._facts = dict(facts)
        self._parts: dict[str, dict[str, Any]] = dict((read_ours(folder / STEP, STEP_SHAPE) or {}).get("parts", {}))
        self._used: list[str] = []
        self._look = look

    @property
    def seconds(self) -> float:
        """How long the parts that count have worked, in all sittings."""
        return sum(float(self._parts[name]["seconds"]) for name in self._used)

    def part(
        self,
        name: str,
        of: Mapping[str, object],
        files: Sequence[str],
        make: Callable[[bool], object],
    ) -> Made:
        """Makes a part, unless it is made.

        Args:
            name: of the part.
            of: all that it depends on.
            files: what it leaves in the step's folder: files, and folders whole.
            make: makes it, and gives what is worth remembering; it is told whether the same was begun before, else
                nothing of `files` is there.

        Returns:
            What `make` gave, now or then.

        Raises:
            NotMade: it is not made, and is not to be.
        """
        key = digest(of)
        self._used.append(name)
        before = self._parts.get(name, {})
        same = before.get("of") == key
        if same and before.get("done") and all((self.folder / file).exists() for file in files):
            return dict(before["made"])
        if self._look:
            raise NotMade
        (self.folder / RESULT).unlink(missing_ok=True)
        going_on = same and not before.get("done")
        if not going_on:
            self._parts[name] = {"of": key, "done": False, "seconds": 0.0}
            self._write()
            for file in files:
                remove(self.folder / file)
        row = self._parts[name]
        began, earlier = time.monotonic(), float(row["seconds"])
        try:
            row["made"] = to_json(make(going_on))
            row["done"] = True
        finally:
            row["seconds"] = round(earlier + time.monotonic() - began, 3)
            self._write()
        return dict(row["made"])

    def forget(self) -> None:
        """Makes all parts begin anew."""
        self._parts = {}
        (self.folder / RESULT).unlink(missing_ok=True)
        self._write()

    def finish(self, result: object) -> None:
        """Ends the step: parts that it does not use any more go, and its result is written."""
        self._parts = {name: row for name, row in self._parts.items() if name in self._used}
        self._write()
        write_json(self.folder / RESULT, result)

    def _write(self) -> None:
        write_json(self.folder / STEP, {"version": 1, **self._facts, "parts": self._parts})


def _is_step(folder: Path) -> bool:
    """Whether a folder is a step's, and nobody else's: it has the file, or nothing yet."""
    return folder.is_dir() and ((folder / STEP).is_file() or next(folder.iterdir(), None) is None)


def is_begun(out: Path) -> bool:
    """Whether a folder is a run's: also one that was killed before it wrote what it is."""
    if (out / RUN).is_file():
        return True
    names = {one.name for one in out.iterdir() if not _HALF.fullmatch(one.name)} if out.is_dir() else set()
    return LOCK in names and names <= {LOCK, SCHEDULE}


def sweep(out: Path) -> None:
    """Removes what a killed run was writing in its folder; nobody else may work there."""
    for one in list(out.rglob(".*.tmp")):
        if _HALF.fullmatch(one.name):
            remove(one)


def arrange(out: Path, names: Sequence[str]) -> list[Path]:
    """The folders of a run's steps, in order; `NN-NAME`.

    A step that has another number than before keeps its folder, under the new number; folders of steps that are not in
    the schedule any more go to `unused`, and come back from there.
    """
    wanted = [f"{number:02}-{name}" for number, name in enumerate(names)]
    there = {one: found[1] for one in out.iterdir() if (found := _FOLDER.fullmatch(one.name)) and _is_step(one)}
    for folder, name in there.items():
        if folder.name not in wanted:
            aside = out / UNUSED / name
            aside.parent.mkdir(exist_ok=True)
            remove(aside)
            folder.rename(aside)
    for name, numbered in zip(names, wanted, strict=True):
        aside = out / UNUSED / name
        if aside.is_dir() and not (out / numbered).exists():
            aside.rename(out / numbered)
    if (out / UNUSED).is_dir() and not any((out / UNUSED).iterdir()):
        (out / UNUSED).rmdir()
    return [out / name for name in wanted]
