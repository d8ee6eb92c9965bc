"""The HDF5Data layer: a list of files with a data set for each top."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from deeprebirth_caffe.data.libraries import need
from deeprebirth_caffe.data.paths import find_path, refuse
from deeprebirth_caffe.data.reader import FloatArray, RawBatch, Reader, State
from deeprebirth_caffe.data.rng import EPOCH, FILES, generator
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats import memory
from deeprebirth_caffe.formats.files import read_regular_text
from deeprebirth_caffe.formats.hdf5 import find_dataset, open_hdf5, told_as_damage
from deeprebirth_caffe.proto import caffe_pb2 as pb


class HDF5Reader(Reader):
    """The rows of several files, file after file, round after round; a single file is in memory at a time."""

    def __init__(self, param: pb.LayerParameter, train: bool, root: Path, seed: int) -> None:
        """Reads the list and checks the data sets of every file."""
        settings = param.hdf5_data_param
        super().__init__(param, settings.batch_size)
        if param.HasField("transform_param"):
            refuse(param, "HDF5Data does not transform data: remove transform_param")
        if not settings.source:
            refuse(param, "no source given")
        self._seed = seed
        self._root = root
        self._names = self._read_list(find_path(settings.source, root))
        self._shapes = [self._look(name) for name in self._names]
        self._rows = [shapes[0][0] for shapes in self._shapes]
        self.shapes = [(self.batch_size, *shape[1:]) for shape in self._shapes[0]]
        for name, shapes in zip(self._names, self._shapes, strict=True):
            for top, here, first in zip(param.top, shapes, self._shapes[0], strict=True):
                if here[1:] != first[1:]:
                    refuse(param, f'{name}: data set "{top}" has rows of another shape than in {self._names[0]}')
        self._loaded: tuple[int, list[FloatArray]] = (-1, [])
        self._seek(0)

    def _read_list(self, path: Path) -> list[str]:
        try:
            names = read_regular_text(path).split()
        except OSError as error:
            refuse(self.param, f"cannot read this list ({error.strerror})", error)
        if not names:
            refuse(self.param, "this list is empty")
        return names

    def _open(self, name: str) -> Any:
        need("h5py", "reading HDF5")
        path = find_path(name, self._root)
        try:
            return open_hdf5(path)
        except OSError as error:
            self.look_for(path, name)
            refuse(self.param, f"{name}: no HDF5 file, or a damaged one, or one that is being written", error)

    def _look(self, name: str) -> list[tuple[int, ...]]:
        shapes = []
        with self._open(name) as file:
            for top in self.param.top:
                try:
                    with told_as_damage(f"cut off or damaged at {top!r}"):
                        dataset = find_dataset(file, top, itemsize=4)
                        shape, kind = (None, "") if dataset is None else (dataset.shape, dataset.dtype.kind)
                    memory.need(8 * int(shape[0]) if shape else 0, f"the order of the rows of {top!r}")
                except RebirthError as error:
                    refuse(self.param, f"{name}: {error}", error)
                if dataset is None:
                    refuse(self.param, f'{name}: there is no data set "{top}"')
                if not shape or kind not in "fiu":
                    refuse(self.param, f'{name}: data set "{top}" does not hold rows of numbers')
                shapes.append(tuple(int(size) for size in shape))
        if len({shape[0] for shape in shapes}) != 1:
            refuse(self.param, f"{name}: its data sets do not have the same number of rows")
        if not shapes[0][0]:
            refuse(self.param, f"{name}: its data sets have no rows")
        return shapes

    def _load(self, index: int) -> list[FloatArray]:
        if self._loaded[0] != index:
            self._loaded = -1, []
            arrays = []
            with self._open(self._names[index]) as file:
                for top, shape in zip(self.param.top, self._shapes[index], strict=True):
                    array = np.empty(shape, np.float32)
                    try:
                        with told_as_damage("cut off or damaged"):
                            find_dataset(file, top, itemsize=4).read_direct(array)
                    except RebirthError as error:
                        refuse(self.param, f'{self._names[index]}: cannot read data set "{top}"', error)
                    arrays.append(array)
            self._loaded = index, arrays
        return self._loaded[1]

    def _seek(self, batch: int) -> None:
        self.batch = batch
        self._epoch, row = divmod(batch * self.batch_size, sum(self._rows))
        self._order_files()
        self._turn = 0
        while row >= self._rows[self._files[self._turn]]:
            row -= self._rows[self._files[self._turn]]
            self._turn += 1
        self._row = row
        self._order_rows()

    def _order_files(self) -> None:
        count = len(self._names)
        if self.param.hdf5_data_param.shuffle:
            self._files = generator(self._seed, self.param.name, FILES, self._epoch).permutation(count).tolist()
        else:
            self._files = list(range(count))

    def _order_rows(self) -> None:
        self._order = np.arange(self._rows[self._files[self._turn]])
        if self.param.hdf5_data_param.shuffle:
            self._order = generator(self._seed, self.param.name, EPOCH, self._epoch, self._turn).permutation(
                self._order
            )

    def read(self) -> RawBatch:
        tops = [np.empty(shape, np.float32) for shape in self.shapes]
        keys: list[str] = []
        while len(keys) < self.batch_size:
            index = self._files[self._turn]
            arrays = self._load(index)
            rows = self._order[self._row : self._row + self.batch_size - len(keys)]
            for top, array in zip(tops, arrays, strict=True):
                top[len(keys) : len(keys) + len(rows)] = array[rows]
            keys += [f"{self._names[index]}:{row}" for row in rows]
            self._row += len(rows)
            if self._row == self._rows[index]:
                self._row = 0
                self._turn += 1
                if self._turn == len(self._names):
                    self._turn = 0
                    self._epoch += 1
                    self._order_files()
                self._order_rows()
        self.batch += 1
        return RawBatch(self.batch - 1, tops, keys, self.state())

    def make(self, raw: RawBatch) -> list[FloatArray]:
        return raw.records

    def state(self) -> State:
        return {"batch": self.batch, "rows": sum(self._rows)}

    def restore(self, state: State) -> None:
        if int(state["rows"]) != sum(self._rows):
            refuse(self.param, f"its files have {sum(self._rows)} rows now, {state['rows']} when they were left")
        self._seek(int(state["batch"]))

    def skip(self, batches: int) -> None:
        self._seek(self.batch + batches)
