"""`rebirth forward`."""

from __future__ import annotations

import click

from deeprebirth_caffe.cli.progress import note
from deeprebirth_caffe.cli.reading import command as told
from deeprebirth_caffe.cli.text import print_json, printable
from deeprebirth_caffe.options.forward import ForwardOptions


@told("forward", ForwardOptions)
def command(options: ForwardOptions, as_json: bool) -> None:
    """Run pictures through NET: the classes with the highest scores, or a blob.

    NET is a deploy.prototxt, or a train_val.prototxt, whose data layer for TEST then says how pictures are prepared.
    """
    from deeprebirth_caffe.cli.data_progress import shown_progress
    from deeprebirth_caffe.commands.forward import forward
    from deeprebirth_caffe.results import ABSENT

    with shown_progress() as show:
        result = forward(options, note, show)
    if as_json:
        print_json(result)
        return
    for picture in printable(result.inputs):
        if picture.top is not ABSENT:
            click.echo(picture.file)
            for place in picture.top:
                score = "nan" if place.score is None else f"{place.score:.4f}"
                click.echo(f"  {score}  {place.label}")
    for name, shape in (result.blobs or {}).items():
        click.echo(printable(f"{name}: {'x'.join(map(str, shape))}"))
    if options.out is not None:
        click.echo(printable(f"wrote {options.out}"))
