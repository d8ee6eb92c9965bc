"""`rebirth export`."""

from __future__ import annotations

import click

from deeprebirth_caffe.cli.reading import command as told
from deeprebirth_caffe.cli.text import print_json, printable
from deeprebirth_caffe.options.export import ExportOptions
from deeprebirth_caffe.wording import mib


@told("export", ExportOptions)
def command(options: ExportOptions, as_json: bool) -> None:
    """Write NET and its weights as an ONNX model that computes exactly what Caffe does.

    Of a net that trains, what `rebirth deploy` makes of it. Layers and blobs keep their names.
    """
    from deeprebirth_caffe.commands.export import export

    result = export(options)
    if as_json:
        print_json(result)
        return
    result = printable(result)
    for one in result.check or []:
        good = click.style("checked", fg="green")
        click.echo(f"{good} {one.blob} at batch {one.batch}: agrees to {one.worst:.1e}")
    for note in result.notes:
        click.echo(f"note: {note}")
    batch = "any batch" if result.batch is None else f"batch {result.batch}"
    size = mib(result.bytes)
    click.echo(f"wrote {result.output}: opset {result.opset}, {batch}, {result.nodes} nodes, {size}")
