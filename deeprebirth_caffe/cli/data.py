"""`rebirth data`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from deeprebirth_caffe.cli.help import Group
from deeprebirth_caffe.cli.options import FILE, FOLDER, MAX_INT, Command, Size, json_option, print_json
from deeprebirth_caffe.cli.streams import PathOrDash

OUT_FOLDER = PathOrDash(why="a database is a folder")
OUT_FILE = PathOrDash(dir_okay=False, why="a run that was interrupted goes on with this file")

SHOWN = 5
"""How many pictures that were left out are named; JSON names all."""


backend_option = click.option(
    "--backend", type=click.Choice(["lmdb", "leveldb"]), default="lmdb", show_default=True, help="The kind of database."
)
force_option = click.option("--force", is_flag=True, help="Replace databases and files that are there.")


def common_options(function: Command) -> Command:
    """Adds what `list` and `folder` have in common, but for `--shuffle`."""
    for option in reversed(
        [
            backend_option,
            click.option(
                "--encoded",
                type=click.Choice(["as-is", "jpg", "png"]),
                help="Store files, not pixels: as they are (resized: in their own format), or as JPEG or PNG.",
            ),
            click.option("--resize", type=Size(), metavar="N|HxW", help="Height and width, or one number for both."),
            click.option("--gray", is_flag=True, help="One channel, not three."),
            click.option("--seed", type=click.IntRange(0, MAX_INT), default=0, show_default=True, help="Of the order."),
            click.option(
                "--mean", type=OUT_FILE, help="Write the mean picture (of train) here, as compute_image_mean does."
            ),
            click.option("--check-size", is_flag=True, help="Stop at a picture that has not the size of the first."),
            click.option("--skip-bad", is_flag=True, help="Leave pictures out that cannot be read, and name them."),
            click.option("--threads", type=click.IntRange(1, 256), help="That decode. [default: one a processor]"),
            force_option,
            json_option,
        ]
    ):
        function = option(function)
    return function


@click.group("data", cls=Group)
def command() -> None:
    """Make LMDBs (or LevelDBs) that Caffe trains from, equal to those of convert_imageset.

    Interrupted, the same command goes on where it was.
    """


@command.command("list", short_help="Of a list file: a path and a label a line.")
@click.argument("listing", metavar="LIST", type=FILE)
@click.option("-o", "--out", type=OUT_FOLDER, required=True, help="The database.")
@click.option("--root", type=FOLDER, help="The folder of the pictures. [default: the list's own]")
@click.option("--shuffle", is_flag=True, help="Mix their order.")
@common_options
def from_list(listing: Path, out: Path, root: Path | None, as_json: bool, **rest: Any) -> None:
    """Make a database of LIST: in each line a path, a space and a label, as for convert_imageset."""
    from deeprebirth_caffe.commands.data import data_list

    options = _options(**rest)
    _run(lambda progress: data_list(listing, out, options, root, progress), as_json)


@command.command("folder", short_help="Of a folder with a folder a class.")
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--out", type=FOLDER, required=True, help="Directory for the databases and labels.txt.")
@click.option("--split", default="train", show_default=True, help="Name of the one part, where DIR has no train/.")
@click.option(
    "--val-fraction",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Put so much of each class into a second database, val.",
)
@click.option("--labels", type=FILE, help="Classes in their order, one a line. [default: sorted folder names]")
@click.option("--shuffle/--no-shuffle", default=True, show_default=True, help="Mix the order; else class after class.")
@common_options
def from_folder(folder: Path, out: Path, as_json: bool, **rest: Any) -> None:
    """Make a database of DIR, which has a folder for each class, or such folders in train/ and val/ (or test/)."""
    from deeprebirth_caffe.commands.data import data_folder

    more = {"split": rest.pop("split"), "labels": rest.pop("labels"), "val_fraction": rest.pop("val_fraction") or 0.0}
    options = _options(**rest)
    _run(lambda progress: data_folder(folder, out, options, progress=progress, **more), as_json)


@command.command("digits", short_help="Of scikit-learn's handwritten digits.")
@click.option("-o", "--out", type=FOLDER, required=True, help="Directory for train, test, their mean and labels.txt.")
@click.option("--size", type=click.IntRange(8, 1024), default=28, show_default=True, help="Height and width.")
@click.option("--channels", type=click.IntRange(1, 64), default=1, show_default=True, help="All the same.")
@backend_option
@force_option
@json_option
def from_digits(out: Path, as_json: bool, **rest: Any) -> None:
    """Make databases of scikit-learn's 1,797 handwritten digits: nothing is fetched."""
    from deeprebirth_caffe.commands.data import data_digits

    _run(lambda progress: data_digits(out, **rest), as_json)


def _options(resize: tuple[int, int] | None, gray: bool, encoded: str | None, **rest: Any) -> Any:
    from deeprebirth_caffe.commands.data import DataOptions
    from deeprebirth_caffe.data.records import RecordFormat

    height, width = resize or (0, 0)
    return DataOptions(form=RecordFormat(height, width, gray, encoded or ""), **rest)


def _run(make: Callable[[Callable[[str, int, int], None]], dict[str, Any]], as_json: bool) -> None:
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


def _show(result: dict[str, Any]) -> None:
    from deeprebirth_caffe.cli.text import printable

    result = printable(result)
    for one in result["databases"]:
        before = f", {one['resumed']} of them before the interruption" if one["resumed"] else ""
        click.echo(f"wrote {one['path']}: {one['records']} records{before}")
        for skipped in one["skipped"][:SHOWN]:
            click.echo(f"    left out {skipped['file']}: {skipped['reason']}")
        if len(one["skipped"]) > SHOWN:
            click.echo(f"    and {len(one['skipped']) - SHOWN} more; --json names all")
    if result["labels"] is not None:
        click.echo(f"wrote {result['labels']}: {len(result['classes'])} classes")
    if result["mean"] is not None:
        click.echo(f"wrote {result['mean']}")
    for note in result["notes"]:
        click.echo(f"note: {note}")
