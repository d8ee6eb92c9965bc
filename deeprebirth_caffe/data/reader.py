"""What a kind of data layer has to say: how to read a batch, and where it then is."""

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
class Job:
    """A batch that has been read but not decoded.

    Attributes:
        number: which batch it is.
        records: what `make` needs, one entry a record.
        keys: what people know the records by.
        after: the reader's state behind it.
    """

    number: int
    records: list[Any]
    keys: list[str]
    after: State = field(default_factory=dict)


class Reader(ABC):
    """A source, from its first batch on.

    `read`, `state`, `restore` and `skip` are called by one thread at a time, `make` by several at once.

    Attributes:
        param: the layer.
        batch_size: records a batch.
        shapes: of the tops, as the first record has them.
    """

    param: pb.LayerParameter
    batch_size: int
    shapes: list[Shape]

    def __init__(self, param: pb.LayerParameter, batch_size: int) -> None:
        """Checks what all kinds share."""
        if batch_size < 1:
            refuse(param, "batch_size must be given and positive")
        self.param = param
        self.batch_size = batch_size
        self.batch = 0

    @abstractmethod
    def read(self) -> Job:
        """Reads the next batch."""

    @abstractmethod
    def make(self, job: Job) -> list[FloatArray]:
        """Turns it into the tops."""

    @abstractmethod
    def state(self) -> State:
        """Where it is."""

    @abstractmethod
    def restore(self, state: State) -> None:
        """Goes to where it was."""

    @abstractmethod
    def skip(self, batches: int) -> None:
        """Passes over some batches, as if they had been read."""

    def reopen(self) -> None:  # noqa: B027
        """Opens anew, in a forked process, what does not survive a fork; `restore` follows."""

    def close(self) -> None:  # noqa: B027
        """Lets go of the source."""

    def look_for_files(self, most: int) -> None:  # noqa: B027
        """Refuses a list where one of the first `most` files is not there."""

    def look_for(self, path: Path, name: str) -> None:
        """Refuses a file that is not there."""
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
    """Puts a record into its place in a batch; the first one says what shape the batch has.

    Args:
        transform: what is done to it.
        record: see `Transform.apply`.
        planar: see there.
        out: the batch; None: it is made here.
        index: the record's place.
        count: how many records the batch has.
        draws: the batch's random numbers, if there are any.

    Returns:
        The batch.
    """
    if out is None:
        shape = record.shape if planar else (record.shape[2] if record.ndim > 2 else 1, *record.shape[:2])
        out = np.empty((count, *transform.shape(*shape)), np.float32)
    transform.apply(record, planar, out[index], None if draws is None else draws[index])
    return out
