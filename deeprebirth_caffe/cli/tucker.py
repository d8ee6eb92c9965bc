"""`rebirth tucker`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deeprebirth_caffe.cli.help import Command
from deeprebirth_caffe.cli.options import (
    FILE,
    FOLDER,
    NET,
    Number,
    calibrate_options,
    calibration,
    chosen_engine,
    engine_options,
    force_option,
    json_option,
    print_json,
    relearn_options,
    shapes_option,
    solver_options,
)
from deeprebirth_caffe.cli.streams import from_stdin


@click.command("tucker", cls=Command)
@click.argument("net", type=NET)
@click.option("-w", "--weights", type=FILE, required=True, help="Learned weights.")
@click.option("--solver", type=FILE, help="A solver that lends what the paper does not fix.")
@click.option("-o", "--out", type=FOLDER, help="Output directory. [default: <stem>-tucker beside the net]")
@click.option("--only", multiple=True, metavar="STAGE", help="Only this stage (name, glob or block); may be repeated.")
@click.option("--skip", multiple=True, metavar="STAGE", help="Not this stage; may be repeated.")
@click.option(
    "--ratio", type=Number(0, 1, min_open=True), help="What part of the weights of these stages is left. [default: 0.5]"
)
@click.option("--ranks", metavar="vbmf|FILE", help="Ranks by variational Bayes, or from a JSON file (docs/tucker.md).")
@calibrate_options(256, "Weigh errors by what layers read of this")
@shapes_option
@relearn_options
@engine_options
@click.option("--dry-run", is_flag=True, help="Write nothing.")
@json_option
@force_option
def command(
    net: Path,
    engine: str,
    device: str | None,
    precision: str | None,
    threads: int | None,
    caffe: str | None,
    as_json: bool,
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...],
    **rest: Any,
) -> None:
    """Decompose NET's convolutions and InnerProducts into two or three thin layers each.

    Truncated Tucker-2 and SVD, to be learned again. Writes what `rebirth convert` writes: the net under its own name,
    deploy.prototxt, solver.prototxt, init.caffemodel and manifest.json. The engine only runs with --calibrate.
    """
    from deeprebirth_caffe.commands.tucker import TuckerOptions, tucker

    if from_stdin(net) and rest["out"] is None and not rest["dry_run"]:
        raise click.UsageError("a net from standard input lies in no folder; say where the results go: -o DIR")
    options = TuckerOptions(
        net=net,
        input_shapes=dict(input_shapes),
        calibrate=calibration(rest, chosen_engine(engine, device, precision, threads, caffe)),
        solver_options=solver_options(rest),
        **rest,
    )
    result = tucker(options)
    if as_json:
        print_json(result.manifest)
    else:
        from deeprebirth_caffe.cli.show import show_conversion

        show_conversion(result.manifest, dry_run=options.dry_run, nothing="nothing to decompose")
