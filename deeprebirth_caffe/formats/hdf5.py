"""Caffe's HDF5 files: weights (`.caffemodel.h5`) as ``data/LAYER/N``, and what `solverstate` needs.

Caffe recognises weights in HDF5 by their first bytes, not by their name; so does this module.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.extras import pip_install
from deeprebirth_caffe.formats import memory
from deeprebirth_caffe.formats.files import open_regular

MAGIC = b"\x89HDF\r\n\x1a\n"

Array = NDArray[Any]

SHARED: Array = np.empty(0, np.float32)
"""Stands for a parameter that the file leaves out because another layer owns it: an array without values."""

Entry = tuple[str, Sequence["Array | None"]]
"""(name, parameters) of a layer to write; None for a parameter that another layer owns."""


class Hdf5Error(RebirthError):
    """An HDF5 file that cannot be read or written."""


def is_hdf5(path: str | os.PathLike[str]) -> bool:
    """Whether a file is HDF5, by its first bytes; False where it cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def open_hdf5(path: str | os.PathLike[str]) -> Any:
    """Opens an HDF5 file for reading, as h5py does.

    Raises:
        OSError: it is missing, damaged, or no file.
        Hdf5Error: h5py is missing.
    """
    h5py = _h5py(os.fspath(path))
    with open_regular(path):
        return h5py.File(path, "r")


@contextmanager
def told_as_damage(what: str) -> Iterator[None]:
    """Turns any error of h5py about a damaged file, from an OSError to a KeyError, into an `Hdf5Error`.

    Args:
        what: the error's first words: the file, and the part that cannot be read.

    Raises:
        Hdf5Error: h5py raised something.
    """
    try:
        yield
    except (RebirthError, MemoryError, FileNotFoundError):
        raise
    except Exception as error:
        raise Hdf5Error(f"{what}; download or copy it again") from error


def find_object(group: Any, path: str) -> Any:
    """The object under a path of a group or a file; None where there is nothing.

    Raises:
        Hdf5Error: it lies in another file. That is not read, because such a link can name any file of this machine.
            The caller adds the file's name to the text.
    """
    return _follow(group, path, _LINKS)


_LINKS = 16
"""How many soft links may lead to one object."""


def _follow(group: Any, path: str, links: int) -> Any:
    h5py = _h5py(path)
    item = group.file["/"] if path.startswith("/") else group
    for part in path.split("/"):
        if part in ("", "."):
            continue
        link = item.get(part, getlink=True) if isinstance(item, h5py.Group) else None
        if isinstance(link, h5py.ExternalLink):
            raise Hdf5Error(f"{path!r} is a link into another file ({link.filename}), which is not read")
        if isinstance(link, h5py.SoftLink):
            if not links:
                raise Hdf5Error(f"{path!r} is a link to a link to a link without end")
            item = _follow(item, os.fsdecode(link.path), links - 1)  # bytes if it is no UTF-8
        else:
            item = item.get(part) if link is not None else None
        if item is None:
            return None
    return item


def find_dataset(file: Any, path: str, *, itemsize: int = 0) -> Any:
    """A dataset that may be read; None if the name is missing. See `find_object` and `check_dataset`."""
    dataset = find_object(file, path)
    if not isinstance(dataset, _h5py(path).Dataset):
        return None
    check_dataset(dataset, path, itemsize=itemsize)
    return dataset


def count_rows(path: str | os.PathLike[str], name: str) -> int:
    """How many rows a dataset of a file has.

    Raises:
        OSError, KeyError: the file or the dataset is missing.
        RebirthError: it must not be read.
    """
    with open_hdf5(path) as file:
        with told_as_damage(f"{os.fspath(path)}: cut off or damaged at {name!r}"):
            dataset = find_dataset(file, name)
            if dataset is not None:
                return len(dataset)
        raise KeyError(name)


PACKED = 200
"""How many times larger weights may be than their bytes in the file."""

_SMALL = 64 << 20


def check_dataset(dataset: Any, name: str, *, itemsize: int = 0, packed: int | None = None) -> int:
    """Refuses a dataset that lies in other files, or does not fit into memory, before any of it is read.

    Args:
        dataset: h5py's.
        name: what the error calls it.
        itemsize: bytes of each number once it is read; 0: as stored.
        packed: as PACKED; None: no limit.

    Returns:
        The bytes it takes in memory.

    Raises:
        RebirthError: it must not be read. The caller adds the file's name to the text.
    """
    if dataset.external or dataset.is_virtual:
        raise Hdf5Error(f"{name!r} keeps its numbers in another file, which is not read")
    size = prod(map(int, dataset.shape or ())) * (itemsize or dataset.dtype.itemsize)
    stored = dataset.id.get_storage_size()
    if packed is not None and size > _SMALL and size > packed * stored and not os.environ.get(memory.VARIABLE):
        raise Hdf5Error(
            f"{name!r} has {memory.gib(size)}, and the file stores {stored:,} bytes of it: these are no weights; "
            f"set ${memory.VARIABLE} (in MiB) if they are"
        )
    memory.need(size, repr(name))
    return size


def read_hdf5_model(path: str | os.PathLike[str]) -> dict[str, tuple[Array, ...]]:
    """Reads the parameters of each layer that has any, in the file's order of layers.

    A missing parameter in front of a stored one is `SHARED`. A layer that shares all its parameters is left out.

    Raises:
        Hdf5Error: it cannot be read or holds no weights; h5py is missing.
    """
    with Reader(path) as file:
        layers: dict[str, tuple[Array, ...]] = {}
        for name, group in file.groups("data", "weights: it has no group 'data'"):
            arrays = file.numbered(group, f"layer {name!r}")
            if arrays:
                layers[name] = tuple(arrays.get(index, SHARED) for index in range(max(arrays) + 1))
    if not layers:
        raise Hdf5Error(f"{os.fspath(path)}: holds no weights; give the file that Caffe saved as .caffemodel.h5")
    return layers


