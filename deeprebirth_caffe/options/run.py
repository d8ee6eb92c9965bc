"""What `rebirth run` may be told, and the commands that look at a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.options.fields import argument, option
from deeprebirth_caffe.options.kinds import FILE, FOLDER, THERE
from deeprebirth_caffe.options.shared import caffe_option, force_option, python_layers_option


@dataclass(frozen=True)
class RunOptions:
    """What `rebirth run` is told; see its help.

    Attributes:
        command: how it was called, for the record.
    """

    schedule: Path = argument("schedule", FILE)
    out: Path | None = option(
        None, "-o", "--out", kind=FOLDER, help="The run's folder. [default: <stem>-run beside the schedule]"
    )
    net: Path | None = option(None, "--net", kind=FILE, help="The net, in place of the schedule's.")
    weights: Path | None = option(None, "-w", "--weights", kind=FILE, help="The weights, in place of the schedule's.")
    solver: Path | None = option(None, "--solver", kind=FILE, help="The solver, in place of the schedule's.")
    first: str | None = option(
        None, "--from", metavar="STEP", help="Do this step and those behind it anew; those before it stay."
    )
    last: str | None = option(None, "--until", metavar="STEP", help="Stop when this step is done.")
    on: str | None = option(
        None, "--on", metavar="WHERE", help="Where it times, in place of the schedule's time.on: as rebirth time --on."
    )
    caffe: str | None = caffe_option()
    python_layers: bool = python_layers_option()
    dry_run: bool = option(
        False, "--dry-run", help="Look through the schedule and its files; write nothing.", kw_only=True
    )
    force: bool = force_option("Run in a folder that holds other things.")
    command: Sequence[str] = ()

    @property
    def directory(self) -> Path:
        """Where the results go: -o, or a folder beside the schedule."""
        return self.out if self.out is not None else self.schedule.with_name(f"{self.schedule.stem}-run")


@dataclass(frozen=True)
class StatusOptions:
    """What `rebirth status` is told; see its help."""

    directory: Path = argument("directory", THERE)


@dataclass(frozen=True)
class ReportOptions:
    """What `rebirth report` is told; see its help."""

    folder: Path = argument("folder", THERE, metavar="DIR")
    out: Path | None = option(
        None, "-o", "--out", kind=FOLDER, help="Where to write report.html and report.md. [default: DIR]"
    )
    force: bool = force_option("Replace a report that is in --out.")
