"""`rebirth report`: a run's folder in, `report.html` and `report.md` out."""

from __future__ import annotations

from typing import Any

from deeprebirth_caffe import __version__
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import publish_directory
from deeprebirth_caffe.options.run import ReportOptions
from deeprebirth_caffe.results import to_json
from deeprebirth_caffe.runs.report import html, markdown
from deeprebirth_caffe.runs.report.figures import drop, metrics, pairs
from deeprebirth_caffe.runs.report.gather import Run, gather
from deeprebirth_caffe.runs.report.sections import sections

HTML, MARKDOWN = "report.html", "report.md"


def report(options: ReportOptions) -> dict[str, Any]:
    """Writes a run's report.

    Returns:
        The figures that docs/json.md describes.

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
    return {
        "version": 1,
        "rebirth": __version__,
        "directory": str(options.folder),
        "files": [str(out / name) for name in files],
        **_figures(run),
    }


def _figures(run: Run) -> dict[str, Any]:
    base, shown = run.base, metrics(run)
    steps = []
    for step in run.steps:
        others = shown if base is not None and step is not base else ()
        lost = {name: found for name in others if base is not None and (found := drop(base, step, name)) is not None}
        steps.append(
            {
                "folder": step.folder,
                "step": step.name,
                "status": step.status,
                "test": to_json(dict(step.test)),
                "lost": {name: {"points": one.points, "low": one.low, "high": one.high} for name, one in lost.items()},
            }
        )
    times = [
        {
            "how": pair.timing.label,
            "before_ms": pair.before["median_ms"],
            "after_ms": pair.after["median_ms"],
            "speedup": pair.speedup,
            "low": pair.low,
            "high": pair.high,
        }
        for pair in pairs(run)
    ]
    return {"title": run.title, "metrics": list(shown), "steps": steps, "times": times}
