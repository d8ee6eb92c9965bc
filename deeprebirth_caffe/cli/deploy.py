"""`rebirth deploy`."""

from __future__ import annotations

from pathlib import Path

import click

from deeprebirth_caffe.cli.help import Command
from deeprebirth_caffe.cli.options import (
    FILE,
    FOLDER,
    MAX_INT,
    NET,
    caffe_engine,
    caffe_option,
    fixed_size_option,
    force_option,
    json_option,
    print_json,
    shapes_option,
)


@click.command("deploy", cls=Command)
@click.argument("net", type=NET)
@click.option("-w", "--weights", type=FILE, required=True, help="The learned weights.")
@click.option("-o", "--out", type=FOLDER, required=True, help="Output directory.")
@click.option(
    "--batch", type=click.IntRange(1, MAX_INT), help="Images of a pass. [default: 1; where NET has inputs, its own]"
)
@click.option("--no-pass", "skip_passes", multiple=True, metavar="PASS", help="Leave one pass out; may be repeated.")
@fixed_size_option
@shapes_option
@click.option("--check", is_flag=True, help="Compare the net before and after in real Caffe.")
@caffe_option
@json_option
@force_option
def command(
    net: Path,
    weights: Path,
    out: Path,
    batch: int | None,
    skip_passes: tuple[str, ...],
    fixed_size: bool,
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...],
    check: bool,
    caffe: str | None,
    as_json: bool,
    force: bool,
) -> None:
    """Strip training layers and auxiliary heads from NET and fold what can be: deploy.prototxt and deploy.caffemodel.

    All rewrites are exact (docs/exact.md).
    """
    from deeprebirth_caffe.commands.deploy import DeployOptions, deploy
    from deeprebirth_caffe.nets.exactness import EXACT_NAMES

    for name in skip_passes:
        if name not in EXACT_NAMES:
            raise click.UsageError(f"--no-pass: there is no pass {name!r}; there are {', '.join(EXACT_NAMES)}")
    options = DeployOptions(net, weights, out, dict(input_shapes), batch, skip_passes, fixed_size, force)
    manifest = deploy(options, caffe_engine(caffe) if check else None)
    if as_json:
        print_json(manifest)
    else:
        from deeprebirth_caffe.cli.show import show_conversion

        show_conversion(manifest)
