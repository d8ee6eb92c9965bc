"""`rebirth plan`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from deeprebirth_caffe.cli.reading import command as told
from deeprebirth_caffe.cli.text import print_json
from deeprebirth_caffe.options.plan import PlanOptions

if TYPE_CHECKING:
    from deeprebirth_caffe.runs.planning.candidates import Merge
    from deeprebirth_caffe.runs.planning.plan import Planned


@told("plan", PlanOptions)
def command(options: PlanOptions, as_json: bool) -> None:
    """Write a schedule for `rebirth run`: NET merged stage by stage from the bottom to the top, as in the paper.

    NET is the net that trains. With --target only those merges are taken that pay, best first, until the target is met:
    stages are timed, and every candidate is refitted to see how far it throws the net off. The file is for people to
    read and edit.
    """
    from deeprebirth_caffe.cli.data_progress import shown_progress
    from deeprebirth_caffe.cli.progress import note
    from deeprebirth_caffe.runs.planning.plan import plan

    with shown_progress() as show:
        result = plan(options, note, show)
    if as_json:
        print_json(result)
    else:
        _show(result)
    if result.target is not None and result.target.unmet is not None:
        from deeprebirth_caffe.cli.text import printable

        click.echo(printable(f"error: {result.target.unmet}"), err=True)
        click.get_current_context().exit(3)


def _show(result: Planned) -> None:
    from deeprebirth_caffe.cli.layout import print_columns
    from deeprebirth_caffe.cli.show import say_next
    from deeprebirth_caffe.cli.text import printable

    schedule, run = result.schedule, result.run
    result = printable(result)
    for text in result.notes:
        click.echo(f"note: {text}")
    rows = [("step", "stages", "passes", "multiply-adds")]
    for step in result.steps:
        stages = step.stages
        names = ", ".join(one.stage for one in stages)
        passes = dict.fromkeys(name for one in stages for name in one.passes)
        rows.append((step.name, names, ", ".join(passes), _macs(stages)))
    print_columns(rows, left=3)
    target = result.target
    if target is not None:
        lost = target.expected_points
        expected = "" if lost is None else f", {lost:.2f} points of {result.metric} expected to be lost"
        click.echo(f"{target.reached_speedup:.2f} times as fast ({target.engine}, {target.on}){expected}")
    click.echo(f"wrote {result.schedule}")
    if str(schedule) != "-":
        say_next(*run[1:])


def _macs(stages: Sequence[Merge]) -> str:
    before = [one.macs_before for one in stages if one.macs_before is not None]
    after = [one.macs_after for one in stages if one.macs_after is not None]
    if not len(before) == len(after) == len(stages) or not sum(before):
        return "?"
    return f"{sum(after) / sum(before):.2f}x"
