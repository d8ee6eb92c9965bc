"""Files that come with the package: the schedules of `configs/` and the pages of `docs/`.

In the repository the package holds links to those two folders. A wheel holds the files themselves.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import deeprebirth_caffe
from deeprebirth_caffe.errors import RebirthError, UsageError
from deeprebirth_caffe.formats.files import atomic_write
from deeprebirth_caffe.formats.outputs import check_output
from deeprebirth_caffe.results import HIDDEN, Result

PACKAGE = Path(deeprebirth_caffe.__file__).parent


@dataclass(frozen=True)
class Shipped:
    """A file that comes along.

    Attributes:
        name: what `rebirth config show NAME` takes: its name without the suffix.
        description: for people.
        text: all of it.
    """

    name: str
    description: str
    text: str = field(metadata=HIDDEN)


@dataclass(frozen=True, kw_only=True)
class Configs(Result):
    """What `rebirth config list` tells.

    Attributes:
        configs: the schedules that come along.
    """

    configs: Sequence[Shipped]


def configs() -> tuple[Shipped, ...]:
    """The schedules, by name. A description begins the comment at the top."""
    return tuple(Shipped(path.stem, _first_sentence(text), text) for path, text in _files("configs", ".yaml"))


def docs() -> tuple[Shipped, ...]:
    """The pages of documentation, by name. A description is the page's title."""
    return tuple(Shipped(path.stem, text.partition("\n")[0].lstrip("# "), text) for path, text in _files("docs", ".md"))


def find(files: tuple[Shipped, ...], name: str, what: str) -> Shipped:
    """The file of that name; a folder before it and its suffix may be given too.

    Args:
        files: those that there are.
        name: as the user types it: `run`, `run.md`, `docs/run.md`.
        what: what they are, for the message: "page".

    Raises:
        UsageError: there is none.
    """
    stem = Path(name).stem if name.endswith((".md", ".yaml")) else Path(name).name
    for file in files:
        if file.name == stem:
            return file
    raise UsageError(f"there is no {what} {name!r}; there are {', '.join(file.name for file in files)}")


def config_for(name: str, file: str) -> str:
    """A schedule as it is to be saved in a file of the user's.

    Args:
        name: of the schedule.
        file: its new name. The command in the comment at the top names it.

    Raises:
        UsageError: there is no such schedule.
    """
    config = find(configs(), name, "schedule")
    # The line that tells editors the schema names a path in the repository.
    text = re.sub(r"\A# yaml-language-server:.*\n", "", config.text)
    return text.replace(f"configs/{config.name}.yaml", file)


def write_config(name: str, out: Path, *, force: bool = False) -> None:
    """Writes a schedule into a file.

    Args:
        name: of the schedule.
        out: the file.
        force: replace a file that is there.

    Raises:
        UsageError: there is no such schedule.
        RebirthError: the file is there, or cannot be written.
    """
    text = config_for(name, out.name)
    check_output(out, force, ())
    atomic_write(out, text)


def _files(folder: str, suffix: str) -> list[tuple[Path, str]]:
    """The files of a folder of the package, with their texts."""
    found = sorted((PACKAGE / folder).glob(f"*{suffix}"), key=lambda path: path.stem)
    if not found:
        raise RebirthError(f"{PACKAGE / folder}: these files are missing from this installation: install rebirth anew")
    return [(path, path.read_text(encoding="utf-8")) for path in found]


def _first_sentence(text: str) -> str:
    """The first sentence of the comment at the top of a schedule, or what stands before its colon."""
    lines = [line[2:] for line in text.splitlines() if line.startswith("# ") and "yaml-language-server" not in line]
    return re.split(r"[.:]\s", " ".join(lines) + " ")[0]
