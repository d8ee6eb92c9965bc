"""`rebirth plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deeprebirth_caffe.cli.help import Command
from deeprebirth_caffe.cli.options import (
    COUNT,
    FILE,
    POSITIVE,
    Number,
    calibrate_options,
    calibration,
    chosen_engine,
    engine_options,
    json_option,
    print_json,
    replace_option,
    shapes_option,
)
from deeprebirth_caffe.cli.time import ENGINES
from deeprebirth_caffe.commands.defaults import REFIT_SAMPLES


@click.command("plan", cls=Command)
@click.argument("net", type=FILE)
@click.option("-w", "--weights", type=FILE, required=True, help="Learned weights.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, metavar="FILE", help="The schedule to write (YAML)."
)
@click.option(
    "--recipe",
    type=click.Choice(["paper", "best"]),
    default="best",
    show_default=True,
    help="How steps relearn: as in the paper, or the best way known.",
)
@click.option("--solver", type=FILE, help="A solver that lends what the schedule does not say.")
@click.option("--only", multiple=True, metavar="STAGE", help="Only this stage (name, glob or block); may be repeated.")
@click.option("--skip", multiple=True, metavar="STAGE", help="Not this stage; may be repeated.")
@click.option("--no-pass", "skip_passes", multiple=True, metavar="PASS", help="Leave one pass out; may be repeated.")
@click.option("--epochs", type=POSITIVE, help="Of each step. [default: 2, as the paper says]")
@click.option("--max-iter", "iterations", type=COUNT, help="Iterations of each step, in place of --epochs.")
@click.option(
    "--tucker/--no-tucker",
    default=None,
    help="Whether Tucker comes at the end. [default: yes, and no with --target]",
)
@click.option("--metric", help="What budgets go by: top1, top5 or an output. [default: top5; top1 with few classes]")
@calibrate_options(REFIT_SAMPLES, "Images for the refit [default: own]")
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="KIND=X",
    help="speedup=3: so many times as fast; accuracy=0.4: points lost at most. Once, or one of each.",
)
@click.option(
    "--on", default="local", show_default=True, metavar="WHERE", help="Where --target times: as rebirth time --on."
)
@click.option(
    "--time-with", type=click.Choice(ENGINES), default="caffe", show_default=True, help="What runs the nets then."
)
@click.option(
    "--time-threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="Its threads, for --target."
)
@click.option("--runs", type=click.IntRange(1, 10**5), default=10, show_default=True, help="Turns of each net.")
@click.option(
    "--iterations", "passes", type=click.IntRange(1, 10**6), default=50, show_default=True, help="Its passes."
)
@click.option("--test-batches", type=click.IntRange(0), default=0, help="Of each test. [default: each record once]")
@click.option(
    "--recovery",
    type=Number(0, 1),
    default=0.8,
    show_default=True,
    help="For accuracy: what part of the points lost at first relearning is expected to bring back.",
)
@click.option("--nearest", is_flag=True, help="Where --target cannot be met, write what comes nearest (exit code 3).")
@shapes_option
@engine_options
@json_option
@replace_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    targets: tuple[str, ...],
    on: str,
    time_with: str,
    time_threads: int,
    runs: int,
    passes: int,
    test_batches: int,
    engine: str,
    device: str | None,
    precision: str | None,
    threads: int | None,
    caffe: str | None,
    as_json: bool,
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...],
    **rest: Any,
) -> None:
    """Write a schedule for `rebirth run`: NET merged stage by stage from the bottom to the top, as in the paper.

    NET is the net that trains. With --target only those merges are taken that pay, best first, until the target is met:
    stages are timed, and every candidate is refitted to see how far it throws the net off. The file is for people to
    read and edit.
    """
    from deeprebirth_caffe.bench.protocol import Plan
    from deeprebirth_caffe.cli.data_progress import shown_progress
    from deeprebirth_caffe.cli.progress import note
    from deeprebirth_caffe.commands.convert import PASS_NAMES
    from deeprebirth_caffe.commands.time import TimeOptions
    from deeprebirth_caffe.runs.planning.options import PlanOptions
    from deeprebirth_caffe.runs.planning.plan import plan
    from deeprebirth_caffe.runs.planning.target import parse_targets

    if rest["epochs"] is not None and rest["iterations"] is not None:
        raise click.UsageError("--epochs and --max-iter exclude each other")
    for name in rest["skip_passes"]:
        if name not in PASS_NAMES:
            raise click.UsageError(f"--no-pass: there is no pass {name!r}; there are {', '.join(PASS_NAMES)}")
    timing = TimeOptions([], time_with, on, Plan(runs, passes), time_threads, caffe=caffe)
    running = chosen_engine(engine, device, precision, threads, caffe)
    rest["calibrate"] = rest["calibrate"] or "own"
    images = calibration(rest, running)
    assert images is not None, "it has a source"
    options = PlanOptions(
        timing=timing,
        engine=running,
        calibrate=images.source,
        samples=images.samples,
        pictures=images.pictures,
        input_shapes=dict(input_shapes),
        target=parse_targets(targets),
        test_iterations=test_batches,
        **rest,
    )
    with shown_progress() as show:
        result = plan(options, note, show)
    if as_json:
        print_json(result)
    else:
        _show(result)
    if result["target"] is not None and result["target"]["unmet"] is not None:
        from deeprebirth_caffe.cli.text import printable

        click.echo(printable(f"error: {result['target']['unmet']}"), err=True)
        ctx.exit(3)


def _show(result: dict[str, Any]) -> None:
    from deeprebirth_caffe.cli.layout import print_columns
    from deeprebirth_caffe.cli.show import say_next
    from deeprebirth_caffe.cli.text import printable

    schedule, run = result["schedule"], result["run"]
    result = printable(result)
    for text in result["notes"]:
        click.echo(f"note: {text}")
    rows = [("step", "stages", "passes", "multiply-adds")]
    for step in result["steps"]:
        stages = step["stages"]
        names = ", ".join(one["stage"] for one in stages)
        passes = dict.fromkeys(name for one in stages for name in one["passes"])
        rows.append((step["name"], names, ", ".join(passes), _macs(stages)))
    print_columns(rows, left=3)
    target = result["target"]
    if target is not None:
        lost = target["expected_points"]
        expected = "" if lost is None else f", {lost:.2f} points of {result['metric']} expected to be lost"
        click.echo(f"{target['reached_speedup']:.2f} times as fast ({target['engine']}, {target['on']}){expected}")
    click.echo(f"wrote {result['schedule']}")
    if schedule != "-":
        say_next(*run[1:])


def _macs(stages: list[dict[str, Any]]) -> str:
    before = [one["macs_before"] for one in stages]
    after = [one["macs_after"] for one in stages]
    if None in before or None in after or not sum(before):
        return "?"
    return f"{sum(after) / sum(before):.2f}x"
