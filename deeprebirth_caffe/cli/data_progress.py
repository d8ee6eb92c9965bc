"""How far `rebirth data` is: a bar on a terminal, now and then a line where stderr is none."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import click

from deeprebirth_caffe.cli.streams import quiet
from deeprebirth_caffe.cli.text import printable

EVERY = 5.0
"""Seconds between two lines."""

Progress = Callable[[str, int, int], None]


@contextlib.contextmanager
def shown_progress() -> Iterator[Progress]:
    """Gives what is to be called with the name of what is made, how many pictures are done, and of how many."""
    if quiet():
        yield lambda what, done, total: None
        return
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, object] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(printable(what), total=total)
            bars.update(tasks[what], completed=done)  # type: ignore[arg-type]

        yield show


class _Lines:
    """A line when something begins late enough to be worth one, and every few seconds."""

    def __init__(self) -> None:
        self._what = ""
        self._began = (0.0, 0)
        self._said = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what:
            self._what, self._began, self._said = what, (now, done), now
        if now - self._said <= EVERY:
            return
        self._said = now
        seconds, before = now - self._began[0], self._began[1]
        click.echo(printable(f"{what}: {done} of {total}, {(done - before) / seconds:.0f} a second"), err=True)
