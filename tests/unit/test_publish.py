"""What commands write: nothing in it moves a terminal's cursor or runs in a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import sys

import pytest

from deeprebirth_caffe.cli.text import Guarded, error_line, guarded
from deeprebirth_caffe.runs.report import curves
from deeprebirth_caffe.runs.report.html import page
from deeprebirth_caffe.runs.report.sections import Pictures, Section, Table
from deeprebirth_caffe.wording import clipped, csv_cell, json_bytes, printable

HOSTILE = ["\x1b]0;t\x07", "\x9b2J", "\x85", "\x7f", "\u202e", "\u2066", "\u2028", "\u00ad", "\U000e0041", "\udc9b"]


@pytest.mark.parametrize("text", HOSTILE)
def test_json_escapes_what_a_terminal_would_obey(text: str) -> None:
    written = json_bytes({text: ["é漢", text]})
    assert json.loads(written) == {text: ["é漢", text]}
    assert written.decode().replace("\n", "").isprintable()
    assert "é漢" in written.decode()


@pytest.mark.parametrize("text", HOSTILE)
def test_streams_escape_what_a_command_forgets(text: str) -> None:
    held = io.StringIO()
    Guarded(held).writelines([f"a{text}b\tc\n", "\x1b[31mred\x1b[0m é漢\n"])
    assert held.getvalue() == f"a{printable(text)}b\tc\n\x1b[31mred\x1b[0m é漢\n"


@pytest.mark.parametrize("text", HOSTILE)
def test_pages_spell_out_what_nobody_sees(text: str) -> None:
    """The text of a plot included, whoever made it."""
    plot = curves.plot([curves.Line([(0, 1), (1, 2)], f"a{text}b")], "loss", "iteration")
    written = page(text, text, [Section(text, [Pictures([plot]), Table([(text, text)])])])
    assert written.replace("\n", "").isprintable() and f"a{printable(text)}b" in written


def test_streams_are_guarded_for_a_while(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    with guarded():
        print("\x9b2J")
        assert sys.stdout.encoding == before.encoding
    assert sys.stdout is before
    assert capsys.readouterr().out == "\\x9b2J\n"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\uff1d"])
def test_no_cell_is_a_formula(start: str) -> None:
    cell = csv_cell(f"{start}cmd|' /C calc'!A0")
    assert isinstance(cell, str) and cell.startswith("'") and cell.isprintable()


@pytest.mark.parametrize(
    "cell", ["", "conv1", "-1", "+2.5", "-1.5e-07", ".5", "a=b", "é漢", "\udcff.png", 3, 0.5, None]
)
def test_other_cells_stay(cell: object) -> None:
    assert csv_cell(cell) == cell


def test_a_cell_is_one_line() -> None:
    held = io.StringIO()
    csv.writer(held).writerow([csv_cell("a\nb\x1b[2J")])
    assert held.getvalue() == "a\\nb\\x1b[2J\r\n"


def test_long_words_and_lines_are_cut_in_the_middle() -> None:
    assert clipped("a" * 400 + " b") == "a" * 400 + " b"
    said = clipped(f"layer {'n' * 100_000}: wrong; rename it")
    assert said.startswith("layer nnn") and said.endswith("nnn: wrong; rename it"[3:]) and len(said) < 500
    assert len(clipped("0 + " * 100_000)) < 4100
    assert error_line("a\nb") == "a\\nb"
