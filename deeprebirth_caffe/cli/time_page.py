"""A result of `rebirth time` as one page that needs nothing else: figures, and a plot of where the time goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from deeprebirth_caffe.bench.breakdown import Group, grouped
from deeprebirth_caffe.cli.show import mib
from deeprebirth_caffe.cli.show_time import ms, ratio_line
from deeprebirth_caffe.cli.text import printable

TENSOR, OTHER = "#1f6f8b", "#e6a756"
NAMES, BARS, NUMBERS, LINE = 240, 560, 90, 18
"""Widths of a plot's columns and the height of a row, in pixels."""
STYLE = (
    ":root{color-scheme:light dark}body{font:14px/1.4 sans-serif;margin:2em;max-width:70em}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}svg{max-width:100%;height:auto}"
    "td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #8886}h2,p{overflow-wrap:anywhere}"
    "td:first-child,th:first-child{text-align:left}text{font:12px sans-serif;fill:currentColor}h2{margin-top:1.6em}"
    "@media(max-width:40em){body{margin:1em}text{font-size:14px}}"
)


def page(result: Mapping[str, Any], by: str) -> str:
    """The text of the page.

    Args:
        result: of `time_nets`.
        by: "layer", "type" or "stage": what a bar stands for.
    """
    result = printable(result)
    nets = result["nets"]
    tables = [grouped(net["layers"], by) for net in nets]
    longest = max((group.ms for table in tables for group in table.values()), default=0.0)
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><title>rebirth time</title>',
        f"<style>{STYLE}</style></head><body>",
        "<h1>Time of a forward pass</h1>",
        _table(_figures(nets)),
        *(f"<p>{escape(ratio_line(ratio))}</p>" for ratio in result["ratios"]),
        "<h2>Tensor layers and the others</h2>",
        _plot({net["net"]: _whole(table) for net, table in zip(nets, tables, strict=True) if table}),
        f'<p><span style="color:{TENSOR}">&#9632;</span> tensor layers '
        f'<span style="color:{OTHER}">&#9632;</span> the others</p>',
    ]
    for net, table in zip(nets, tables, strict=True):
        parts.append(f"<h2>{escape(net['net'])} by {escape(by)}</h2>")
        parts.append(_plot(table, longest) if table else "<p>This engine does not say.</p>")
    machine = result["machine"]
    parts.append("<h2>Machine</h2>")
    parts.append(
        _table([("", ""), *((key, _value(value)) for key, value in machine.items() if not isinstance(value, dict))])
    )
    parts += [f"<p>{escape(text)}</p>" for text in _remarks(result)]
    return "\n".join([*parts, "</body></html>", ""])


def _figures(nets: Sequence[Mapping[str, Any]]) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [
        ("net", "engine", "batch", "best run ms", "median ms", "p10", "p90", "peak memory", "blobs", "parameters")
    ]
    for net in nets:
        times = (ms(net[key]) for key in ("best_ms", "median_ms", "p10_ms", "p90_ms"))
        sizes = (mib(net[key]) for key in ("peak_rss_bytes", "blob_bytes", "param_bytes"))
        rows.append((net["net"], net["engine"], str(net["batch"]), *times, *sizes))
    return rows


def _table(rows: Sequence[Sequence[str]]) -> str:
    """The first row is the head."""
    lines = []
    for number, row in enumerate(rows):
        cell = "td" if number else "th"
        lines.append("<tr>" + "".join(f"<{cell}>{escape(text)}</{cell}>" for text in row) + "</tr>")
    return "<table>" + "".join(lines) + "</table>"


def _whole(table: Mapping[str, Group]) -> Group:
    return Group(sum(group.tensor_ms for group in table.values()), sum(group.other_ms for group in table.values()))


def _plot(table: Mapping[str, Group], longest: float | None = None) -> str:
    """A bar a row, its tensor layers first."""
    top = longest or max((group.ms for group in table.values()), default=0.0) or 1.0
    width, height = NAMES + BARS + NUMBERS, LINE * len(table)
    marks = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">']
    for number, (name, group) in enumerate(table.items()):
        y = LINE * number
        tensor, other = (BARS * part / top for part in (group.tensor_ms, group.other_ms))
        base = y + LINE - 5
        marks.append(
            f'<text x="{NAMES - 8}" y="{base}" text-anchor="end">{escape(_short(name))}<title>{escape(name)}</title>'
            f"</text>"
            f'<rect x="{NAMES}" y="{y + 2}" width="{tensor:.2f}" height="{LINE - 4}" fill="{TENSOR}"/>'
            f'<rect x="{NAMES + tensor:.2f}" y="{y + 2}" width="{other:.2f}" height="{LINE - 4}" fill="{OTHER}"/>'
            f'<text x="{NAMES + tensor + other + 6:.2f}" y="{base}">{ms(group.ms)} ms</text>'
        )
    return "".join([*marks, "</svg>"])


def _short(name: str, limit: int = 34) -> str:
    return name if len(name) <= limit else "…" + name[1 - limit :]


def _value(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "unknown" if value is None else str(value)


def _remarks(result: Mapping[str, Any]) -> list[str]:
    plan = result["protocol"]
    how = f"{plan['runs']} runs of {plan['iterations']} passes, nets in turn, each in a process of its own, phase TEST."
    notes = [f"{net['net']}: {note}" for net in result["nets"] for note in net["notes"]]
    return [how, *notes, *(f"Warning: {warning}" for warning in result["warnings"])]
