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
from deeprebirth_caffe.data.reader import FloatArray, Job, Reader, State
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
"""About how much memory batches may take that have not been asked for yet."""

MOST_THREADS = 4


class DataLayer:
    """The batches of a data layer, in order; also a context manager.

    Attributes:
        batch_size: records a batch.
        shapes: of the tops, as the source's first record has them. A Data or ImageData layer's batches have the
            shape that each one's first record makes, as in Caffe.
        keys: for each record of the batch last given, its key in the database or its file.
    """

    def __init__(self, reader: Reader, threads: int | None = None) -> None:
        """Takes a reader over; nothing is read ahead before the first `next`.

        Args:
            reader: where batches come from.
            threads: how many threads make them; None: up to four, as the machine has processors.
        """
        self._reader = reader
        self.batch_size = reader.batch_size
        self.shapes: list[Shape] = list(reader.shapes)
        self.keys: list[str] = []
        self._threads = max(1, min(os.cpu_count() or 1, MOST_THREADS) if threads is None else threads)
        self._state = reader.state()
        self._ahead: Prefetcher[Job, list[FloatArray]] | None = None
        self._process = os.getpid()
        self._closed = False

    def next(self) -> list[FloatArray]:
        """The next batch: a new array for each top.

        Raises:
            RebirthError: a record cannot be used; names layer, source and record.
        """
        self._check_process()
        if self._closed:
            refuse(self._reader.param, "it has been closed")
        if self._ahead is None:
            size = 4 * sum(prod(shape) for shape in self.shapes)
            depth = max(2, min(self._threads + 2, AHEAD_BYTES // max(size, 1)))
            self._ahead = Prefetcher(self._reader.read, self._reader.make, self._threads, depth)
        job, arrays = self._ahead.next()
        self._state = job.after
        self.keys = job.keys
        return arrays

    def state(self) -> State:
        """Where the batches given so far ended; JSON can hold it."""
        return dict(self._state)

    def restore(self, state: State) -> None:
        """Goes on from a `state()`, of this layer or of an earlier run's.

        Raises:
            RebirthError: it is not this layer's, or the source has changed so that it cannot go on.
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
        """Passes over some batches."""
        self._check_process()
        self._stop()
        self._reader.restore(self._state)
        self._reader.skip(batches)
        self._state = self._reader.state()

    def close(self) -> None:
        """Ends its threads and lets go of the source; a second time does nothing."""
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
            # After a fork the threads are gone, and what they had made ahead with them.
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
        train: whether it is in phase TRAIN, where crops are random.
        root: the directory where its relative paths start.
        seed: of everything random. Batches depend on seed, layer name and batch number alone.
        threads: how many threads make batches; None: up to four, as the machine has processors. Batches do not
            depend on it.

    Raises:
        RebirthError: the source or the layer's settings cannot be used; names the layer and the source.
    """
    reader = READERS.get(param.type)
    if reader is None:
        refuse(param, f"reads no files; the layers that do are {', '.join(READERS)}")
    return DataLayer(reader(param, train, Path(root), seed), threads)
