"""`rebirth report`: a run's folder in, `report.html` and `report.md` out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe import __version__
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import publish_directory
from deeprebirth_caffe.options.run import ReportOptions
from deeprebirth_caffe.results import Signed, to_json
from deeprebirth_caffe.runs.report import html, markdown
from deeprebirth_caffe.runs.report.figures import Drop, drop, metrics, pairs
from deeprebirth_caffe.runs.report.gather import Run, gather
from deeprebirth_caffe.runs.report.sections import sections

HTML, MARKDOWN = "report.html", "report.md"


@dataclass(frozen=True, kw_only=True)
class StepFigures:
    """A step in a report.

    Attributes:
        folder: its folder within the run.
        step: its name.
        status: `"done"`, `"rolled back"`, `"skipped"`, `"over budget"`, or `"not done"` where it has no result yet.
        test: what the test gave, by output; empty where the step left no net of its own.
        lost: by metric, against the net that the run began with; empty for that one.
    """

    folder: str
    step: str
    status: str
    test: Mapping[str, float]
    lost: Mapping[str, Drop]


@dataclass(frozen=True, kw_only=True)
class TimeFigures:
    """The first net and the last one, timed in turn.

    Attributes:
        how: for people: engine, threads, batch, place.
        before_ms: median of the first net.
        after_ms: median of the last net.
        speedup: how many times as fast the last one is: the median over pairs of runs, where there are some.
        low: the lower end of the 95 % interval; null where there is none.
        high: the upper end.
    """

    how: str
    before_ms: float
    after_ms: float
    speedup: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Report(Signed):
    """What `rebirth report` wrote, and the figures in it.

    Attributes:
        directory: path of the run.
        files: paths of the page and of the Markdown.
        title: what the run is called.
        metrics: the accuracies that are shown, the one that the schedule goes by first; empty while no test has run.
        steps: in their order.
        times: the first net and the last one, for each engine and number of threads.
    """

    directory: Path
    files: Sequence[Path]
    title: str
    metrics: Sequence[str]
    steps: Sequence[StepFigures]
    times: Sequence[TimeFigures]


def report(options: ReportOptions) -> Report:
    """Writes a run's report.

    Raises:
        RebirthError: it is no run's folder, a file in it cannot be read, or a report is there already.
    """
    out = options.folder if options.out is None else options.out
    theirs = out.resolve() != options.folder.resolve()
    for name in (HTML, MARKDOWN):
        if theirs and not options.force and (out / name).exists():
            raise RebirthError(f"{out / name}: this file is there already; choose another directory or add --force")
    run = gather(options.folder)
    found = sections(run)
    remark = f"A report of rebirth {__version__} on {options.folder}."
    files = {HTML: html.page(run.title, remark, found), MARKDOWN: markdown.text(run.title, remark, found)}
    publish_directory(files, out, force=True)
    return figures(run, options.folder, [out / name for name in files])


def figures(run: Run, folder: Path, files: Sequence[Path]) -> Report:
    """What a report tells of a run.

    Args:
        run: the run.
        folder: of it.
        files: that were written.
    """
    base, shown = run.base, metrics(run)
    steps = []
    for step in run.steps:
        others = shown if base is not None and step is not base else ()
        lost = {name: found for name in others if base is not None and (found := drop(base, step, name)) is not None}
        steps.append(
            StepFigures(folder=step.folder, step=step.name, status=step.status, test=to_json(step.test), lost=lost)
        )
    times = [
        TimeFigures(
            how=pair.timing.label,
            before_ms=pair.before["median_ms"],
            after_ms=pair.after["median_ms"],
            speedup=pair.speedup,
            low=pair.low,
            high=pair.high,
        )
        for pair in pairs(run)
    ]
    return Report(directory=folder, files=files, title=run.title, metrics=shown, steps=steps, times=times)
