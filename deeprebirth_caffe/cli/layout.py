"""How lines and tables fit a terminal: words stay whole, numbers stay on one line, long names are cut in the middle.

In a pipe nothing is wrapped or cut: a row is a line, however long.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence

import click

GAP = 2
"""Columns of a table stand so far apart."""
SHORTEST = 12
"""No name is cut to less."""


def terminal_width() -> int | None:
    """Gives the columns of the terminal that stdout is; None in a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def cut(text: str, width: int) -> str:
    """Shortens a name in the middle, since names differ at both ends."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def say(text: str, *, indent: int = 8, word: str = "", colour: str | None = None) -> None:
    """Prints a line, which goes on with an indent where the terminal is too narrow.

    Args:
        text: the line.
        indent: of the lines that follow.
        word: stands in front of the text.
        colour: of the word.
    """
    width = terminal_width()
    line = f"{word} {text}" if word else text
    if width is not None:
        line = textwrap.fill(
            line, max(width, 2 * indent), subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
        )
    if word and colour is not None:
        line = click.style(word, fg=colour) + line[len(word) :]
    click.echo(line)


def print_columns(
    rows: Sequence[Sequence[str]], left: int = 1, *, spare: Sequence[int] = (), turn: bool = False
) -> None:
    """Prints a table without rules: the first `left` columns to the left, numbers to the right.

    Args:
        rows: the cells; all rows are of one length.
        left: how many columns hold words.
        spare: columns that a narrow terminal does without, the first one first.
        turn: whether a narrow terminal makes columns of the rows.
    """
    width = terminal_width()
    if width is not None and _needs(rows) > width:
        if turn:
            rows, left = list(zip(*rows)), 1
        for column in sorted(spare, reverse=True):
            if _needs(rows) > width:
                rows = [[*row[:column], *row[column + 1 :]] for row in rows]
                left -= column < left
        rows = _shortened(rows, width, range(len(rows[0])) if turn else range(left))
    widths = _widths(rows)
    for row in rows:
        cells = [
            cell.ljust(size) if column < left else cell.rjust(size)
            for column, (cell, size) in enumerate(zip(row, widths))
        ]
        click.echo((" " * GAP).join(cells).rstrip())


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows)]


def _needs(rows: Sequence[Sequence[str]]) -> int:
    widths = _widths(rows)
    return sum(widths) + GAP * (len(widths) - 1)


def _shortened(rows: Sequence[Sequence[str]], width: int, columns: Sequence[int]) -> Sequence[Sequence[str]]:
    """Takes what is too much from the widest columns of words, a letter at a time."""
    sizes = _widths(rows)
    excess = sum(sizes) + GAP * (len(sizes) - 1) - width
    while excess > 0 and columns:
        widest = max(columns, key=lambda column: sizes[column])
        if sizes[widest] <= SHORTEST:
            break
        sizes[widest] -= 1
        excess -= 1
    return [[cut(cell, size) for cell, size in zip(row, sizes)] for row in rows]
