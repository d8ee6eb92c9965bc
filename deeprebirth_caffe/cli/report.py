"""`rebirth report`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from deeprebirth_caffe.cli.reading import command as told
from deeprebirth_caffe.cli.text import print_json
from deeprebirth_caffe.options.run import ReportOptions

if TYPE_CHECKING:
    from deeprebirth_caffe.runs.report.write import Report


@told("report", ReportOptions)
def command(options: ReportOptions, as_json: bool) -> None:
    """Write the report of a run: what `rebirth run` left in DIR, as one page and as Markdown.

    The page needs nothing else and asks nothing of anybody. A run that is not done yet has a report as well; the one
    in DIR is made anew each time.
    """
    from deeprebirth_caffe.runs.report.write import report

    result = report(options)
    if as_json:
        print_json(result)
    else:
        _show(result)


def _show(result: Report) -> None:
    from deeprebirth_caffe.cli.layout import print_columns
    from deeprebirth_caffe.cli.text import printable
    from deeprebirth_caffe.runs.report.sections import percent

    result = printable(result)
    metrics = result.metrics
    rows = [("step", *metrics, "points lost", "status")]
    for step in result.steps:
        scores = [percent(step.test[name]) if name in step.test else "-" for name in metrics]
        lost = step.lost.get(metrics[0]) if metrics else None
        rows.append((step.step, *scores, f"{lost.points:.2f}" if lost else "-", step.status))
    print_columns(rows)
    for one in result.times:
        click.echo(f"{one.how}: {one.speedup:.2f}x as fast")
    click.echo(f"wrote {', '.join(map(str, result.files))}")
