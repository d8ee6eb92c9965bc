"""`rebirth export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deeprebirth_caffe.cli.help import Command
from deeprebirth_caffe.cli.options import (
    FILE,
    MAX_INT,
    NET,
    caffe_engine,
    caffe_option,
    json_option,
    print_json,
    replace_option,
    shapes_option,
)


@click.command("export", cls=Command)
@click.argument("net", type=NET)
@click.option("-w", "--weights", type=FILE, required=True, help="The learned weights.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The ONNX file to write.")
@click.option("--opset", type=int, help="Version of ONNX's operators. [default: 13, which every reader knows]")
@click.option("--batch", type=click.IntRange(1, MAX_INT), help="Bind the model to this batch. [default: any]")
@shapes_option
@click.option("--check", is_flag=True, help="Compare every output in ONNX Runtime with real Caffe.")
@caffe_option
@json_option
@replace_option
def command(
    net: Path,
    check: bool,
    caffe: str | None,
    as_json: bool,
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...],
    **rest: Any,
) -> None:
    """Write NET and its weights as an ONNX model that computes exactly what Caffe does.

    Of a net that trains, what `rebirth deploy` makes of it. Layers and blobs keep their names.
    """
    from deeprebirth_caffe.commands.export import ExportOptions, export

    options = ExportOptions(net, input_shapes=dict(input_shapes), **rest)
    result = export(options, caffe_engine(caffe) if check else None)
    if as_json:
        print_json(result)
        return
    from deeprebirth_caffe.cli.text import printable
    from deeprebirth_caffe.wording import mib

    result = printable(result)
    for one in result["check"] or []:
        good = click.style("checked", fg="green")
        click.echo(f"{good} {one['blob']} at batch {one['batch']}: agrees to {one['worst']:.1e}")
    for note in result["notes"]:
        click.echo(f"note: {note}")
    batch = "any batch" if result["batch"] is None else f"batch {result['batch']}"
    size = mib(result["bytes"])
    click.echo(f"wrote {result['output']}: opset {result['opset']}, {batch}, {result['nodes']} nodes, {size}")
