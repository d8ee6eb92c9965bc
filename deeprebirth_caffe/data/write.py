"""Fills a database: several threads decode, pictures are written in order, in batches that survive a kill."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from deeprebirth_caffe.data.decode import BadRecordError
from deeprebirth_caffe.data.listing import Entry
from deeprebirth_caffe.data.records import Record, RecordFormat, read_record, stored_shape
from deeprebirth_caffe.data.writers import Database
from deeprebirth_caffe.errors import RebirthError

BATCH_RECORDS = 1000
BATCH_BYTES = 32 << 20
"""A batch is committed when it has so many records or bytes."""

_CHUNK_RECORDS = 16
_CHUNK_BYTES = 4 << 20  # bytes of decoded pictures that wait, for each thread

Outcome = tuple[Entry, Record | BadRecordError]


@dataclass(frozen=True)
class Skipped:
    """A picture that is not in the database, and why.

    Attributes:
        file: path.
        reason: for people.
    """

    file: str
    reason: str


@dataclass
class Filled:
    """The result of `fill`.

    Attributes:
        records: how many the database has.
        resumed: how many of them an earlier run wrote.
        skipped: the pictures that are not in it.
    """

    records: int = 0
    resumed: int = 0
    skipped: list[Skipped] = field(default_factory=list)


def fill(
    database: Database,
    entries: Sequence[Entry],
    form: RecordFormat,
    *,
    one_size: bool = False,
    skip_bad: bool = False,
    threads: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Filled:
    """Writes pictures into a database, behind those of the list that it already has.

    Args:
        database: where to.
        entries: all pictures, sorted by number.
        form: how they are stored.
        one_size: whether all must have the size of the first.
        skip_bad: whether to leave out pictures that cannot be used.
        threads: how many decode; None: as many as processors.
        progress: called with the number of finished pictures.

    Raises:
        RebirthError: a picture cannot be used, or the database cannot be written. Finished batches stay.
    """
    filled, start = _resume(database, entries)
    shape = _first_shape(database, form) if one_size and filled.records else None
    batch: list[tuple[bytes, bytes]] = []
    size = 0
    progress(start)
    done = start
    outcomes = _outcomes(entries[start:], form, threads or _processors())
    try:
        for entry, outcome in outcomes:
            if isinstance(outcome, Record) and one_size:
                shape = shape or outcome.shape
                if outcome.shape != shape:
                    outcome = BadRecordError(f"it is {_by(outcome.shape)}, but the first is {_by(shape)}; use --resize")
            if isinstance(outcome, BadRecordError):
                if not skip_bad:
                    what_to_do = "--skip-bad leaves such pictures out; the same command goes on from here"
                    raise RebirthError(f"{entry.path}: {outcome}; {what_to_do}")
                filled.skipped.append(Skipped(entry.path, str(outcome)))
            else:
                batch.append((entry.key, outcome.value))
                size += len(outcome.value)
            done += 1
            if len(batch) >= BATCH_RECORDS or size >= BATCH_BYTES:
                filled.records += _flush(database, batch)
                size = 0
            if done % _CHUNK_RECORDS == 0:
                progress(done)
    finally:
        outcomes.close()
        # Keep what is decoded, whatever the error.
        filled.records += _flush(database, batch)
    progress(done)
    return filled


def _flush(database: Database, batch: list[tuple[bytes, bytes]]) -> int:
    """Commits a batch, and forgets it even if that fails."""
    full = batch[:]
    batch.clear()
    if full:
        database.put(full)
    return len(full)


def _resume(database: Database, entries: Sequence[Entry]) -> tuple[Filled, int]:
    """The records that the database has of the list, and the place to go on."""
    filled = Filled()
    place = 0
    for key in database.each_key():
        while entries[place].key != key:
            filled.skipped.append(Skipped(entries[place].path, "left out before the interruption"))
            place += 1
        filled.records += 1
        place += 1
    filled.resumed = filled.records
    return filled, place


def _first_shape(database: Database, form: RecordFormat) -> tuple[int, int, int]:
    items = database.items()
    try:
        return stored_shape(next(items)[1], form.gray)
    finally:
        items.close()


def _outcomes(entries: Sequence[Entry], form: RecordFormat, threads: int) -> Generator[Outcome, None, None]:
    """Reads pictures in several threads and yields them in order; the memory of waiting pictures is bounded."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="pictures")
    waiting: deque[Future[list[Outcome]]] = deque()
    place = 0
    length = 1
    try:
        while place < len(entries) or waiting:
            while place < len(entries) and len(waiting) < threads + 2:
                waiting.append(pool.submit(_read_chunk, entries[place : place + length], form))
                place += length
            chunk = waiting.popleft().result()
            largest = max((len(outcome.value) for _, outcome in chunk if isinstance(outcome, Record)), default=1)
            length = max(1, min(_CHUNK_RECORDS, _CHUNK_BYTES // max(largest, 1)))
            yield from chunk
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _read_chunk(entries: Sequence[Entry], form: RecordFormat) -> list[Outcome]:
    return [(entry, _read_one(entry, form)) for entry in entries]


def _read_one(entry: Entry, form: RecordFormat) -> Record | BadRecordError:
    try:
        return read_record(entry.path, entry.label, form)
    except BadRecordError as error:
        return error


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _by(shape: tuple[int, int, int]) -> str:
    return " x ".join(map(str, shape))
