"""`open_layer`: a Caffe data layer as a source of batches."""

from __future__ import annotations

import os
from math import prod
from pathlib import Path

from deeprebirth_caffe.data.databases import DatabaseReader
from deeprebirth_caffe.data.hdf5_data import HDF5Reader
from deeprebirth_caffe.data.images import ImageReader
from deeprebirth_caffe.data.paths import refuse
from deeprebirth_caffe.data.prefetch import Prefetcher
from deeprebirth_caffe.data.reader import FloatArray, RawBatch, Reader, State
from deeprebirth_caffe.data.windows import WindowReader
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.proto import caffe_pb2 as pb

READERS: dict[str, type[DatabaseReader | ImageReader | HDF5Reader | WindowReader]] = {
    "Data": DatabaseReader,
    "ImageData": ImageReader,
    "HDF5Data": HDF5Reader,
    "WindowData": WindowReader,
}
"""The layer types that read files."""

AHEAD_BYTES = 256 << 20
"""About how much memory the batches read ahead may take."""

MOST_THREADS = 4


class DataLayer:
    """The batches of a data layer, in order. It is also a context manager.

    Attributes:
        batch_size: records a batch.
        shapes: of the tops, from the source's first record. As in Caffe, a batch of a Data or ImageData layer has
            the shape of its first record.
        keys: for each record of the last batch, its key in the database or its file.
    """

    def __init__(self, reader: Reader, threads: int | None = None) -> None:
        """Takes over a reader; it reads nothing ahead before the first `next`.

        Args:
            reader: the source of batches.
            threads: how many threads make batches; None: as many as processors, at most four.
        """
        self._reader = reader
        self.batch_size = reader.batch_size
        self.shapes: list[Shape] = list(reader.shapes)
        self.keys: list[str] = []
        self._threads = max(1, min(os.cpu_count() or 1, MOST_THREADS) if threads is None else threads)
        self._state = reader.state()
        self._ahead: Prefetcher[RawBatch, list[FloatArray]] | None = None
        self._process = os.getpid()
        self._closed = False

    def next(self) -> list[FloatArray]:
        """The next batch: a new array for each top.

        Raises:
            RebirthError: a record cannot be used; the text names layer, source and record.
        """
        self._check_process()
        if self._closed:
            refuse(self._reader.param, "it has been closed")
        if self._ahead is None:
            size = 4 * sum(prod(shape) for shape in self.shapes)
            depth = max(2, min(self._threads + 2, AHEAD_BYTES // max(size, 1)))
            self._ahead = Prefetcher(self._reader.read, self._reader.make, self._threads, depth)
        raw, arrays = self._ahead.next()
        self._state = raw.after
        self.keys = raw.keys
        return arrays

    def state(self) -> State:
        """The place behind the last batch; JSON can hold it."""
        return dict(self._state)

    def restore(self, state: State) -> None:
        """Goes on from a `state()` of this layer, in this run or an earlier run.

        Raises:
            RebirthError: the state is another layer's, or the source has changed too much.
        """
        self._check_process()
        self._stop()
        try:
            try:
                if not 0 <= state["batch"] < 2**62:
                    raise ValueError("no number of a batch")
                self._reader.restore(state)
            except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
                refuse(self._reader.param, "the saved state of this data layer is damaged or another layer's", error)
        except RebirthError:
            self._reader.restore(self._state)
            raise
        self._state = self._reader.state()

    def skip(self, batches: int) -> None:
        """Skips some batches."""
        self._check_process()
        self._stop()
        self._reader.restore(self._state)
        self._reader.skip(batches)
        self._state = self._reader.state()

    def close(self) -> None:
        """Ends the threads and closes the source; a second call does nothing."""
        if not self._closed:
            self._closed = True
            if self._process == os.getpid():
                self._stop()
            self._reader.close()

    def __enter__(self) -> DataLayer:
        """Itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes it."""
        self.close()

    def _stop(self) -> None:
        if self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            ahead.close()
            self._reader.restore(self._state)

    def _check_process(self) -> None:
        if self._process != os.getpid():
            # After a fork the threads are gone, with the batches that they had made ahead.
            self._process = os.getpid()
            self._ahead = None
            if not self._closed:
                self._reader.reopen()
                self._reader.restore(self._state)


def open_layer(
    param: pb.LayerParameter, train: bool, root: str | Path, *, seed: int = 0, threads: int | None = None
) -> DataLayer:
    """Opens the source of a data layer.

    Args:
        param: the layer: Data, ImageData, HDF5Data or WindowData.
        train: whether the phase is TRAIN, where crops are random.
        root: the directory where relative paths start.
        seed: of everything random. Batches depend only on seed, layer name and batch number.
        threads: how many threads make batches; None: as many as processors, at most four. Batches do not
            depend on it.

    Raises:
        RebirthError: the source or the layer's settings cannot be used; the text names layer and source.
    """
    reader = READERS.get(param.type)
    if reader is None:
        refuse(param, f"reads no files; the layers that do are {', '.join(READERS)}")
    return DataLayer(reader(param, train, Path(root), seed), threads)
