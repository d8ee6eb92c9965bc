"""`rebirth run`."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from deeprebirth_caffe.cli.reading import command as told
from deeprebirth_caffe.cli.text import print_json
from deeprebirth_caffe.options.run import RunOptions

if TYPE_CHECKING:
    from deeprebirth_caffe.cli.data_progress import Progress
    from deeprebirth_caffe.runs.schedule.runner import RunResult
    from deeprebirth_caffe.training.listening import Listener


def print_schema(context: click.Context, _: click.Parameter, asked: bool) -> None:
    """Prints the JSON schema of schedules."""
    if asked:
        from deeprebirth_caffe.runs.schedule.files import schema

        print_json(schema())
        context.exit()


SCHEMA = click.Option(
    ["--schema"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=print_schema,
    help="Print the JSON schema of schedules, for editors, and end.",
)


@told("run", RunOptions, more=[SCHEMA])
def command(options: RunOptions, as_json: bool) -> None:
    """Merge and relearn a net step by step, as SCHEDULE (YAML; docs/run.md) says, then deploy and time it.

    Everything is checked before it starts. It can be stopped at any moment: the same command goes on where it was, and
    after a change of the schedule does again what depends on that.
    """
    from deeprebirth_caffe.runs.schedule.runner import run

    with Shown() as watcher:
        result = run(replace(options, command=("rebirth", *sys.argv[1:])), watcher)
    if as_json:
        print_json(result)
    else:
        _show(result)
    if result.stopped is not None:
        import signal

        sys.exit(128 + signal.Signals[result.stopped])


class Shown:
    """Shows a run on stderr: lines, and a bar for what takes its time.

    Attributes:
        listener: shows training.
    """

    def __init__(self) -> None:
        from deeprebirth_caffe.cli.progress import training_progress

        self.listener: Listener = training_progress()
        self._bar = ExitStack()
        self._shown: Progress | None = None

    def __enter__(self) -> Shown:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def say(self, text: str) -> None:
        """A line about what happens."""
        self.listener.say(text)

    def show(self, what: str, done: int, total: int) -> None:
        """Moves the bar of one thing, which goes when that is done: training has a bar of its own."""
        from deeprebirth_caffe.cli.data_progress import shown_progress

        if self._shown is None:
            self._shown = self._bar.enter_context(shown_progress())
        self._shown(what, done, total)
        if done >= total:
            self._bar.close()
            self._shown = None


def _show(result: RunResult) -> None:
    from deeprebirth_caffe.cli.show import say_next
    from deeprebirth_caffe.cli.status import print_steps
    from deeprebirth_caffe.cli.text import printable

    if result.status == "dry run":
        click.echo(printable(f"nothing is wrong with it: {', '.join(result.steps)}"))
        return
    print_steps([(step.step, step) for step in result.results], result.metric)
    click.echo(printable(f"{result.status}: {result.directory}"))
    say_next("report", result.directory)
