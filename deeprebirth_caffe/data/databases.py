"""The Data layer: Datums from LMDB or LevelDB, as Caffe 1.0 reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from deeprebirth_caffe.data.decode import BadRecordError
from deeprebirth_caffe.data.paths import find_path, refuse
from deeprebirth_caffe.data.reader import FloatArray, RawBatch, Reader, State, fill
from deeprebirth_caffe.data.rng import BATCH, generator
from deeprebirth_caffe.data.transform import Transform
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.blobs import read_floats
from deeprebirth_caffe.formats.stores import Cursor, open_cursor
from deeprebirth_caffe.proto import caffe_pb2 as pb

FLOAT_DATA = pb.Datum.FLOAT_DATA_FIELD_NUMBER


class DatabaseReader(Reader):
    """Records in the order of their keys, round and round."""

    def __init__(self, param: pb.LayerParameter, train: bool, root: Path, seed: int) -> None:
        """Opens the database and reads its first record."""
        settings = param.data_param
        super().__init__(param, settings.batch_size)
        if not settings.source:
            refuse(param, "no source given")
        self._path = find_path(settings.source, root)
        self._backend = pb.DataParameter.DB.Name(settings.backend)
        self._transform = Transform(param, train, root)
        self._seed = seed
        self._cursor = self._open()
        try:
            first = _name(self._cursor.key())
            try:
                datum, record = self._decode(self._cursor.value())
                shape = self._transform.shape(*_dimensions(datum, record))
            except BadRecordError as error:
                self.bad(first, error)
        except BaseException:
            self._cursor.close()
            raise
        self.shapes = [(self.batch_size, *shape), (self.batch_size,)][: len(param.top)]

    def _open(self) -> Cursor:
        try:
            return open_cursor(self._path, self._backend)
        except RebirthError as error:
            refuse(self.param, str(error), error)

    def read(self) -> RawBatch:
        """Reads the next records as views; nothing is copied yet."""
        records: list[Any] = []
        keys: list[str] = []
        for _ in range(self.batch_size):
            records.append(self._cursor.value())
            keys.append(_name(self._cursor.key()))
            self._advance()
        self.batch += 1
        return RawBatch(self.batch - 1, records, keys, self.state())

    def _advance(self) -> None:
        try:
            self._cursor.advance()
        except RebirthError as error:
            refuse(self.param, str(error), error)

    def make(self, raw: RawBatch) -> list[FloatArray]:
        """Decodes and transforms."""
        count = len(raw.records)
        draws = None
        if self._transform.random:
            draws = self._transform.draw(generator(self._seed, self.param.name, BATCH, raw.number), count)
        data: FloatArray | None = None
        labels = np.empty(count, np.float32)
        for index, value in enumerate(raw.records):
            try:
                datum, record = self._decode(value)
                data = fill(self._transform, record, not datum.encoded, data, index, count, draws)
            except BadRecordError as error:
                self.bad(raw.keys[index], error)
            labels[index] = datum.label
        assert data is not None
        return [data, labels][: len(self.param.top)]

    def _decode(self, value: bytes | memoryview) -> tuple[pb.Datum, NDArray[Any]]:
        try:
            datum = pb.Datum.FromString(value)  # type: ignore[arg-type]
        except DecodeError as error:
            raise BadRecordError("it is no Datum") from error
        if datum.encoded:
            return datum, self._transform.decode(datum.data)
        shape = (datum.channels, datum.height, datum.width)
        if min(shape) < 1:
            raise BadRecordError("it is no Datum with channels, height and width")
        count = datum.channels * datum.height * datum.width
        try:
            values = np.frombuffer(datum.data, np.uint8) if datum.data else read_floats(value, FLOAT_DATA)
        except ValueError as error:
            raise BadRecordError("it is no Datum") from error
        if values.size < count:
            raise BadRecordError(f"it has {values.size} values of {count}")
        return datum, values[:count].reshape(shape)

    def state(self) -> State:
        """The number of the next batch, and the key of its first record."""
        return {"batch": self.batch, "next": self._cursor.key().decode("latin-1")}

    def restore(self, state: State) -> None:
        """Goes back to that key."""
        if not self._cursor.seek(state["next"].encode("latin-1")):
            refuse(self.param, f"it has no record {state['next']} any more, where reading should go on")
        self.batch = int(state["batch"])

    def skip(self, batches: int) -> None:
        """Walks over records without reading them."""
        for _ in range(batches * self.batch_size):
            self._advance()
        self.batch += batches

    def reopen(self) -> None:
        """Opens the database anew."""
        self._cursor.close()
        self._cursor = self._open()

    def close(self) -> None:
        """Closes the database."""
        self._cursor.close()


def _dimensions(datum: pb.Datum, record: NDArray[Any]) -> tuple[int, int, int]:
    if not datum.encoded:
        return datum.channels, datum.height, datum.width
    return (1 if record.ndim == 2 else record.shape[2]), record.shape[0], record.shape[1]


def _name(key: bytes) -> str:
    return key.decode("utf-8", "backslashreplace")
