"""Sections as one page that needs nothing else: it opens offline, light and dark, on a wide screen and on a phone."""

from __future__ import annotations

from collections.abc import Sequence

from deeprebirth_caffe.pages.document import render
from deeprebirth_caffe.runs.report.sections import Section

FOLDED = 16
"""A net with more changed stages than this shows them when asked."""


def page(title: str, remark: str, found: Sequence[Section]) -> str:
    """The text of the page."""
    return render("report.html", title=title, remark=remark, sections=found, folded=FOLDED)
