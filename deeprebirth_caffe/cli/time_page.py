"""A result of `rebirth time` as one page that needs nothing else: figures, and a plot of where the time goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from deeprebirth_caffe.bench.breakdown import Group, grouped
from deeprebirth_caffe.bench.machine import Facts
from deeprebirth_caffe.cli.show_time import ratio_line
from deeprebirth_caffe.pages.document import bars, render, spelled
from deeprebirth_caffe.results import common
from deeprebirth_caffe.wording import mib, ms

if TYPE_CHECKING:
    from deeprebirth_caffe.commands.time import TimedNet, Times


def page(result: Times, by: str) -> str:
    """The text of the page.

    Args:
        result: of `time_nets`.
        by: "layer", "type" or "stage": what a bar stands for.
    """
    tables = [(str(net.net), grouped(net.layers, by)) for net in result.nets]
    longest = max((group.ms for _, groups in tables for group in groups.values()), default=0.0)
    facts = common(result.machine, Facts)
    return render(
        "time.html",
        title="rebirth time",
        figures=_figures(result.nets),
        ratios=[ratio_line(ratio) for ratio in result.ratios],
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
