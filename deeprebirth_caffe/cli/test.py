"""`rebirth test`."""

from __future__ import annotations

import click

from deeprebirth_caffe.cli.progress import note, spell_score
from deeprebirth_caffe.cli.reading import command as told
from deeprebirth_caffe.cli.text import print_json, printable
from deeprebirth_caffe.options.test import TestOptions
from deeprebirth_caffe.wording import counted


@told("test", TestOptions)
def command(options: TestOptions, as_json: bool) -> None:
    """Run NET over its test data and average every output blob, as caffe test does; top-1 and top-5 besides."""
    from deeprebirth_caffe.cli.data_progress import shown_progress
    from deeprebirth_caffe.commands.test import test
    from deeprebirth_caffe.results import ABSENT

    with shown_progress() as show:
        result = test(options, note, show)
    if as_json:
        print_json(result)
        return
    for name, value in result.outputs.items():
        click.echo(printable(f"{name} = {spell_score(value)}"))
    if result.images and result.top1 is not ABSENT and result.top5 is not ABSENT:
        click.echo(f"top-1 {result.top1:.4%}, top-5 {result.top5:.4%} of {counted(result.images, 'image')}")
    click.echo(f"{result.engine}: {counted(result.iterations, 'batch')}")
    if options.per_image is not None:
        click.echo(printable(f"wrote {options.per_image}"))
