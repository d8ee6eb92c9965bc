"""`rebirth deploy`."""

from __future__ import annotations

from pathlib import Path

import click

from deeprebirth_caffe.cli.options import (
    FILE,
    FOLDER,
    MAX_INT,
    caffe_engine,
    caffe_option,
    force_option,
    json_option,
    print_json,
    shapes_option,
)


@click.command("deploy")
@click.argument("net", type=FILE)
@click.option("-w", "--weights", type=FILE, required=True, help="The learned weights.")
@click.option("-o", "--out", type=FOLDER, required=True, help="Output directory.")
@click.option("--batch", type=click.IntRange(1, MAX_INT), default=1, show_default=True, help="Of the Input layer.")
@shapes_option
@click.option("--check", is_flag=True, help="Compare the net before and after in real Caffe.")
@caffe_option
@json_option
@force_option
def command(
    net: Path,
    weights: Path,
    out: Path,
    batch: int,
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...],
    check: bool,
    caffe: str | None,
    as_json: bool,
    force: bool,
) -> None:
    """Strip training layers and auxiliary heads from NET and fold BatchNorm: deploy.prototxt and deploy.caffemodel.

    All rewrites are exact.
    """
    from deeprebirth_caffe.workflows.deploy import DeployOptions, deploy

    options = DeployOptions(net, weights, out, dict(input_shapes), batch, force)
    manifest = deploy(options, caffe_engine(caffe) if check else None)
    if as_json:
        print_json(manifest)
    else:
        from deeprebirth_caffe.cli.show import show_conversion

        show_conversion(manifest)