def stream_hdf5_model(file: BinaryIO, layers: Iterable[Entry], path: str = "weights") -> None:
    """Writes weights into an open file, as Caffe does.

    Args:
        file: where to.
        layers: all layers of the net in order, also those without parameters.
        path: what errors call it.

    Raises:
        Hdf5Error: Caffe would not find the names again; h5py is missing.
    """
    entries = list(layers)
    check_names([name for name, _ in entries], path)

    def fill(out: Any) -> None:
        data = out.create_group("data")
        for name, arrays in entries:
            group = data.create_group(name)
            for index, array in enumerate(arrays):
                if array is not None:
                    group.create_dataset(str(index), data=np.asarray(array, "<f4"))

    write_hdf5(file, fill, path)


def check_writable(names: Iterable[str], path: str) -> None:
    """Refuses, before any work is done, layer names that HDF5 cannot hold, or a missing h5py.

    Raises:
        Hdf5Error: see `check_names`; h5py is missing.
    """
    _h5py(path)
    check_names(names, path)


def check_names(names: Iterable[str], path: str) -> None:
    """Refuses layer names that HDF5 cannot hold: Caffe aborts on the nested groups that a slash makes.

    Raises:
        Hdf5Error: there is such a name, or a name repeats.
    """
    seen: set[str] = set()
    for name in names:
        if "/" in name or name in ("", "."):
            raise Hdf5Error(
                f"{path}: Caffe cannot keep layer {name!r} in HDF5 because of its name; "
                "set snapshot_format: BINARYPROTO"
            )
        if name in seen:
            raise Hdf5Error(f"{path}: two layers are called {name!r}, which HDF5 cannot hold; rename one")
        seen.add(name)


def write_hdf5(file: BinaryIO, fill: Any, path: str) -> None:
    """Builds an HDF5 file in memory with `fill(h5py.File)`, then writes it; so a full disk is an OSError."""
    h5py = _h5py(path)
    memory = io.BytesIO()
    # The oldest layout: Caffe is linked with old versions of the library.
    with h5py.File(memory, "w", libver=("earliest", "v108")) as out:
        fill(out)
    file.write(memory.getbuffer())


class Reader:
    """An open HDF5 file that raises `Hdf5Error` for each fault."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        h5py = _h5py(self.name)
        self._group, self._dataset = h5py.Group, h5py.Dataset
        self._size = 0
        try:
            self.file = open_hdf5(self.name)
        except OSError as error:
            if not is_hdf5(self.name):
                reason = getattr(error, "strerror", None) or "it is no HDF5 file"
                raise Hdf5Error(f"{self.name}: cannot read it: {reason}") from error
            raise Hdf5Error(f"{self.name}: cut off or damaged; download or copy it again") from error

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def groups(self, name: str, what: str) -> Iterable[tuple[str, Any]]:
        """The groups inside a group, by name; the error for a missing group says "no `what`"."""
        outer = self._get(self.file, name)
        if not isinstance(outer, self._group):
            raise Hdf5Error(f"{self.name}: an HDF5 file, but none with {what}")
        for key in self.keys(outer):
            inner = self._get(outer, key)
            if isinstance(inner, self._group):
                yield str(key), inner

    def group(self, name: str) -> Any:
        """A group of the file; anything else, or nothing, is an error about damage."""
        group = self._get(self.file, name)
        if not isinstance(group, self._group):
            raise Hdf5Error(f"{self.name}: cut off or damaged at {name!r}; download or copy it again")
        return group

    def numbered(self, group: Any, what: str) -> dict[int, Array]:
        """The arrays of a group, by the numbers in their names."""
        arrays: dict[int, Array] = {}
        for key in self.keys(group):
            value = self.array(group, key)
            if value is None or not str(key).isdecimal() or int(key) > 1 << 20:
                continue
            if value.dtype.kind != "f":
                raise Hdf5Error(f"{self.name}: {what} holds {value.dtype} where numbers are wanted")
            arrays[int(key)] = value
        return arrays

    def array(self, group: Any, key: str) -> Array | None:
        """The values of a dataset; None if the name is missing."""
        dataset = self._get(group, key)
        if not isinstance(dataset, self._dataset):
            return None
        with told_as_damage(f"{self.name}: cut off or damaged at {key!r}"):
            try:
                if dataset.dtype.kind == "O" and dataset.shape:
                    raise Hdf5Error(f"{key!r} holds texts, not numbers")
                self._size += check_dataset(dataset, key, packed=PACKED)
                memory.need(self._size, "what it holds")
            except RebirthError as error:
                raise Hdf5Error(f"{self.name}: {error}") from error
            return np.asarray(dataset[()])

    def _get(self, group: Any, key: str) -> Any:
        with told_as_damage(f"{self.name}: cut off or damaged at {key!r}"):
            try:
                return find_object(group, key)
            except Hdf5Error as error:
                raise Hdf5Error(f"{self.name}: {error}") from error

    def keys(self, group: Any) -> list[str]:
        """The names in a group."""
        with told_as_damage(f"{self.name}: cut off or damaged"):
            return [os.fsdecode(key) for key in group]


def _h5py(path: str) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise Hdf5Error(f"{path}: HDF5 files need h5py: {pip_install('data')}") from error
    return h5py
