"""`rebirth distil`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from deeprebirth_caffe.cli.help import Command
from deeprebirth_caffe.cli.options import (
    COUNT,
    FILE,
    FOLDER,
    POSITIVE,
    force_option,
    json_option,
    picture_options,
    pictures,
    print_json,
)
from deeprebirth_caffe.commands.defaults import DISTIL_BASE_LR, DISTIL_ITERATIONS


@click.command("distil", cls=Command)
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-w", "--weights", type=FILE, help="The converted net's start. [default: DIR/init.caffemodel]")
@click.option("--teacher", type=FILE, help="The original net. [default: as DIR/manifest.json says]")
@click.option("--teacher-weights", type=FILE, help="Its weights. [default: likewise]")
@click.option("-o", "--out", type=FOLDER, help="Output directory. [default: DIR/distil]")
@click.option("--max-iter", type=COUNT, default=DISTIL_ITERATIONS, show_default=True, help="Iterations of the solver.")
@click.option("--batch", type=COUNT, help="Batch size of the training data layers.")
@click.option("--base-lr", type=POSITIVE, default=DISTIL_BASE_LR, show_default=True, help="The solver's learning rate.")
@click.option(
    "--calibrate",
    "images",
    metavar="PICTURES",
    help="Learn from these pictures, without labels: a folder, a pattern, a list. [default: the net's own data]",
)
@picture_options
@json_option
@force_option
def command(as_json: bool, **given: Any) -> None:
    """Write a net in which that of DIR, which rebirth convert wrote, learns from the original, without labels.

    Plain Caffe: both nets side by side, a EuclideanLoss for each block. Either engine trains it. Writes
    distil.prototxt, solver.prototxt, init.caffemodel and manifest.json.
    """
    from deeprebirth_caffe.commands.distil import DistilOptions, distil

    prepared = pictures(given)
    if given["images"] is None and prepared != type(prepared)():
        raise click.UsageError("how pictures are prepared is said of --calibrate's; give it too")
    manifest = distil(DistilOptions(pictures=prepared, **given))
    if as_json:
        print_json(manifest)
    else:
        _show(manifest)


def _show(manifest: Mapping[str, Any]) -> None:
    from deeprebirth_caffe.cli.show import say_next
    from deeprebirth_caffe.cli.text import printable

    shown = printable(dict(manifest))
    for block in shown["blocks"]:
        of = ", ".join(block["layers"]) or "what the net puts out"
        click.echo(f"compared  {block['student']} with {block['teacher']} ({of})")
    for row in shown["left"]:
        click.echo(f"left      {row['layer']}: {row['reason']}")
    for line in shown["notes"]:
        click.echo(f"note: {line}")
    outputs = shown["outputs"]
    files = ", ".join(outputs[name] for name in ("net", "solver", "weights", "manifest"))
    click.echo(f"wrote {outputs['directory']}: {files}")
    say_next("finetune", Path(manifest["outputs"]["directory"]) / manifest["outputs"]["solver"])
