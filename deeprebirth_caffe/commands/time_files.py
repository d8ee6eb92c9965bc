"""What `rebirth time` writes: the layers as CSV, and a page that needs nothing else, with where the time goes."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from deeprebirth_caffe.bench.breakdown import Group
from deeprebirth_caffe.bench.machine import Facts
from deeprebirth_caffe.commands.time import TimedNet, Times
from deeprebirth_caffe.formats.outputs import check_output, write_output
from deeprebirth_caffe.options.time import TimeOptions
from deeprebirth_caffe.pages.document import bars, render, spelled
from deeprebirth_caffe.results import common
from deeprebirth_caffe.wording import csv_cell, mib, ms


def check_files(options: TimeOptions) -> None:
    """Raises RebirthError where a file is there already, or is one that is read."""
    for place in (options.csv_file, options.html_file):
        if place is not None:
            check_output(place, options.force, [path for pair in options.nets for path in pair])


def write_files(options: TimeOptions, result: Times) -> None:
    """Writes the files that are asked for."""
    if options.csv_file is not None:
        write_output(options.csv_file, csv_text(result))
    if options.html_file is not None:
        write_output(options.html_file, page(result, options.by))


def csv_text(result: Times) -> str:
    """A line a layer of each net, and one for each whole pass."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("net", "engine", "layer", "type", "stage", "tensor", "forward_ms"))
    for net in result.nets:
        for layer in net.layers:
            tensor = "" if layer.tensor is None else int(layer.tensor)
            names = (str(net.net), net.engine, layer.name, layer.type, layer.stage)
            writer.writerow((*map(csv_cell, names), tensor, layer.forward_ms))
        writer.writerow((csv_cell(str(net.net)), net.engine, "", "", "", "", net.median_ms))
    return file.getvalue()


def page(result: Times, by: str) -> str:
    """The text of the page.

    Args:
        result: of `time_nets`.
        by: "layer", "type" or "stage": what a bar stands for.
    """
    tables = [(str(net.net), net.groups(by)) for net in result.nets]
    longest = max((group.ms for _, groups in tables for group in groups.values()), default=0.0)
    facts = common(result.machine, Facts)
    return render(
        "time.html",
        title="rebirth time",
        figures=_figures(result.nets),
        ratios=[ratio.line() for ratio in result.ratios],
        whole=bars({net: _whole(groups) for net, groups in tables if groups}),
        by=by,
        nets=[(net, bars(groups, longest) if groups else "") for net, groups in tables],
        machine=[("", ""), *((key, spelled(value)) for key, value in facts.items())],
        remarks=_remarks(result),
    )


def _figures(nets: Sequence[TimedNet]) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [
        (
            "net",
            "engine",
            "batch",
            "best run ms",
            "median ms",
            "p10",
            "p90",
            "peak memory",
            "memory an image",
            "parameters",
        )
    ]
    for net in nets:
        times = (ms(getattr(net, key)) for key in ("best_ms", "median_ms", "p10_ms", "p90_ms"))
        sizes = (mib(getattr(net, key)) for key in ("peak_rss_bytes", "memory_bytes", "param_bytes"))
        rows.append((str(net.net), net.engine, str(net.batch), *times, *sizes))
    return rows


def _whole(groups: Mapping[str, Group]) -> Group:
    return Group(sum(group.tensor_ms for group in groups.values()), sum(group.other_ms for group in groups.values()))


def _remarks(result: Times) -> list[str]:
    plan = result.protocol
    how = f"{plan.runs} runs of {plan.iterations} passes, nets in turn, each in a process of its own, phase TEST."
    notes = [f"{net.net}: {note}" for net in result.nets for note in net.notes]
    return [how, *notes, *(f"Warning: {warning}" for warning in result.warnings)]
