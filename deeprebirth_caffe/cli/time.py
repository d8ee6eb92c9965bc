"""`rebirth time`."""

from __future__ import annotations

import sys

import click

from deeprebirth_caffe.cli.reading import command as told
from deeprebirth_caffe.cli.streams import quiet
from deeprebirth_caffe.cli.text import print_json, printable
from deeprebirth_caffe.options.time import TimeOptions


@told("time", TimeOptions)
def command(options: TimeOptions, as_json: bool) -> None:
    """Time NET's forward pass on filled random input, in phase TEST, and show where the time goes.

    The paper's figure (the best of 10 runs of 50 passes) stands beside robust ones. Nets given with --vs take turns
    with NET run by run, each in a process of its own. Of a net that trains, what `rebirth deploy` makes of it is timed.
    """
    from deeprebirth_caffe.commands.time import time_nets
    from deeprebirth_caffe.commands.time_files import check_files, write_files

    check_files(options)
    with _Bar() as bar:
        result = time_nets(options.nets, options.timing, bar)
    write_files(options, result)
    if as_json:
        print_json(result)
    else:
        from deeprebirth_caffe.cli.show_time import show_times

        show_times(result, options.by)
        for place in (options.csv_file, options.html_file):
            if place is not None:
                click.echo(printable(f"wrote {place}"))
    if result.interrupted:
        click.get_current_context().exit(130)


class _Bar:
    """Progress on stderr, where that is a terminal."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty() and not quiet()

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            click.echo("\r\033[K", nl=False, err=True)

    def __call__(self, done: int, total: int) -> None:
        if self._shown:
            width = 30 * done // total
            click.echo(f"\r\033[K[{'#' * width}{'.' * (30 - width)}] turn {done} of {total}", nl=False, err=True)
