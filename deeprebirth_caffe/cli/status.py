"""`rebirth status`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from deeprebirth_caffe.cli.reading import command as told
from deeprebirth_caffe.cli.text import print_json, printable
from deeprebirth_caffe.options.run import StatusOptions


@told("status", StatusOptions)
def command(options: StatusOptions, as_json: bool) -> None:
    """Say how far the run in DIRECTORY is, while it runs or after it stopped."""
    from deeprebirth_caffe.runs.schedule.status import status

    found = status(options.directory)
    if as_json:
        print_json(found)
        return
    print_steps(found["steps"], found["metric"])
    how = f"running ({found['by']})" if found["running"] else "not running"
    click.echo(printable(f"{found['done']} of {len(found['steps'])} steps done, {how}"))


def print_steps(rows: Sequence[Mapping[str, Any]], metric: str) -> None:
    """Prints a table of steps, with what budgets go by.

    Args:
        rows: of `result.json`, or of `rebirth status`.
        metric: the figure to show.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("step", "status", metric, "points", "time"):
        table.add_column(name, justify="left" if name in ("step", "status") else "right", no_wrap=name == "step")
    for row in rows:
        test, drop = row["test"] or {}, row["drop"] or {}
        value, lost = test.get(metric), drop.get(metric)
        table.add_row(
            printable(row.get("folder") or row["step"]),
            printable(row["status"] + _part(row.get("part"))),
            f"{100 * value:.2f} %" if isinstance(value, (int, float)) else "",
            f"{0 - lost:+.2f}" if lost is not None and row["kind"] != "base" else "",
            _time(row["seconds"]),
        )
    Console(markup=False, highlight=False, emoji=False).print(table)


def _part(part: Mapping[str, Any] | None) -> str:
    if part is None:
        return ""
    if "iteration" not in part:
        return f" ({part['name']})"
    loss = f", loss {part['loss']:.4g}" if part["loss"] is not None else ""
    return f" ({part['name']}: {part['iteration']} of {part['iterations']} iterations{loss})"


def _time(seconds: float | None) -> str:
    from deeprebirth_caffe.cli.progress import clock

    return clock(seconds) if seconds is not None else ""
