"""`rebirth data`: databases of pictures, from folders, from a list, or from scikit-learn's digits."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deeprebirth_caffe.data.listing import MOST_ENTRIES, Part, label_lines, read_folder, read_list, shuffled
from deeprebirth_caffe.data.mean import mean_bytes, mean_picture
from deeprebirth_caffe.data.records import RecordFormat, raw_record
from deeprebirth_caffe.data.staging import Staging, is_database, staging
from deeprebirth_caffe.data.write import Filled, Skipped, fill
from deeprebirth_caffe.data.writers import open_database
from deeprebirth_caffe.errors import RebirthError, UsageError
from deeprebirth_caffe.formats.outputs import check_inputs
from deeprebirth_caffe.options.data import DataOptions
from deeprebirth_caffe.results import Result

Progress = Callable[[str, int, int], None]
"""Called with what is being made, how many pictures are dealt with, and of how many."""

LABELS, MEAN = "labels.txt", "mean.binaryproto"


def _form(options: DataOptions) -> RecordFormat:
    """How pictures are stored."""
    height, width = options.resize or (0, 0)
    return RecordFormat(height, width, options.gray, options.encoded)


@dataclass(frozen=True, kw_only=True)
class MadeDatabase:
    """A database.

    Attributes:
        path: path.
        backend: `"lmdb"` or `"leveldb"`.
        records: how many it has.
        resumed: how many of them an interrupted run had left; 0 where there was none.
        skipped: with `--skip-bad`: the pictures that are not in it.
    """

    path: Path
    backend: str
    records: int
    resumed: int
    skipped: Sequence[Skipped]


@dataclass(frozen=True, kw_only=True)
class MadeData(Result):
    """What `rebirth data` made.

    Attributes:
        databases: in the order they were made: `train` first.
        classes: names, the label of each is its place; null for a list.
        labels: path of labels.txt; null for a list.
        mean: path of the mean file; null without `--mean`.
        notes: for people: what was left out, what looks odd.
    """

    databases: Sequence[MadeDatabase]
    classes: Sequence[str] | None
    labels: Path | None
    mean: Path | None
    notes: Sequence[str]


def _silent(what: str, done: int, total: int) -> None:
    """Shows no progress."""


def data_list(
    listing: Path, out: Path, options: DataOptions, root: Path | None = None, progress: Progress = _silent
) -> MadeData:
    """Makes a database of the pictures in a list.

    Args:
        listing: in each line a path and a label.
        out: the database.
        options: how.
        root: the folder put in front of the paths; None: they are relative to the list.
        progress: called now and then.

    Raises:
        RebirthError: the list is wrong, a picture cannot be used, or something cannot be written.
    """
    entries = read_list(listing, root)
    if options.shuffle:
        entries = shuffled(entries, options.seed)
    target = Path.cwd() / out
    _check_inputs([out], options, [listing], [Part("db", entries)])
    return _make([Part("db", entries)], {"db": out}, target.parent, target.name, options, [], progress)


def data_folder(
    folder: Path,
    out: Path,
    options: DataOptions,
    *,
    split: str = "train",
    val_fraction: float = 0.0,
    labels: Path | None = None,
    progress: Progress = _silent,
) -> MadeData:
    """Makes databases of a folder with a folder a class, or with such folders in `train`, `val`, …

    Args:
        folder: the pictures.
        out: a directory; gets `train_lmdb`, `val_lmdb`, … and labels.txt.
        options: how.
        split: what the one part is called where there are not several.
        val_fraction: how much of each class goes into a second part, `val`.
        labels: a file with a class a line, where their order is given.
        progress: called now and then.

    Raises:
        RebirthError: the folders are not like that, a picture cannot be used, or something cannot be written.
    """
    if not split or split.startswith(".") or any(letter in split for letter in "/\0"):
        raise UsageError(f"--split: {split!r} cannot be part of a file's name")
    found = read_folder(folder, split, val_fraction, options.seed, labels)
    parts = found.parts
    if options.shuffle:
        parts = [Part(part.name, shuffled(part.entries, options.seed)) for part in parts]
    outputs = {part.name: out / f"{part.name}_{options.backend}" for part in parts}
    _check_inputs([*outputs.values(), out / LABELS], options, [labels], parts)
    notes = [*found.notes, *_stay(out, outputs.values())]
    return _make(parts, outputs, out, "folder", options, notes, progress, found.classes, out / LABELS)


def _check_inputs(
    outputs: Sequence[Path], options: DataOptions, inputs: Iterable[Path | None], parts: Sequence[Part]
) -> None:
    """Refuses to replace a list or a picture that goes into the databases."""
    places = [*outputs, *([options.mean] if options.mean is not None else [])]
    check_inputs(places, inputs)
    if any(place.is_file() for place in places):
        check_inputs(places, (Path(entry.path) for part in parts for entry in part.entries))


def _stay(out: Path, databases: Iterable[Path]) -> list[str]:
    """A note on databases in the directory that this run does not make."""
    made = {path.name for path in databases}
    there = (
        sorted(one.name for one in out.iterdir() if one.name not in made and is_database(one)) if out.is_dir() else []
    )
    return [f"{out}: stays there, and is none of this run's: {', '.join(there)}"] if there else []


def data_digits(
    out: Path, *, size: int = 28, channels: int = 1, backend: str = "lmdb", force: bool = False
) -> MadeData:
    """Makes the databases `train` and `test` of scikit-learn's digits, their mean and labels.txt.

    Args:
        out: the directory for them.
        size: height and width.
        channels: how often the gray picture is repeated.
        backend: `lmdb` or `leveldb`.
        force: replace what is there.

    Raises:
        RebirthError: something cannot be written, or scikit-learn is missing.
    """
    from deeprebirth_caffe.data.digits import CLASSES, digits

    parameters = {"digits": [size, channels, backend]}
    outputs = {name: out / name for name in ("train", "test", MEAN, LABELS)}
    result: list[MadeDatabase] = []
    with staging(out, "digits", outputs, parameters, force) as work:
        for part in ("train", "test"):
            with open_database(work.place(part), backend) as database:
                records = [
                    (b"%08d_%s" % (number, one.name.encode()), raw_record(one.picture, one.label).value)
                    for number, one in enumerate(digits(part, size, channels))
                ]
                # Small enough for one batch: it is there whole or not at all.
                if next(database.each_key(), None) is None:
                    database.put(records)
                if part == "train":
                    (work.folder / MEAN).write_bytes(mean_bytes(mean_picture(database)))
            result.append(_described(outputs[part], backend, Filled(records=len(records))))
        (work.folder / LABELS).write_text(label_lines(CLASSES), encoding="utf-8")
        work.publish()
    return MadeData(databases=result, classes=CLASSES, labels=outputs[LABELS], mean=outputs[MEAN], notes=[])


def _make(
    parts: Sequence[Part],
    databases: dict[str, Path],
    home: Path,
    name: str,
    options: DataOptions,
    notes: list[str],
    progress: Progress,
    classes: list[str] | None = None,
    labels: Path | None = None,
) -> MadeData:
    """Makes a database of each part, then the mean of the first, then gives all their names."""
    for part in parts:
        if len(part.entries) >= MOST_ENTRIES:
            raise RebirthError(
                f"{len(part.entries)} pictures: a key has room for {MOST_ENTRIES - 1}; make several lists"
            )
    outputs = dict(databases)
    if options.mean is not None:
        outputs[MEAN] = options.mean
    if labels is not None:
        outputs[LABELS] = labels
    notes = list(notes)
    described = []
    with staging(home, name, outputs, _parameters(parts, databases, options), options.force) as work:
        if work.changed:
            notes.append("an unfinished run with other options or pictures was here; this one began anew")
        for part in parts:
            filled = _fill(work, part, options, databases[part.name], progress)
            described.append(_described(databases[part.name], options.backend, filled))
        if options.mean is not None:
            _mean(work, parts[0].name, options.backend, described[0].records, progress)
        if classes is not None:
            # Surrogates are escaped by label_lines.
            (work.folder / LABELS).write_text(label_lines(classes), encoding="utf-8")
        work.publish()
    return MadeData(databases=described, classes=classes, labels=labels, mean=options.mean, notes=notes)


def _fill(work: Staging, part: Part, options: DataOptions, target: Path, progress: Progress) -> Filled:
    total = len(part.entries)
    with open_database(work.place(part.name), options.backend) as database:
        filled = fill(
            database,
            part.entries,
            _form(options),
            # A mean needs one size: better to hear that before all is decoded.
            one_size=options.check_size or options.mean is not None,
            skip_bad=options.skip_bad,
            threads=options.threads,
            progress=lambda done: progress(target.name, done, total),
        )
    if not filled.records:
        first = filled.skipped[0]
        raise RebirthError(f"{first.file}: {first.reason}; none of the {total} pictures can be used")
    return filled


def _mean(work: Staging, part: str, backend: str, total: int, progress: Progress) -> None:
    with open_database(work.place(part), backend) as database:
        mean = mean_picture(database, lambda done: progress("mean", done, total))
    (work.folder / MEAN).write_bytes(mean_bytes(mean))


def _parameters(parts: Sequence[Part], databases: dict[str, Path], options: DataOptions) -> dict[str, Any]:
    """What decides about the records: a run with other parameters cannot go on with what this one made."""
    contents = {}
    here = Path.cwd()
    for part in parts:
        digest = hashlib.sha256()
        for entry in part.entries:
            digest.update(b"%b\0%b\0%d\n" % (entry.key, os.fsencode(os.path.join(here, entry.path)), entry.label))
        contents[part.name] = [databases[part.name].name, len(part.entries), digest.hexdigest()]
    return {"parts": contents, "backend": options.backend, "form": asdict(_form(options))}


def _described(path: Path, backend: str, filled: Filled) -> MadeDatabase:
    return MadeDatabase(
        path=path, backend=backend, records=filled.records, resumed=filled.resumed, skipped=filled.skipped
    )
