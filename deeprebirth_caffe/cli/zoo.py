"""`rebirth zoo`."""

from __future__ import annotations

import click

from deeprebirth_caffe.cli.reading import command as told
from deeprebirth_caffe.cli.text import print_json, printable
from deeprebirth_caffe.options.looking import ZooOptions


@told("zoo", ZooOptions)
def command(options: ZooOptions, as_json: bool) -> None:
    """Write train_val.prototxt, deploy.prototxt and solver.prototxt of a known net; `rebirth zoo list` lists them."""
    from deeprebirth_caffe.commands.zoo import list_nets, write_net

    if options.name == "list":
        listed = list_nets()
        if as_json:
            print_json(listed)
            return
        width = max(len(net.name) for net in listed.nets)
        for net in listed.nets:
            click.echo(f"{net.name:<{width}}  {net.description}")
        return
    written = write_net(options)
    if as_json:
        print_json(written)
    elif written is not None:
        for line in written.notes:
            click.echo(printable(f"note: {line}"))
        click.echo(printable(f"wrote {written.directory}: {', '.join(written.files)}"))
