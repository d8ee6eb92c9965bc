"""`rebirth distil`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from deeprebirth_caffe.cli.reading import command as told
from deeprebirth_caffe.cli.text import print_json
from deeprebirth_caffe.options.distil import DistilOptions

if TYPE_CHECKING:
    from deeprebirth_caffe.commands.distil import Distilled


@told("distil", DistilOptions)
def command(options: DistilOptions, as_json: bool) -> None:
    """Write a net in which that of DIR, which rebirth convert wrote, learns from the original, without labels.

    Plain Caffe: both nets side by side, a EuclideanLoss for each block. Either engine trains it. Writes
    distil.prototxt, solver.prototxt, init.caffemodel and manifest.json.
    """
    from deeprebirth_caffe.commands.distil import distil

    manifest = distil(options)
    if as_json:
        print_json(manifest)
    else:
        _show(manifest)


def _show(manifest: Distilled) -> None:
    from deeprebirth_caffe.cli.show import say_next
    from deeprebirth_caffe.cli.text import printable

    shown = printable(manifest)
    for block in shown.blocks:
        of = ", ".join(block.layers) or "what the net puts out"
        click.echo(f"compared  {block.student} with {block.teacher} ({of})")
    for row in shown.left:
        click.echo(f"left      {row.layer}: {row.reason}")
    for line in shown.notes:
        click.echo(f"note: {line}")
    outputs = shown.outputs
    files = ", ".join((outputs.net, outputs.solver, outputs.weights, outputs.manifest))
    click.echo(f"wrote {outputs.directory}: {files}")
    say_next("finetune", manifest.outputs.directory / outputs.solver)
