"""`rebirth status`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from deeprebirth_caffe.cli.reading import command as told
from deeprebirth_caffe.cli.text import print_json, printable
from deeprebirth_caffe.options.run import StatusOptions
from deeprebirth_caffe.results import ABSENT

if TYPE_CHECKING:
    from deeprebirth_caffe.runs.schedule.runner import StepRow
    from deeprebirth_caffe.runs.schedule.status import PartRow, StepStatus


@told("status", StatusOptions)
def command(options: StatusOptions, as_json: bool) -> None:
    """Say how far the run in DIRECTORY is, while it runs or after it stopped."""
    from deeprebirth_caffe.runs.schedule.status import status

    found = status(options.directory)
    if as_json:
        print_json(found)
        return
    print_steps([(step.folder, step) for step in found.steps], found.metric)
    how = f"running ({found.by})" if found.running else "not running"
    click.echo(printable(f"{found.done} of {len(found.steps)} steps done, {how}"))


def print_steps(rows: Sequence[tuple[str, StepStatus | StepRow]], metric: str) -> None:
    """Prints a table of steps, with what budgets go by.

    Args:
        rows: the folder of each, and what is known of it.
        metric: the figure to show.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("step", "status", metric, "points", "time"):
        table.add_column(name, justify="left" if name in ("step", "status") else "right", no_wrap=name == "step")
    for folder, row in rows:
        test, drop = row.test or {}, row.drop or {}
        value, lost = test.get(metric), drop.get(metric)
        table.add_row(
            printable(folder),
            printable(row.status + _part(getattr(row, "part", None))),
            f"{100 * value:.2f} %" if isinstance(value, (int, float)) else "",
            f"{0 - lost:+.2f}" if lost is not None and row.kind != "base" else "",
            _time(row.seconds),
        )
    Console(markup=False, highlight=False, emoji=False).print(table)


def _part(part: PartRow | None) -> str:
    if part is None:
        return ""
    if part.iteration is ABSENT:
        return f" ({part.name})"
    loss = f", loss {part.loss:.4g}" if isinstance(part.loss, float) else ""
    return f" ({part.name}: {part.iteration} of {part.iterations} iterations{loss})"


def _time(seconds: float | None) -> str:
    from deeprebirth_caffe.cli.progress import clock

    return clock(seconds) if seconds is not None else ""
