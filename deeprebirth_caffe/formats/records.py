"""The shape of a training record: that of the first record that a data layer would read.

Nothing here is an error: if a source is missing, damaged or of a kind that no installed library reads, the
answer is None, and the shape must come from elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import PICTURE_LIMIT, open_regular, read_regular
from deeprebirth_caffe.formats.pictures import imdecode, load_opencv
from deeprebirth_caffe.formats.stores import first_record
from deeprebirth_caffe.proto import caffe_pb2 as pb

LIST_BYTES = 1 << 16
"""How much of a list of files is read to find its first entry."""


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
        backend: ``LMDB``, ``LEVELDB``, ``IMAGES`` (a list of images with labels)
            or ``HDF5`` (a list of HDF5 files).
        root: where relative paths start if they lead nowhere from the working directory.
        image_root: ImageData's ``root_folder``, prepended to each listed path as it is.
        top: for HDF5, the data set's name.

    Returns:
        (channels, height, width) as stored, before any cropping and resizing; for HDF5 the data set's
        dimensions without the first. None if unknown.
    """
    path = _find(source, root)
    if path is None:
        return None
    try:
        if backend in ("LMDB", "LEVELDB"):
            return _datum(first_record(path, backend))
        if backend == "IMAGES":
            return _first_image(path, root, image_root)
        if backend == "HDF5":
            return _first_hdf5(path, root, top)
    except (OSError, ValueError, DecodeError, ImportError, RebirthError):
        return None
    return None


def _find(name: str, root: str | os.PathLike[str]) -> Path | None:
    """Resolves a path from the working directory, as Caffe does, else from `root`."""
    if not name or "\0" in name:
        return None
    for path in (Path(name), Path(root) / name):
        try:
            if path.exists():
                return path
        except OSError:
            continue
    return None


def _datum(value: bytes) -> tuple[int, ...] | None:
    if not value:
        return None
    datum = pb.Datum.FromString(value)
    if datum.encoded:
        return _image(datum.data)
    shape = (datum.channels, datum.height, datum.width)
    return shape if min(shape) > 0 else None


def _first_image(listing: Path, root: str | os.PathLike[str], image_root: str) -> tuple[int, ...] | None:
    for line in _lines(listing):
        name, _, label = line.rpartition(" ")  # Caffe splits at the last space
        path = _find(image_root + (name if label else line), root)
        return _image(read_regular(path, PICTURE_LIMIT), listed=True) if path is not None else None
    return None


def _image(data: bytes, listed: bool = False) -> tuple[int, ...] | None:
    cv2 = load_opencv()
    # Listed pictures are turned as their camera says; Caffe's OpenCV does that only with JPEGs.
    turned = listed and data.startswith(b"\xff\xd8")
    flag = cv2.IMREAD_ANYCOLOR if turned else cv2.IMREAD_UNCHANGED
    image = imdecode(data, flag)
    if image is None:
        return None
    return (image.shape[2] if image.ndim > 2 else 1, image.shape[0], image.shape[1])


def _first_hdf5(listing: Path, root: str | os.PathLike[str], top: str) -> tuple[int, ...] | None:
    from deeprebirth_caffe.formats.hdf5 import find_object, open_hdf5, told_as_damage

    for line in _lines(listing):
        path = _find(line, root)
        if path is None:
            return None
        with told_as_damage(str(path)), open_hdf5(path) as file:
            dataset = find_object(file, top)
            shape = getattr(dataset, "shape", None)
            return tuple(int(size) for size in shape[1:]) if shape else None
    return None


def _lines(listing: Path) -> Iterator[str]:
    """The non-empty lines at the start of a list."""
    with open_regular(listing) as file:
        start = file.read(LIST_BYTES)
    for line in start.decode("utf-8-sig", "replace").splitlines():
        if line.strip():
            yield line.strip()
