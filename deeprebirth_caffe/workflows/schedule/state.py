"""A run on the disk: `run.json`, a folder a step, and in it which parts of the step are made, of what.

A step is a script of *parts* (converting, a stretch of training, a test, ...). Each leaves files, and in `step.json`
the digest of all it depends on. Running again runs the script again; a part whose digest is the same and whose files
are there is not made again, one that was begun is told so and may go on, any other begins anew. So stopping, changing
the schedule and changing the files behind it are all the same case.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import atomic_write
from deeprebirth_caffe.workflows.publish import finite, json_bytes
from deeprebirth_caffe.workflows.schedule.digests import digest

RUN = "run.json"
SCHEDULE = "schedule.yaml"
STEP = "step.json"
RESULT = "result.json"
UNUSED = "unused"
"""Where the folders of steps go that the schedule does not have any more."""

_HALF = re.compile(r"\..*[.-][0-9a-f]{8}\.tmp")
"""What `formats.files` calls a file or folder until it is whole."""

Made = dict[str, Any]


def read_json(path: Path) -> dict[str, Any] | None:
    """What a file of ours holds; None where it is not there.

    Raises:
        RebirthError: it cannot be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RebirthError(
            f"{path}: cannot be read ({error}); remove it, and what it tells of is made again"
        ) from error
    if not isinstance(found, dict):
        raise RebirthError(f"{path}: is none of this program's; remove it")
    return found


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Writes a file whole or not at all; numbers that are none become null."""
    atomic_write(path, json_bytes(finite(data)))


class Parts:
    """The folder of one step.

    Attributes:
        folder: where it is.
        seconds: how long its parts have worked, in all sittings.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], behind: Sequence[Path] = ()) -> None:
        """Args:
        folder: made if need be.
        facts: what `step.json` says of the step beside its parts.
        behind: the folders of the steps behind this one: once a part is made, their results are of the past.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._facts = dict(facts)
        self._parts: dict[str, dict[str, Any]] = dict((read_json(folder / STEP) or {}).get("parts", {}))
        self._used: list[str] = []
        self._behind = behind

    @property
    def seconds(self) -> float:
        """How long the parts that count have worked, in all sittings."""
        return sum(float(self._parts[name]["seconds"]) for name in self._used)

    def part(
        self,
        name: str,
        of: Mapping[str, Any],
        files: Sequence[str],
        make: Callable[[bool], Made],
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
        """
        key = digest(of)
        self._used.append(name)
        before = self._parts.get(name, {})
        same = before.get("of") == key
        if same and before.get("done") and all((self.folder / file).exists() for file in files):
            return dict(before["made"])
        for place in (self.folder, *self._behind):
            (place / RESULT).unlink(missing_ok=True)
        going_on = same and not before.get("done")
        if not going_on:
            self._parts[name] = {"of": key, "done": False, "seconds": 0.0}
            self._write()
            for file in files:
                _remove(self.folder / file)
        row = self._parts[name]
        began, earlier = time.monotonic(), float(row["seconds"])
        try:
            row["made"] = finite(make(going_on))
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

    def finish(self, result: Mapping[str, Any]) -> None:
        """Ends the step: parts that it does not use any more go, and its result is written."""
        self._parts = {name: row for name, row in self._parts.items() if name in self._used}
        self._write()
        write_json(self.folder / RESULT, result)

    def _write(self) -> None:
        write_json(self.folder / STEP, {"version": 1, **self._facts, "parts": self._parts})


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sweep(out: Path) -> None:
    """Removes what a killed run was writing in its folder; nobody else may work there."""
    for one in list(out.rglob(".*.tmp")):
        if _HALF.fullmatch(one.name):
            _remove(one)


def arrange(out: Path, names: Sequence[str]) -> list[Path]:
    """The folders of a run's steps, in order; `NN-NAME`.

    A step that has another number than before keeps its folder, under the new number; folders of steps that are not in
    the schedule any more go to `unused`, and come back from there.

    Args:
        out: the run's folder.
        names: of the steps.
    """
    wanted = [f"{number:02}-{name}" for number, name in enumerate(names)]
    there = {one.name: one for one in out.iterdir() if one.is_dir() and one.name[:2].isdigit() and one.name[2:3] == "-"}
    for name, folder in there.items():
        if name not in wanted:
            aside = out / UNUSED / name[3:]
            aside.parent.mkdir(exist_ok=True)
            _remove(aside)
            folder.rename(aside)
    for name in wanted:
        aside = out / UNUSED / name[3:]
        if aside.is_dir() and not (out / name).exists():
            aside.rename(out / name)
    if (out / UNUSED).is_dir() and not any((out / UNUSED).iterdir()):
        (out / UNUSED).rmdir()
    return [out / name for name in wanted]
