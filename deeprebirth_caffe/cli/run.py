"""`rebirth run`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deeprebirth_caffe.cli.help import Command
from deeprebirth_caffe.cli.options import FILE, FOLDER, caffe_option, json_option, print_json

if TYPE_CHECKING:
    from deeprebirth_caffe.cli.data_progress import Progress
    from deeprebirth_caffe.training.listening import Listener


SCHEMA_HELP = "Print the JSON schema of schedules, for editors, and end."


def print_schema(context: click.Context, _: click.Parameter, asked: bool) -> None:
    """Prints the JSON schema of schedules."""
    if asked:
        from deeprebirth_caffe.runs.schedule.files import schema

        print_json(schema())
        context.exit()


@click.command("run", cls=Command)
@click.argument("schedule", type=FILE)
@click.option("-o", "--out", type=FOLDER, help="The run's folder. [default: <stem>-run beside the schedule]")
@click.option("--net", type=FILE, help="In place of the schedule's net.")
@click.option("-w", "--weights", type=FILE, help="In place of its weights.")
@click.option("--solver", type=FILE, help="In place of its solver.")
@click.option("--from", "first", metavar="STEP", help="Do this step and those behind it anew; those before it stay.")
@click.option("--until", "last", metavar="STEP", help="Stop when this step is done.")
@click.option("--on", metavar="WHERE", help="Where it times, in place of the schedule's time.on: as rebirth time --on.")
@caffe_option
@click.option("--schema", is_flag=True, is_eager=True, expose_value=False, callback=print_schema, help=SCHEMA_HELP)
@click.option("--dry-run", is_flag=True, help="Look through the schedule and its files; write nothing.")
@json_option
@click.option("--force", is_flag=True, help="Run in a folder that holds other things.")
def command(schedule: Path, as_json: bool, **rest: Any) -> None:
    """Merge and relearn a net step by step, as SCHEDULE (YAML; docs/run.md) says, then deploy and time it.

    Everything is checked before it starts. It can be stopped at any moment: the same command goes on where it was, and
    after a change of the schedule does again what depends on that.
    """
    from deeprebirth_caffe.runs.schedule.runner import RunOptions, run

    options = RunOptions(schedule, command=("rebirth", *sys.argv[1:]), **rest)
    with Shown() as watcher:
        result = run(options, watcher)
    if as_json:
        print_json(result)
    else:
        _show(result)
    if result["stopped"] is not None:
        import signal

        sys.exit(128 + signal.Signals[result["stopped"]])


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


def _show(result: Mapping[str, Any]) -> None:
    from deeprebirth_caffe.cli.show import say_next
    from deeprebirth_caffe.cli.status import print_steps
    from deeprebirth_caffe.cli.text import printable

    if result["status"] == "dry run":
        click.echo(printable(f"nothing is wrong with it: {', '.join(result['steps'])}"))
        return
    print_steps(result["results"], result["metric"])
    click.echo(printable(f"{result['status']}: {result['directory']}"))
    say_next("report", result["directory"])
