"""Sections as Markdown: the same tables and words as the page, without its pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from deeprebirth_caffe.pages.document import numeric
from deeprebirth_caffe.runs.report.sections import NONE, Block, Code, Pictures, Row, Section, Stages, Table, Text
from deeprebirth_caffe.wording import printable

SPECIAL = re.compile(r"([\\`*\[\]<>|~]|^#|(?<!\w)_|_(?!\w))")
"""Signs that mean something in Markdown; "_" does so at the edge of a word alone."""


def text(title: str, remark: str, found: Sequence[Section]) -> str:
    """The whole file."""
    parts = [f"# {_shown(title)}", _shown(remark)]
    for section in found:
        parts.append(f"## {_shown(section.title)}")
        parts += [part for block in section.blocks for part in _block(block)]
    return "\n\n".join(parts) + "\n"


def _shown(words: str) -> str:
    return SPECIAL.sub(r"\\\1", str(printable(words)))


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Text):
        yield _shown(block.text)
    elif isinstance(block, Table):
        yield _table(block.rows)
    elif isinstance(block, Code):
        if block.title:
            yield f"### {_shown(block.title)}"
        lines = [str(printable(line)) for line in block.text.split("\n")]
        longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
        fence = "`" * max(3, longest + 1)
        yield "\n".join([fence, *lines, fence])
    elif isinstance(block, Stages):
        yield _table(_changes(block))
    else:
        assert isinstance(block, Pictures)


def _changes(block: Stages) -> list[Row]:
    rows: list[Row] = [("stage", "layers before", "after", "passes", "gone", "new")]
    for panel in block.panels:
        if panel.changed:
            passes = ", ".join(block.passes.get(panel.stage, ())) or NONE
            sides = (", ".join(names) or NONE for names in (panel.gone, panel.new))
            rows.append((panel.stage, *map(str, panel.layers), passes, *sides))
    return rows


def _table(rows: Sequence[Row]) -> str:
    head, *body = rows
    rule = ["---:" if right else "---" for right in numeric(rows)]
    cells = [[_shown(cell) or " " for cell in head], rule, *([_shown(cell) or " " for cell in row] for row in body)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
