"""What the commands of `rebirth data` may be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deeprebirth_caffe.options.fields import OUTPUT, argument, group, needed, option
from deeprebirth_caffe.options.kinds import FILE, FOLDER, MAX_INT, SIZE, THERE, OneOf, Place, Real, Whole
from deeprebirth_caffe.options.shared import force_option


def _backend() -> Any:
    return option(
        "lmdb", "--backend", kind=OneOf(("lmdb", "leveldb")), shown=True, help="The kind of database.", kw_only=True
    )


def _force() -> Any:
    return force_option("Replace databases and files that are there.")


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """What `rebirth data list` and `rebirth data folder` have in common.

    Attributes:
        encoded: "" (pixels are stored), "as-is", or what files are encoded as: "jpg", "png".
    """

    shuffle: bool = option(False, "--shuffle", help="Mix their order.")
    backend: str = _backend()
    encoded: str = option(
        "",
        "--encoded",
        kind=OneOf(("as-is", "jpg", "png")),
        takes=lambda typed: typed or "",
        says=lambda value: value or None,
        help="Store files, not pixels: as they are (resized: in their own format), or as JPEG or PNG.",
    )
    resize: tuple[int, int] | None = option(
        None, "--resize", kind=SIZE, metavar="N|HxW", help="Height and width, or one number for both."
    )
    gray: bool = option(False, "--gray", help="One channel, not three.")
    seed: int = option(0, "--seed", kind=Whole(0, MAX_INT), shown=True, help="Seed of the order.")
    mean: Path | None = option(
        None,
        "--mean",
        kind=Place(folder=False, dash="a run that was interrupted goes on with this file"),
        help="Write the mean picture (of train) here, as compute_image_mean does.",
    )
    check_size: bool = option(False, "--check-size", help="Stop at a picture that has not the size of the first.")
    skip_bad: bool = option(False, "--skip-bad", help="Leave pictures out that cannot be read, and name them.")
    threads: int | None = option(
        None, "--threads", kind=Whole(1, 256), help="Threads that decode. [default: one a processor]"
    )
    force: bool = _force()


@dataclass(frozen=True)
class ListOptions:
    """What `rebirth data list` is told; see its help."""

    listing: Path = argument("listing", FILE, metavar="LIST")
    out: Path = needed("-o", "--out", kind=Place(dash="a database is a folder"), title=OUTPUT, help="The database.")
    root: Path | None = option(
        None, "--root", kind=FOLDER, help="The folder of the pictures. [default: the list's own]"
    )
    how: DataOptions = group(DataOptions)


@dataclass(frozen=True)
class FolderOptions:
    """What `rebirth data folder` is told; see its help."""

    folder: Path = argument("folder", THERE, metavar="DIR")
    out: Path = needed("-o", "--out", kind=FOLDER, title=OUTPUT, help="Directory for the databases and labels.txt.")
    split: str = option("train", "--split", shown=True, help="Name of the one part, where DIR has no train/.")
    val_fraction: float | None = option(
        None,
        "--val-fraction",
        kind=Real(0, 1, above=True, below=True),
        help="Put so much of each class into a second database, val.",
    )
    labels: Path | None = option(
        None, "--labels", kind=FILE, help="Classes in their order, one a line. [default: sorted folder names]"
    )
    how: DataOptions = group(
        DataOptions,
        usual=DataOptions(shuffle=True),
        changes={
            "shuffle": {
                "flags": ("--shuffle/--no-shuffle",),
                "default": True,
                "shown": True,
                "help": "Mix the order; else class after class.",
            }
        },
    )


@dataclass(frozen=True)
class DigitsOptions:
    """What `rebirth data digits` is told; see its help."""

    out: Path = needed(
        "-o", "--out", kind=FOLDER, title=OUTPUT, help="Directory for train, test, their mean and labels.txt."
    )
    size: int = option(28, "--size", kind=Whole(8, 1024), shown=True, help="Height and width.")
    channels: int = option(1, "--channels", kind=Whole(1, 64), shown=True, help="Channels, all the same.")
    backend: str = _backend()
    force: bool = _force()
