"""`rebirth docs`."""

from __future__ import annotations

import click

from deeprebirth_caffe.cli.reading import command as told
from deeprebirth_caffe.options.looking import DocsOptions


@told("docs", DocsOptions, json=False)
def command(options: DocsOptions) -> None:
    """Print a PAGE of the documentation: what help and messages call docs/PAGE.md. Without PAGE, list all."""
    from deeprebirth_caffe.commands.shipped import docs, find

    if options.page is not None:
        click.echo_via_pager(find(docs(), options.page, "page").text)
        return
    from deeprebirth_caffe.cli.layout import print_columns

    print_columns([(known.name, known.description) for known in docs()], left=2)
