"""`rebirth zoo`."""

from __future__ import annotations

from pathlib import Path

import click

from deeprebirth_caffe.cli.help import Command
from deeprebirth_caffe.cli.options import OUT, force_option, json_option, print_json


@click.command("zoo", cls=Command)
@click.argument("name")
@click.option("-o", "--out", type=OUT, help="Output directory; - prints one file. [default: NAME]")
@click.option(
    "--part",
    type=click.Choice(["train_val", "deploy", "solver"]),
    default="train_val",
    show_default=True,
    help="Which file -o - prints.",
)
@json_option
@force_option
def command(name: str, out: Path | None, part: str, as_json: bool, force: bool) -> None:
    """Write train_val.prototxt, deploy.prototxt and solver.prototxt of a known net; `rebirth zoo list` lists them."""
    from deeprebirth_caffe import zoo

    if name == "list":
        nets = [zoo.build(known) for known in zoo.names()]
        if as_json:
            print_json({"version": 1, "nets": [{"name": net.name, "description": net.description} for net in nets]})
        else:
            width = max(len(net.name) for net in nets)
            for net in nets:
                click.echo(f"{net.name:<{width}}  {net.description}")
        return
    if name not in zoo.names():
        raise click.UsageError(f"there is no net {name!r} in the zoo; there are {', '.join(zoo.names())}")
    from deeprebirth_caffe.formats.outputs import STDOUT, Place, write_output

    if out == STDOUT:
        write_output(out, zoo.build(name).files()[f"{part}.prototxt"])
        return
    directory = out if out is not None else Path(name)
    files = zoo.build(name).files()
    place = Place(directory, force, tuple(files))
    place.check()
    notes = place.notes(files)
    place.publish(files)
    if as_json:
        print_json({"version": 1, "directory": str(directory), "files": list(files), "notes": notes})
    else:
        from deeprebirth_caffe.cli.text import printable

        for line in notes:
            click.echo(printable(f"note: {line}"))
        click.echo(printable(f"wrote {directory}: {', '.join(files)}"))
