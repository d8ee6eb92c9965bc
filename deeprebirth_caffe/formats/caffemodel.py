"""Reads caffemodel files as views into the file, and writes them as a stream.

A file of any size takes only the memory of the changed arrays. All three formats are read: today's
``layer``, V1's ``layers`` and V0's layer inside it; today's is written. A blob is the same message in all of
them, so an unchanged array is copied byte by byte.
"""

from __future__ import annotations

import logging
import mmap
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats import files, wire
from deeprebirth_caffe.formats.blobs import BlobView, ForkBlobError, encode_blob, read_blob
from deeprebirth_caffe.formats.files import open_regular
from deeprebirth_caffe.formats.legacy import V1_TYPES, v0_type
from deeprebirth_caffe.formats.sniff import not_weights

MAX_LAYERS = 1_000_000
"""More layers than this are refused; real nets have a few thousand."""

MAX_FILE = (1 << 31) - 1
"""Caffe reads no protobuf file above this size, in bytes."""


class CaffemodelError(RebirthError):
    """A weights file that cannot be read or written."""


@dataclass(frozen=True, eq=False)
class LayerBlobs:
    """The parameters of one layer in a file.

    Attributes:
        name: the layer's name.
        type: its type in today's spelling; empty where the file does not say.
        blobs: the arrays, float32, float64 or (only NVCaffe) float16; read-only views of the file where they can
            be.
        raw: each blob's message in the file; None where plain Caffe would not read it.
        legacy: for each blob, whether its shape was given by the old four dimensions (num, channels, height,
            width): a bias of N values then has the shape (1, 1, 1, N), and an M x N matrix (1, 1, M, N).
    """

    name: str
    type: str
    blobs: list[NDArray[Any]]
    raw: tuple[memoryview | None, ...]
    legacy: tuple[bool, ...]


@dataclass(frozen=True, eq=False)
class Caffemodel:
    """A weights file.

    Attributes:
        name: the net's name.
        layers: every layer in the file's order, also without parameters; names may repeat.
    """

    name: str
    layers: list[LayerBlobs]


def read_caffemodel(path: str | os.PathLike[str]) -> Caffemodel:
    """Reads a weights file without loading its arrays.

    Raises:
        CaffemodelError: it is missing, cut off, damaged, or no caffemodel; the text says what it is.
    """
    name = os.fspath(path)
    try:
        with open_regular(name) as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise CaffemodelError(f"{name}: this file is empty; download or copy it again")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CaffemodelError(f"{name}: cannot read it: {reason}") from error
    logging.getLogger(__name__).info("read %s", name)
    kind = not_weights(data[:1024], name)
    if kind:
        raise CaffemodelError(f"{name}: {kind}")
    try:
        model = _Reader(name, data).net()
    except wire.WireError as error:
        if error.cut:
            what = f"cut off: at byte {error.at} {error.reason}, of {size} in all"
        else:
            what = f"damaged, or not a caffemodel: at byte {error.at} {error.reason}"
        raise CaffemodelError(f"{name}: {what}; download or copy it again") from error
    if not model.layers:
        raise CaffemodelError(f"{name}: holds no layers, so it is no caffemodel; give the file with the weights")
    return model


