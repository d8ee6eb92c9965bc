"""`rebirth refit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deeprebirth_caffe.cli.help import Command
from deeprebirth_caffe.cli.options import (
    FILE,
    POSITIVE,
    calibrate_options,
    calibration,
    chosen_engine,
    engine_options,
    json_option,
    print_json,
    replace_option,
)
from deeprebirth_caffe.cli.progress import note
from deeprebirth_caffe.cli.text import printable
from deeprebirth_caffe.commands.defaults import REFIT_SAMPLES


@click.command("refit", cls=Command)
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-w", "--weights", type=FILE, help="To start from. [default: DIR/init.caffemodel]")
@click.option("--teacher", type=FILE, help="The original net. [default: as DIR/manifest.json says]")
@click.option("--teacher-weights", type=FILE, help="Its weights. [default: likewise]")
@click.option(
    "-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="The model. [default: DIR/refit.caffemodel]"
)
@click.option("--only", multiple=True, metavar="STAGE", help="Only this stage (name, glob or block); may be repeated.")
@click.option("--skip", multiple=True, metavar="STAGE", help="Not this stage; may be repeated.")
@calibrate_options(REFIT_SAMPLES, "Pictures without labels")
@click.option("--ridge", type=POSITIVE, default=1e-2, show_default=True, help="How strongly weights hold their start.")
@click.option(
    "--rounds", type=click.IntRange(0, 1000), default=20, show_default=True, help="Of the fit of a layer with a ReLU."
)
@click.option(
    "--positions", type=click.IntRange(1, 1_000_000), default=64, show_default=True, help="Places an image that count."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the choice of places.")
@engine_options
@json_option
@replace_option
def command(
    engine: str,
    device: str | None,
    precision: str | None,
    threads: int | None,
    caffe: str | None,
    as_json: bool,
    **rest: Any,
) -> None:
    """Fit the rebirth layers of DIR, which rebirth convert wrote, to what the layers they replace put out.

    Least squares on unlabelled images, bottom to top, each layer on what it will really read. Writes a model to start
    relearning from.
    """
    from deeprebirth_caffe.commands.refit import RefitOptions, refit

    source = calibration(rest, chosen_engine(engine, device, precision, threads, caffe))
    if source is None:
        raise click.UsageError("a fit needs pictures; name some: --calibrate SOURCE")
    result = refit(RefitOptions(calibrate=source, **rest), note)
    if as_json:
        print_json(result)
    else:
        from deeprebirth_caffe.cli.show import say_next, show_refit

        show_refit(result.refit)
        for line in result.notes:
            click.echo(printable(f"note: {line}"))
        click.echo(printable(f"wrote {result.model}"))
        solver = rest["directory"] / "solver.prototxt"
        if solver.is_file():
            say_next("finetune", solver, "-w", result.model)
