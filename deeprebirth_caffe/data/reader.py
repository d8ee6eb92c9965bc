"""The interface of data layers' readers: read a batch, and tell the place behind it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from deeprebirth_caffe.data.decode import BadRecordError
from deeprebirth_caffe.data.paths import refuse
from deeprebirth_caffe.data.transform import Transform
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.proto import caffe_pb2 as pb

FloatArray = NDArray[np.float32]
State = dict[str, Any]


@dataclass
class RawBatch:
    """A batch that has been read but not decoded.

    Attributes:
        number: of the batch.
        records: the input of `make`, an entry for each record.
        keys: the records' names for people.
        after: the reader's state behind it.
    """

    number: int
    records: list[Any]
    keys: list[str]
    after: State = field(default_factory=dict)


class Reader(ABC):
    """A source, from its first batch on.

    Only one thread at a time calls `read`, `state`, `restore` and `skip`; several at once call `make`.

    Attributes:
        param: the layer.
        batch_size: records a batch.
        shapes: of the tops, from the first record.
    """

    param: pb.LayerParameter
    batch_size: int
    shapes: list[Shape]

    def __init__(self, param: pb.LayerParameter, batch_size: int) -> None:
        """Checks the settings that all kinds share."""
        if batch_size < 1:
            refuse(param, "batch_size must be given and positive")
        self.param = param
        self.batch_size = batch_size
        self.batch = 0

    @abstractmethod
    def read(self) -> RawBatch:
        """Reads the next batch."""

    @abstractmethod
    def make(self, raw: RawBatch) -> list[FloatArray]:
        """Turns a batch into the tops."""

    @abstractmethod
    def state(self) -> State:
        """The current place."""

    @abstractmethod
    def restore(self, state: State) -> None:
        """Goes back to a place."""

    @abstractmethod
    def skip(self, batches: int) -> None:
        """Skips some batches, as if they had been read."""

    def reopen(self) -> None:  # noqa: B027
        """Opens the source again in a forked process; `restore` follows."""

    def close(self) -> None:  # noqa: B027
        """Closes the source."""

    def look_for_files(self, most: int) -> None:  # noqa: B027
        """Refuses a list if any of its first `most` files is missing."""

    def look_for(self, path: Path, name: str) -> None:
        """Refuses a missing file."""
        try:
            path.stat()
        except OSError as error:
            self.bad(name, BadRecordError(f"cannot read it ({error.strerror})"))

    def bad(self, key: str, error: BadRecordError) -> NoReturn:
        """Raises RebirthError for a record."""
        refuse(self.param, f"{key}: {error}", error)


def fill(
    transform: Transform, record: NDArray[Any], planar: bool, out: FloatArray | None, index: int, count: int, draws: Any
) -> FloatArray:
    """Puts a record into its place in a batch; the first record gives the batch its shape.

    Args:
        transform: applied to the record.
        record: see `Transform.apply`.
        planar: see there.
        out: the batch; None: a new batch.
        index: the record's place.
        count: how many records the batch has.
        draws: the batch's random numbers, if any.

    Returns:
        The batch.
    """
    if out is None:
        shape = record.shape if planar else (record.shape[2] if record.ndim > 2 else 1, *record.shape[:2])
        out = np.empty((count, *transform.shape(*shape)), np.float32)
    transform.apply(record, planar, out[index], None if draws is None else draws[index])
    return out