class _Reader:
    def __init__(self, name: str, data: mmap.mmap) -> None:
        self._name = name
        self._data = data

    def net(self) -> Caffemodel:
        name = ""
        layers: list[LayerBlobs] = []
        for number, kind, begin, end in wire.fields(self._data, 0, len(self._data)):
            if kind != wire.BYTES:
                continue
            if number == 1:
                name = self._text(begin, end)
            elif number == 100:
                layers.append(self._layer(begin, end))
            elif number == 2:
                layers.append(self._v1_layer(begin, end))
            if len(layers) > MAX_LAYERS:
                raise CaffemodelError(f"{self._name}: more than {MAX_LAYERS} layers; this is no caffemodel")
        return Caffemodel(name, layers)

    def _layer(self, begin: int, end: int, blobs_at: int = 7, todays: Callable[[str], str] = str) -> LayerBlobs:
        """A layer whose name and type are text: one in today's form, or (`blobs_at` 50) the inside of a V0 one."""
        name = kind = ""
        blobs: list[tuple[int, int]] = []
        for number, wire_type, first, last in wire.fields(self._data, begin, end):
            if wire_type != wire.BYTES:
                continue
            if number == 1:
                name = self._text(first, last)
            elif number == 2:
                kind = todays(self._text(first, last))
            elif number == blobs_at:
                blobs.append((first, last))
        return self._blobs_of(name, kind, blobs)

    def _v1_layer(self, begin: int, end: int) -> LayerBlobs:
        name = kind = ""
        blobs: list[tuple[int, int]] = []
        for number, wire_type, first, last in wire.fields(self._data, begin, end):
            if wire_type == wire.VARINT:
                if number == 5:
                    kind = V1_TYPES.get(first, "")
            elif wire_type != wire.BYTES:
                continue
            elif number == 4:
                name = self._text(first, last)
            elif number == 6:
                blobs.append((first, last))
            elif number == 1:
                return self._layer(first, last, 50, v0_type)
        return self._blobs_of(name, kind, blobs)

    def _blobs_of(self, name: str, kind: str, spans: Sequence[tuple[int, int]]) -> LayerBlobs:
        blobs: list[BlobView] = []
        whole = memoryview(self._data)
        for number, (begin, end) in enumerate(spans):
            try:
                blobs.append(read_blob(self._data, begin, end))
            except wire.WireError:
                raise
            except ValueError as error:
                advice = "" if isinstance(error, ForkBlobError) else "; download or copy the file again"
                raise CaffemodelError(f"{self._name}: blob {number} of layer {name!r}: {error}{advice}") from error
        return LayerBlobs(
            name,
            kind,
            [blob.array for blob in blobs],
            tuple(whole[begin:end] if blob.plain else None for blob, (begin, end) in zip(blobs, spans, strict=True)),
            tuple(blob.legacy for blob in blobs),
        )

    def _text(self, begin: int, end: int) -> str:
        if end - begin > 1 << 20:
            raise wire.WireError(begin, f"a name has {end - begin} bytes")
        return bytes(self._data[begin:end]).decode("utf-8", "replace")


Entry = tuple[str, str, "LayerBlobs | Sequence[NDArray[Any]]"]
"""(name, type, parameters) of a layer to write; a LayerBlobs is copied byte by byte."""


def write_caffemodel(path: str | os.PathLike[str], name: str, layers: Iterable[Entry]) -> None:
    """Writes a weights file in today's format, whole or not at all.

    Args:
        path: where to.
        name: the net's name.
        layers: the layers in order. Arrays of any float type become float32, one at a time.

    Raises:
        RebirthError: the file cannot be written, or would be too large for Caffe to read.
    """
    with files.atomic_file(path) as file:
        stream_caffemodel(file, name, layers, os.fspath(path))


def stream_caffemodel(file: BinaryIO, name: str, layers: Iterable[Entry], path: str = "weights") -> None:
    """Writes the bytes of a weights file into an open file; see `write_caffemodel`."""
    title = name.encode("utf-8", "surrogateescape")
    total = file.write(wire.encode_head(1, len(title)) + title)
    for layer_name, kind, content in layers:
        parts: list[tuple[int, list[Any]]] = []  # each blob's size and what to write
        if isinstance(content, LayerBlobs):
            parts = [
                encode_blob(array, old) if raw is None else (len(raw), [raw])
                for raw, array, old in zip(content.raw, content.blobs, content.legacy, strict=True)
            ]
        else:
            parts = [encode_blob(array) for array in content]
        head = b""
        for number, text in ((1, layer_name), (2, kind)):
            encoded = text.encode("utf-8", "surrogateescape")
            head += wire.encode_head(number, len(encoded)) + encoded
        heads = [wire.encode_head(7, size) for size, _ in parts]
        size = len(head) + sum(map(len, heads)) + sum(size for size, _ in parts)
        front = wire.encode_head(100, size)
        total += len(front) + size
        if total > MAX_FILE:
            raise CaffemodelError(f"{path}: would be larger than 2 GiB, which Caffe does not read; write fewer layers")
        file.write(front + head)
        for blob_head, (_, chunks) in zip(heads, parts, strict=True):
            file.write(blob_head)
            for chunk in chunks:
                file.write(np.ascontiguousarray(chunk, "<f4").data if isinstance(chunk, np.ndarray) else chunk)


def matches_shape(shape: Sequence[int], wanted: Sequence[int], legacy: bool) -> bool:
    """Whether Caffe would load a stored blob into a parameter of the shape `wanted`.

    Args:
        shape: of the stored blob.
        wanted: of the parameter.
        legacy: whether the stored shape came from the old four dimensions, which are then compared from the
            end.
    """
    if legacy and len(wanted) <= 4:
        return tuple(shape) == (1,) * (4 - len(wanted)) + tuple(wanted)
    return tuple(shape) == tuple(wanted) and prod(shape) == prod(wanted)
