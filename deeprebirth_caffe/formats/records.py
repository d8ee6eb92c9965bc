"""The shape of one training record, found by looking at the first one a data layer would read.

Nothing here is an error: where a source is missing, damaged or of a kind that no installed library reads, the
answer is None, and the shape has to come from elsewhere.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from deeprebirth_caffe.proto import caffe_pb2 as pb

LIST_BYTES = 1 << 16
"""How much of a list of files is read to find its first entry."""

_CHANNELS = {"1": 1, "L": 1, "I;16": 1, "I": 1, "F": 1, "LA": 4, "RGBA": 4, "PA": 4}


def datum_shape(
    source: str,
    backend: str,
    root: str | os.PathLike[str] = ".",
    *,
    image_root: str = "",
    top: str = "data",
) -> tuple[int, ...] | None:
    """The shape of the first record of a data source.

    Args:
        source: the layer's ``source``: a database's directory, or a list of files.
        backend: ``LMDB``, ``LEVELDB`` (no library reads it: None), ``IMAGES`` (a list of images with labels)
            or ``HDF5`` (a list of HDF5 files).
        root: where relative paths are looked up if they do not lead anywhere from the working directory.
        image_root: ImageData's ``root_folder``, put in front of each listed path as it is.
        top: for HDF5, the data set's name.

    Returns:
        (channels, height, width) as stored, before any cropping and resizing; for HDF5 the data set's
        dimensions without the first. None if it cannot be found out.
    """
    path = _find(source, root)
    if path is None:
        return None
    try:
        if backend == "LMDB":
            return _lmdb(path)
        if backend == "IMAGES":
            return _first_image(path, root, image_root)
        if backend == "HDF5":
            return _first_hdf5(path, root, top)
    except (OSError, ValueError, DecodeError, ImportError):
        return None
    return None


def _find(name: str, root: str | os.PathLike[str]) -> Path | None:
    """Where a path leads: from the working directory, as Caffe has it, else from `root`."""
    if not name or "\0" in name:
        return None
    for path in (Path(name), Path(root) / name):
        try:
            if path.exists():
                return path
        except OSError:
            continue
    return None


def _lmdb(path: Path) -> tuple[int, ...] | None:
    import lmdb

    try:
        # Without locks: the database may be on a read-only disk, and nothing is written.
        with (
            lmdb.open(
                str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False, create=False
            ) as database,
            database.begin() as transaction,
        ):
            cursor = transaction.cursor()
            value = bytes(cursor.value()) if cursor.first() else b""
    except lmdb.Error:
        return None
    return _datum(value)


def _datum(value: bytes) -> tuple[int, ...] | None:
    if not value:
        return None
    datum = pb.Datum.FromString(value)
    if datum.encoded:
        return _image(io.BytesIO(datum.data))
    shape = (datum.channels, datum.height, datum.width)
    return shape if min(shape) > 0 else None


def _first_image(listing: Path, root: str | os.PathLike[str], image_root: str) -> tuple[int, ...] | None:
    for line in _lines(listing):
        name, _, label = line.rpartition(" ")  # Caffe splits at the last space
        path = _find(image_root + (name if label else line), root)
        return _image(path) if path is not None else None
    return None


def _image(file: Any) -> tuple[int, ...] | None:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about sizes: only the header is read
        try:
            with Image.open(file) as image:
                width, height = image.size
                return (_CHANNELS.get(image.mode, 3), height, width)
        except Image.DecompressionBombError:
            return None


def _first_hdf5(listing: Path, root: str | os.PathLike[str], top: str) -> tuple[int, ...] | None:
    import h5py

    for line in _lines(listing):
        path = _find(line, root)
        if path is None:
            return None
        with h5py.File(path, "r") as file:
            found = file.get(top)
            shape = getattr(found, "shape", None)
            return tuple(int(size) for size in shape[1:]) if shape else None
    return None


def _lines(listing: Path) -> Iterator[str]:
    """The lines of a list that are not empty, as far as its beginning goes."""
    with listing.open("rb") as file:
        start = file.read(LIST_BYTES)
    for line in start.decode("utf-8", "replace").splitlines():
        if line.strip():
            yield line.strip()
