"""`rebirth docs`."""

from __future__ import annotations

import click


@click.command("docs")
@click.argument("page", required=False)
def command(page: str | None) -> None:
    """Print a PAGE of the documentation: what help and messages call docs/PAGE.md. Without PAGE, list all."""
    from deeprebirth_caffe.commands.shipped import docs, find

    if page is not None:
        click.echo_via_pager(find(docs(), page, "page").text)
        return
    from deeprebirth_caffe.cli.layout import print_columns

    print_columns([(known.name, known.description) for known in docs()], left=2)
