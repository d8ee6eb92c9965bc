"""The pictures, keys and labels of a database, from a list file or from folders."""

from __future__ import annotations

import os
import random
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import read_regular

TRAIN = "train"
PARTS = (TRAIN, "val", "valid", "validation", "test")
"""The names of a folder's subfolders that become databases of their own."""

SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("bmp", "dib", "gif", "jfif", "jp2", "jpe", "jpeg", "jpg", "pbm"),
        *("pgm", "png", "pnm", "ppm", "ras", "sr", "tif", "tiff", "webp"),
    )
)
"""The suffixes of pictures in a class's folder."""

MOST_ENTRIES = 10**8
"""Keys begin with eight digits, and databases sort by key."""

_LABEL = re.compile(r"[+-]?[0-9]{1,10}", re.ASCII)
_LONGEST_KEY = 511  # LMDB's limit
_DATABASE_FILES = ("data.mdb", "CURRENT")  # LMDB's and LevelDB's


@dataclass(frozen=True)
class Entry:
    """One picture.

    Attributes:
        number: the place in the list; the key begins with it.
        name: the list's name for it; the key ends with it.
        path: of the file.
        label: the class.
    """

    number: int
    name: str
    path: str
    label: int

    @property
    def key(self) -> bytes:
        """The record's key, as convert_imageset makes it; if the name is too long for LMDB, its end."""
        head = b"%08d_" % self.number
        return head + os.fsencode(self.name)[-(_LONGEST_KEY - len(head)) :]


@dataclass(frozen=True)
class Part:
    """The pictures of one database: `train`, `val`, …"""

    name: str
    entries: list[Entry]


@dataclass(frozen=True)
class Folder:
    """The content of a folder with a subfolder for each class.

    Attributes:
        classes: the names; a class's place is its label.
        parts: the pictures.
        notes: for people: skipped files, and anything unusual.
    """

    classes: list[str]
    parts: list[Part]
    notes: list[str]


def read_list(listing: Path, root: Path | None = None) -> list[Entry]:
    """Reads a list in convert_imageset's form: in each line a path and, after the last space, a whole number.

    An empty line is no picture, but it counts in the numbers of the lines after it, as in convert_imageset.

    Args:
        listing: the file.
        root: the folder to prepend to each path, unchanged; None: paths are relative to the list's folder.

    Raises:
        RebirthError: the list cannot be read, is empty, or has a line of another form.
    """
    try:
        data = read_regular(listing)
    except OSError as error:
        raise RebirthError(f"{listing}: cannot read this list: {error.strerror or error}") from error
    entries = []
    for number, line in enumerate(data.removeprefix(BOM_UTF8).split(b"\n")):
        if not line.strip():
            continue
        name, _, label = line.rpartition(b" ")
        where = f"{listing}:{number + 1}"
        if not name:
            raise RebirthError(f"{where}: {os.fsdecode(line)!r} is not a path, a space and a label")
        text = os.fsdecode(name)
        entries.append(Entry(number, text, _join(listing, root, text), _label(label.rstrip(b"\r"), where)))
    if not entries:
        raise RebirthError(f"{listing}: this list names no picture")
    return entries


def read_folder(folder: Path, split: str, val_fraction: float, seed: int, labels: Path | None = None) -> Folder:
    """Lists the pictures of a folder with a subfolder for each class, or with such subfolders in `train`, `val`, …

    Classes are sorted by name, and the pictures of a class by path, at any depth below its folder.

    Args:
        folder: where to look.
        split: the name of the database, if there is only one.
        val_fraction: the part of each class that goes into a second database, `val`; 0: none.
        seed: chooses those pictures.
        labels: a file with the classes, one a line, instead of the names of the subfolders.

    Raises:
        RebirthError: there are no classes or no pictures, or the parts have different classes.
    """
    notes: list[str] = []
    several = [part for part in PARTS if _subfolders(folder / part)]
    if TRAIN not in several:
        several = []
    if several and val_fraction:
        raise RebirthError(
            f"{folder}: it has {', '.join(several)} already; leave --val-fraction out, or name one of them"
        )
    roots = {part: folder / part for part in several} or {split: folder}
    classes = _read_labels(labels) if labels is not None else _subfolders(roots[TRAIN if several else split])
    if not classes:
        raise RebirthError(f"{folder}: there is no folder in it; it takes one for each class")
    if several:
        _note_ignored(folder, [name for name in _subfolders(folder) if name not in several], notes)
    parts = [_read_part(name, root, classes, notes) for name, root in roots.items()]
    if len(classes) == 1:
        notes.append(f"{folder}: there is one class only, {classes[0]}")
    if val_fraction:
        parts = _divide(parts[0], val_fraction, seed)
    return Folder(classes, parts, notes)


