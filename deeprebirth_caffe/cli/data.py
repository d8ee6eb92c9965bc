"""`rebirth data`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from deeprebirth_caffe.cli.help import Group
from deeprebirth_caffe.cli.reading import command as told
from deeprebirth_caffe.cli.text import print_json, printable
from deeprebirth_caffe.options.data import DigitsOptions, FolderOptions, ListOptions

if TYPE_CHECKING:
    from deeprebirth_caffe.commands.data import MadeData

SHOWN = 5
"""How many pictures that were left out are named; JSON names all."""


@click.group("data", cls=Group)
def command() -> None:
    """Make LMDBs (or LevelDBs) that Caffe trains from, equal to those of convert_imageset.

    Interrupted, the same command goes on where it was.
    """


@told("list", ListOptions, group=command, short_help="Of a list file: a path and a label a line.")
def from_list(options: ListOptions, as_json: bool) -> None:
    """Make a database of LIST: in each line a path, a space and a label, as for convert_imageset."""
    from deeprebirth_caffe.commands.data import data_list

    _run(lambda show: data_list(options.listing, options.out, options.how, options.root, show), as_json)


@told("folder", FolderOptions, group=command, short_help="Of a folder with a folder a class.")
def from_folder(options: FolderOptions, as_json: bool) -> None:
    """Make a database of DIR, which has a folder for each class, or such folders in train/ and val/ (or test/)."""
    from deeprebirth_caffe.commands.data import data_folder

    def make(show: Callable[[str, int, int], None]) -> MadeData:
        return data_folder(
            options.folder,
            options.out,
            options.how,
            split=options.split,
            val_fraction=options.val_fraction or 0.0,
            labels=options.labels,
            progress=show,
        )

    _run(make, as_json)


@told("digits", DigitsOptions, group=command, short_help="Of scikit-learn's handwritten digits.")
def from_digits(options: DigitsOptions, as_json: bool) -> None:
    """Make databases of scikit-learn's 1,797 handwritten digits: nothing is fetched."""
    from deeprebirth_caffe.commands.data import data_digits

    size, channels, backend, force = options.size, options.channels, options.backend, options.force
    _run(lambda _: data_digits(options.out, size=size, channels=channels, backend=backend, force=force), as_json)


def _run(make: Callable[[Callable[[str, int, int], None]], MadeData], as_json: bool) -> None:
    """Runs one of the commands, shows how it goes, and says what was made."""
    from deeprebirth_caffe.cli.data_progress import shown_progress

    try:
        with shown_progress() as progress:
            result = make(progress)
    except (KeyboardInterrupt, SystemExit) as stop:  # Ctrl-C; `kill`, of which main makes an exit
        click.echo("interrupted; the same command goes on where it was", err=True)
        raise SystemExit(stop.code if isinstance(stop, SystemExit) else 130) from None
    if as_json:
        print_json(result)
        return
    _show(result)


def _show(result: MadeData) -> None:
    result = printable(result)
    for one in result.databases:
        before = f", {one.resumed} of them before the interruption" if one.resumed else ""
        click.echo(f"wrote {one.path}: {one.records} records{before}")
        for skipped in one.skipped[:SHOWN]:
            click.echo(f"    left out {skipped.file}: {skipped.reason}")
        if len(one.skipped) > SHOWN:
            click.echo(f"    and {len(one.skipped) - SHOWN} more; --json names all")
    if result.labels is not None:
        click.echo(f"wrote {result.labels}: {len(result.classes or ())} classes")
    if result.mean is not None:
        click.echo(f"wrote {result.mean}")
    for note in result.notes:
        click.echo(f"note: {note}")
