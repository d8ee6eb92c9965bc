"""Sections as one page that needs nothing else: it opens offline, light and dark, on a wide screen and on a phone."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from deeprebirth_caffe.pages.document import KEY, document, table
from deeprebirth_caffe.runs.report.graph import Panel
from deeprebirth_caffe.runs.report.sections import Block, Code, Pictures, Section, Stages, Table, Text
from deeprebirth_caffe.wording import printable

FOLDED = 16
"""A net with more changed stages than this shows them when asked."""
STYLE = (
    "td:nth-child(2),th:nth-child(2){padding-left:.4em}"
    ".row{display:flex;flex-wrap:wrap;gap:.8em 1.6em;align-items:flex-start;margin:1em 0}.row>svg{flex:0 1 auto}"
    ".line{fill:none;stroke-width:2}.tensor-line{stroke:var(--tensor)}.other-line{stroke:var(--other);"
    "stroke-dasharray:2 3}.grid{stroke:#8883}.axis{fill:none;stroke:#888}.mark{stroke:#888;stroke-dasharray:4 4}"
    "text.small{font-size:10px}.scroll{overflow-x:auto;max-width:100%}.scroll svg{max-width:none}"
    ".edge{stroke:#888;fill:none}.box rect{fill:color-mix(in srgb,Canvas 88%,#888);stroke:#888}"
    ".box text{text-anchor:middle;font-size:12px}"
    ".box text.small{font-size:10px}.gone rect{fill:Canvas;stroke:var(--other);stroke-width:2;stroke-dasharray:5 3}"
    ".new rect{stroke:var(--tensor);stroke-width:2.5;fill:color-mix(in srgb,var(--tensor) 25%,Canvas)}"
    "ol.stages{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.4em .9em}"
    "ol.stages li{border:1px solid #888;border-radius:4px;padding:.1em .6em;position:relative}"
    "ol.stages li.changed{border:2px solid var(--tensor);font-weight:bold}"
    "ol.stages li small{font-weight:normal;opacity:.8}"
    "ol.stages li:not(:last-child)::after{content:'\\2192';position:absolute;right:-.9em;font-weight:normal}"
    "pre{overflow-x:auto;background:#8881;padding:.8em;border-radius:4px}h4{margin:.2em 0;font-weight:normal}"
    ".panel{border-top:1px solid #8885;padding:.4em 0 .8em}.panel h3{margin:.3em 0}.panel .row{margin:0}"
    "@media(max-width:40em){text.small{font-size:13px}}"
)


def page(title: str, remark: str, found: Sequence[Section]) -> str:
    """The text of the page.

    Args:
        title: its heading.
        remark: a line below that.
        found: the sections.
    """
    body = [f"<h1>{_shown(title)}</h1>", f"<p>{_shown(remark)}</p>"]
    for section in found:
        body.append(f"<h2>{_shown(section.title)}</h2>")
        body += [_block(block) for block in section.blocks]
    return document(printable(title), body, STYLE)


def _shown(text: str) -> str:
    return escape(str(printable(text)))


def _block(block: Block) -> str:
    if isinstance(block, Text):
        return f"<p>{_shown(block.text)}</p>"
    if isinstance(block, Table):
        return table(printable(block.rows))
    if isinstance(block, Code):
        lines = "\n".join(_shown(line) for line in block.text.split("\n"))
        head = f"<h3>{_shown(block.title)}</h3>" if block.title else ""
        return f"{head}<pre>{lines}</pre>"
    if isinstance(block, Pictures):
        return f'<div class="row">{"".join(block.svgs)}</div>' + (KEY if block.tensor_key else "")
    return _stages(block)


def _stages(block: Stages) -> str:
    """The whole net as a row of stages, then each changed one before and after."""
    chips = [
        f'<li class="{"changed" if panel.changed else "same"}">{_shown(panel.stage)} '
        f"<small>{_layers(panel)}</small></li>"
        for panel in block.panels
    ]
    key = (
        '<p>Framed stages changed; <span style="color:var(--other)">dashed</span> boxes are gone, '
        '<span style="color:var(--tensor)">filled</span> ones are new; numbers are layers.</p>'
    )
    changed = [_panel(panel, block.passes.get(panel.stage, ())) for panel in block.panels if panel.changed]
    pictures = "".join(changed)
    if len(changed) > FOLDED:
        pictures = f"<details><summary>{len(changed)} stages before and after</summary>{pictures}</details>"
    return f'<ol class="stages">{"".join(chips)}</ol>{key}{pictures}'


def _layers(panel: Panel) -> str:
    before, after = panel.layers
    return str(before) if before == after else f"{before} to {after}"


def _panel(panel: Panel, passes: Sequence[str]) -> str:
    how = f" <small>{_shown(', '.join(passes))}</small>" if passes else ""
    sides = [
        f'<div class="scroll"><h4>{name}</h4>{picture or "<p>nothing is left</p>"}</div>'
        for name, picture in (("before", panel.before), ("after", panel.after))
    ]
    return f'<div class="panel"><h3>{_shown(panel.stage)}{how}</h3><div class="row">{"".join(sides)}</div></div>'
