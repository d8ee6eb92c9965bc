"""`rebirth time`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deeprebirth_caffe.cli.help import Command
from deeprebirth_caffe.cli.options import (
    FILE,
    MAX_INT,
    NET,
    Number,
    caffe_option,
    json_option,
    print_json,
    shapes_option,
)
from deeprebirth_caffe.cli.streams import quiet

if TYPE_CHECKING:
    from deeprebirth_caffe.commands.time import Times

ENGINES = ("caffe", "torch", "opencv", "mnn", "onnxruntime", "ncnn")
UNITS = {"B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40, "KB": 10**3, "MB": 10**6, "GB": 10**9}


class Size(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """An amount of memory."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?) ?([A-Za-z]+)", str(value))
        if not found or found[2].upper() not in UNITS or not float(found[1]):
            self.fail(f"{value!r} is not of the form 12GiB (or MiB, GB, MB)", param, ctx)
        return int(float(found[1]) * UNITS[found[2].upper()])


class Cpus(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A list or mask of processors."""

    name = "MASK"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from deeprebirth_caffe.bench.machine import parse_cpus

        try:
            return parse_cpus(str(value)) if isinstance(value, str) else value
        except ValueError:
            self.fail(f"{value!r} is neither a list of processors like 0-3,6 nor a mask like 0x4f", param, ctx)


@click.command("time", cls=Command)
@click.argument("net", type=NET)
@click.option("-w", "--weights", type=FILE, help="NET's learned weights. [default: random ones]")
@click.option("--vs", "others", type=FILE, multiple=True, metavar="NET", help="A net to time beside it; repeatable.")
@click.option(
    "--vs-weights",
    "other_weights",
    type=FILE,
    multiple=True,
    help="Weights of each --vs, in their order: for all of them or for none.",
)
@click.option("--engine", type=click.Choice(ENGINES), default="caffe", show_default=True, help="What runs the nets.")
@click.option(
    "--on",
    default="local",
    show_default=True,
    metavar="WHERE",
    help="The place to run: local, or a device: adb[:SERIAL], ssh:[USER@]HOST[:PORT].",
)
@click.option("--iterations", type=click.IntRange(1, 10**6), default=50, show_default=True, help="Passes in a run.")
@click.option("--runs", type=click.IntRange(1, 10**5), default=10, show_default=True, help="Turns of each net.")
@click.option(
    "--warmup", type=click.IntRange(0, 10**6), default=3, show_default=True, help="Passes before a run, not counted."
)
@click.option("--threads", type=click.IntRange(1, 1024), help="Of the engine. [default: the engine's own]")
@click.option("--cpus", type=Cpus(), help="Processors to run on: a list (0-3,6) or a mask (0x4f).")
@click.option("--cooldown", type=Number(0, 3600), default=0.0, metavar="S", help="Seconds of rest before each run.")
@click.option("--batch", type=click.IntRange(1, MAX_INT), help="Images of a pass, in every net. [default: NET's own]")
@click.option(
    "--by", type=click.Choice(["layer", "type", "stage"]), default="stage", show_default=True, help="Rows to show."
)
@click.option("--fit", "fit_bytes", type=Size(), help="Find the largest batch for this much memory, e.g. 12GiB.")
@shapes_option
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), metavar="F", help="Write the layers as CSV.")
@click.option("--html", "html_file", type=click.Path(path_type=Path), metavar="F", help="Write a page with plots.")
@click.option("--force", is_flag=True, help="Replace these files if they are there.")
@caffe_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    net: Path,
    weights: Path | None,
    others: tuple[Path, ...],
    other_weights: tuple[Path, ...],
    iterations: int,
    runs: int,
    warmup: int,
    cooldown: float,
    by: str,
    csv_file: Path | None,
    html_file: Path | None,
    force: bool,
    as_json: bool,
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...],
    **rest: Any,
) -> None:
    """Time NET's forward pass on filled random input, in phase TEST, and show where the time goes.

    The paper's figure (the best of 10 runs of 50 passes) stands beside robust ones. Nets given with --vs take turns
    with NET run by run, each in a process of its own. Of a net that trains, what `rebirth deploy` makes of it is timed.
    """
    from deeprebirth_caffe.bench.protocol import Plan
    from deeprebirth_caffe.commands.time import TimeOptions, time_nets
    from deeprebirth_caffe.formats.outputs import check_output

    if other_weights and len(other_weights) != len(others):
        raise click.UsageError(f"--vs-weights is given {len(other_weights)} times for {len(others)} --vs")
    if csv_file is not None and csv_file == html_file:
        raise click.UsageError(f"--csv and --html both name {csv_file}")
    for place in (csv_file, html_file):
        if place is not None:
            check_output(place, force, (net, weights, *others, *other_weights))
    options = TimeOptions(
        [(net, weights), *zip(others, other_weights or (None,) * len(others), strict=True)],
        plan=Plan(runs, iterations, warmup, cooldown),
        input_shapes=dict(input_shapes),
        **rest,
    )
    with _Bar() as bar:
        result = time_nets(options, bar)
    if csv_file is not None:
        _write(csv_file, "csv", result, by)
    if html_file is not None:
        _write(html_file, "html", result, by)
    if as_json:
        print_json(result)
    else:
        from deeprebirth_caffe.cli.show_time import show_times

        show_times(result, by)
        for place in (csv_file, html_file):
            if place is not None:
                from deeprebirth_caffe.cli.text import printable

                click.echo(printable(f"wrote {place}"))
    if result.interrupted:
        ctx.exit(130)


def _write(path: Path, kind: str, result: Times, by: str) -> None:
    from deeprebirth_caffe.formats.outputs import write_output

    if kind == "csv":
        from deeprebirth_caffe.cli.show_time import csv_text

        write_output(path, csv_text(result))
    else:
        from deeprebirth_caffe.cli.time_page import page

        write_output(path, page(result, by))


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