def label_of(text: str) -> int:
    """A label (or another number) of a list: a whole number of 32 bits, as C++ reads it.

    Raises:
        ValueError: it is no such number; the text is written for people.
    """
    if not _LABEL.fullmatch(text) or not -(2**31) <= int(text) < 2**31:
        raise ValueError(f"{text[:40]!r} is not a whole number of 32 bits")
    return int(text)


def shuffled(entries: Sequence[Entry], seed: int) -> list[Entry]:
    """The same pictures in an order that depends only on the seed, with new numbers."""
    order = list(entries)
    random.Random(seed).shuffle(order)
    return _numbered(order)


def label_lines(classes: Iterable[str]) -> str:
    """The text of labels.txt: the classes, one a line, whatever their names hold."""
    return "".join("".join(map(_visible, name)) + "\n" for name in classes)


def _visible(letter: str) -> str:
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode()


def _numbered(entries: Iterable[Entry]) -> list[Entry]:
    return [Entry(number, entry.name, entry.path, entry.label) for number, entry in enumerate(entries)]


def _join(listing: Path, root: Path | None, name: str) -> str:
    if root is None:
        return str(listing.parent / name)
    # Appended as text, as Caffe does: paths that begin with "/" are meant to lie below the root.
    slash = "" if name.startswith("/") else os.sep
    return f"{root}{slash}{name}"


def _label(text: bytes, where: str) -> int:
    try:
        return label_of(os.fsdecode(text))
    except ValueError:
        raise RebirthError(
            f"{where}: {os.fsdecode(text)[:40]!r} is not a label: a whole number of 32 bits after the last space"
        ) from None


def _read_labels(path: Path) -> list[str]:
    try:
        return [os.fsdecode(line) for line in read_regular(path).removeprefix(BOM_UTF8).splitlines() if line]
    except OSError as error:
        raise RebirthError(f"{path}: cannot read these labels: {error.strerror or error}") from error


def _subfolders(folder: Path) -> list[str]:
    """The folders in a folder that may be classes: not hidden, no databases."""
    try:
        with os.scandir(folder) as items:
            names = [item.name for item in items if item.is_dir() and not item.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise RebirthError(f"{folder}: cannot read this folder: {error.strerror or error}") from error
    return sorted(name for name in names if not any((folder / name / file).exists() for file in _DATABASE_FILES))


def _read_part(part: str, root: Path, classes: list[str], notes: list[str]) -> Part:
    numbers = {name: number for number, name in enumerate(classes)}
    strangers = [name for name in _subfolders(root) if name not in numbers]
    if strangers:
        raise RebirthError(
            f"{root / strangers[0]}: there is no such class ({len(classes)} are known); remove this folder"
        )
    entries: list[Entry] = []
    skipped = 0
    for name in classes:
        files, more = _pictures(root / name)
        skipped += more
        if not files:
            notes.append(f"{root / name}: there is no picture of this class")
        entries.extend(Entry(0, f"{name}/{file}", f"{root / name}/{file}", numbers[name]) for file in files)
    if not entries:
        raise RebirthError(f"{root}: there is no picture in its {len(classes)} folders")
    if skipped:
        notes.append(f"{root}: {skipped} files in it are left out: their names are not those of pictures")
    return Part(part, _numbered(entries))


def _pictures(folder: Path) -> tuple[list[str], int]:
    """The pictures below a folder, relative to it and sorted, and how many other files there are."""
    files: list[str] = []
    skipped = 0
    seen: set[str] = set()

    def fail(error: OSError) -> None:
        if folder.exists():
            raise RebirthError(f"{error.filename}: cannot read this folder: {error.strerror or error}") from error

    for place, below, names in os.walk(folder, onerror=fail, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder that we have seen
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in names:
            if name.startswith("."):
                continue
            if Path(name).suffix.lower() in SUFFIXES:
                files.append(os.path.relpath(os.path.join(place, name), folder))
            else:
                skipped += 1
    return sorted(files), skipped


def _divide(part: Part, fraction: float, seed: int) -> list[Part]:
    """Takes a share of each class out for a second part; a class of two or more pictures is in both."""
    by_label: dict[int, list[Entry]] = {}
    for entry in part.entries:
        by_label.setdefault(entry.label, []).append(entry)
    taken: set[int] = set()
    for label, entries in by_label.items():
        count = max(round(len(entries) * fraction), 1)
        # The label is part of the seed, so a class's choice does not depend on the size of other classes.
        order = [entry.number for entry in entries]
        random.Random(f"{seed} {label}").shuffle(order)
        taken.update(order[: min(count, len(entries) - 1)])
    kept = [entry for entry in part.entries if entry.number not in taken]
    val = [entry for entry in part.entries if entry.number in taken]
    if not val:
        raise RebirthError("no class has two pictures: nothing is left for val; leave --val-fraction out")
    return [Part(part.name, _numbered(kept)), Part("val", _numbered(val))]


def _note_ignored(folder: Path, names: list[str], notes: list[str]) -> None:
    if names:
        notes.append(f"{folder}: left out, as it has {TRAIN}: {', '.join(names)}")
