"""Pages that need nothing else: one style, light and dark, wide and narrow; tables and bars. No script, no request."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape

from deeprebirth_caffe.bench.breakdown import Group
from deeprebirth_caffe.wording import ms, shown

NAMES, BARS, NUMBERS, LINE = 200, 360, 80, 20
"""Widths of a plot's columns and the height of a row, in pixels."""
SHORT = 26
"""Letters of a name that fit beside a bar."""
NUMBER = re.compile(r"-?\d|-?$|unknown$")
STYLE = (
    ":root{color-scheme:light dark;--tensor:#1f6f8b;--other:#e6a756}"
    "@media(prefers-color-scheme:dark){:root{--tensor:#4fa8c7;--other:#d9973f}}"
    "body{font:14px/1.45 sans-serif;margin:2em auto;padding:0 2em;max-width:76em}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}svg{max-width:100%;height:auto}"
    "td,th{padding:.2em .7em;text-align:left;border-bottom:1px solid #8886;vertical-align:top}"
    "td:first-child,th:first-child{padding-left:0}.right{text-align:right}td.right{white-space:nowrap}"
    "h1,h2,h3,p,li,summary{overflow-wrap:anywhere}h2{margin-top:1.6em}h3{margin:1.2em 0 .4em}"
    "text{font:12px sans-serif;fill:currentColor}.tensor{fill:var(--tensor)}.other{fill:var(--other)}"
    ".key span{margin-right:.3em}"
    "@media(max-width:40em){body{margin:1em auto;padding:0 1em}text{font-size:16px}}"
)
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What a browser may load for a page: nothing, not even an icon."""


def document(title: str, body: Sequence[str], style: str = "") -> str:
    """A whole page; letters that nobody sees, or that turn the writing direction, are spelled out in it.

    Args:
        title: as plain text.
        body: HTML.
        style: CSS that comes behind the shared one.
    """
    head = (
        '<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="generator" content="rebirth"><title>{escape(title)}</title>'
        f"<style>{STYLE}{style}</style></head><body>"
    )
    return shown("\n".join(["<!DOCTYPE html>", head, *body, "</body></html>", ""]))


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table; the first row is its head. Columns of numbers stand to the right."""
    sides = [' class="right"' if right else "" for right in numeric(rows)]
    lines = []
    for number, row in enumerate(rows):
        cell = "td" if number else "th"
        lines.append(
            "<tr>" + "".join(f"<{cell}{side}>{escape(text)}</{cell}>" for text, side in zip(row, sides)) + "</tr>"
        )
    return "<table>" + "".join(lines) + "</table>"


def numeric(rows: Sequence[Sequence[str]]) -> list[bool]:
    """Of each column of a table whether it holds numbers (with their units), as far as it holds anything."""
    return [all(NUMBER.match(row[column]) for row in rows[1:]) for column in range(len(rows[0]))]


def bars(groups: Mapping[str, Group], longest: float | None = None) -> str:
    """A plot of times: a bar a row, its tensor layers first.

    Args:
        groups: by name, in their order.
        longest: the time of a bar of full length; None for the longest of these.
    """
    top = longest or max((group.ms for group in groups.values()), default=0.0) or 1.0
    width, height = NAMES + BARS + NUMBERS, LINE * len(groups)
    marks = [svg(width, height)]
    for number, (name, group) in enumerate(groups.items()):
        y = LINE * number
        tensor, other = (BARS * part / top for part in (group.tensor_ms, group.other_ms))
        base = y + LINE - 5
        marks.append(
            f'<text x="{NAMES - 8}" y="{base}" text-anchor="end">{escape(short(name))}<title>{escape(name)}</title>'
            f"</text>"
            f'<rect class="tensor" x="{NAMES}" y="{y + 2}" width="{tensor:.2f}" height="{LINE - 4}"/>'
            f'<rect class="other" x="{NAMES + tensor:.2f}" y="{y + 2}" width="{other:.2f}" height="{LINE - 4}"/>'
            f'<text x="{NAMES + tensor + other + 6:.2f}" y="{base}">{ms(group.ms)} ms</text>'
        )
    return "".join([*marks, "</svg>"])


KEY = (
    '<p class="key"><span style="color:var(--tensor)">&#9632;</span>tensor layers '
    '<span style="color:var(--other)">&#9632;</span>the others</p>'
)
"""What the colours of `bars` mean."""


def svg(width: float, height: float) -> str:
    """The opening tag of a picture."""
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'


def short(name: str, limit: int = SHORT) -> str:
    """A name cut to fit: its end tells names of one kind apart."""
    return name if len(name) <= limit else "…" + name[1 - limit :]


def spelled(value: object) -> str:
    """A fact of a machine in words."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "unknown" if value is None else str(value)
