"""BlobProto, Caffe's message for arrays, as NumPy arrays that share the file's bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprebirth_caffe.formats import wire

MAX_AXES = 32
"""Caffe's own limit."""

_RAW_TYPES = {0: "<f8", 1: "<f4", 2: "<f2"}
"""NVCaffe's Type: DOUBLE, FLOAT, FLOAT16. Its INT and UINT never hold weights."""
_GRADIENTS = (6, 9, 11, 13)
"""The fields of a blob's gradients, NVCaffe's among them."""


@dataclass(frozen=True, eq=False)
class BlobView:
    """One stored array.

    Attributes:
        array: float32, float64 or (only NVCaffe) float16; a read-only view of the buffer where the values stand
            together.
        legacy: whether the shape was given by num, channels, height and width.
        plain: whether plain Caffe reads it; false for NVCaffe's raw data.
    """

    array: NDArray[Any]
    legacy: bool
    plain: bool = True


class ForkBlobError(ValueError):
    """A blob whose values a fork of Caffe stores in an unknown way."""


def read_blob(data: wire.Buffer, begin: int, end: int) -> BlobView:
    """Reads the BlobProto that fills ``[begin, end)``; gradients are skipped.

    Besides Caffe's own fields, NVCaffe's are read: ``raw_data_type`` (10) and ``raw_data`` (12), the values as they lie
    in memory. NVCaffe has written them since 0.16, and so does OpenCV's ``shrinkCaffeModel``.

    Raises:
        WireError: the bytes are no message.
        ForkBlobError: a fork stores the values in an unknown way.
        ValueError: shape and values do not match.
    """
    old = [0, 0, 0, 0]
    legacy = False
    dims: list[int] = []
    floats = _Values("<f4", 5, wire.FIXED32)
    doubles = _Values("<f8", 8, wire.FIXED64)
    raw_type, raw = 0, (0, 0)
    forks: dict[int, None] = {}
    resume = begin
    while resume < end:
        # A run of unpacked values is taken at once; the walk over the fields goes on behind it.
        at, resume = resume, end
        for number, kind, first, last in wire.fields(data, at, end):
            if number in (5, 8):
                values = floats if number == 5 else doubles
                behind = values.take(data, kind, first, last, end)
                if behind != last:
                    resume = behind
                    break
            elif number == 7 and kind == wire.BYTES:
                _read_dims(data, first, last, dims)
            elif 1 <= number <= 4 and kind == wire.VARINT:
                old[number - 1] = _signed(first, 32)
                legacy = True
            elif (number, kind) == (10, wire.VARINT):
                raw_type = first
            elif (number, kind) == (12, wire.BYTES):
                raw = first, last
            elif number not in _GRADIENTS:
                forks[number] = None
    shape = old if legacy else dims
    plain = doubles.count > 0 or floats.count > 0 or raw[0] == raw[1]
    if plain:
        array = doubles.array() if doubles.count else floats.array()
    else:
        array = _raw_array(data, raw_type, *raw)
    if any(dim < 0 for dim in shape) or prod(shape) != array.size:
        wanted = " x ".join(map(str, shape)) or "one value"
        if forks and not array.size:
            raise _in_fork_fields(wanted, forks)
        raise ValueError(f"its shape is {wanted}, but it holds {array.size} values")
    return BlobView(array.reshape(shape), legacy, plain)


def _raw_array(data: wire.Buffer, raw_type: int, first: int, last: int) -> NDArray[Any]:
    """The values of NVCaffe's raw bytes, decoded by `raw_type`."""
    if raw_type not in _RAW_TYPES:
        raise ForkBlobError(
            f"its raw_data (field 12, NVCaffe's) is of type {raw_type}, and only 0 (DOUBLE), 1 (FLOAT) and 2 (FLOAT16) "
            "are known; let that Caffe save it with store_blobs_in_old_format: true"
        )
    dtype = np.dtype(_RAW_TYPES[raw_type])
    if (last - first) % dtype.itemsize:
        raise ValueError(f"its {last - first} bytes of raw data are not a multiple of {dtype.itemsize}")
    return np.frombuffer(data, dtype, (last - first) // dtype.itemsize, first)


def _in_fork_fields(wanted: str, numbers: Iterable[int]) -> ForkBlobError:
    shown = ", ".join(map(str, numbers))
    whose = ": half_data, as NVCaffe before 0.16 and TensorRT have it" if 10 in numbers else ""
    return ForkBlobError(
        f"its shape is {wanted}, but its values are not where Caffe keeps them; a fork of Caffe put them in field "
        f"{shown}{whose}; let that Caffe save the weights in single precision"
    )


def read_floats(data: wire.Buffer, number: int) -> NDArray[Any]:
    """Reads one repeated float field of a message, much faster than protobuf gives its values.

    Args:
        data: the message, already parsed once.
        number: the field's number, at most 15.
    """
    floats = _Values("<f4", number, wire.FIXED32)
    resume, end = 0, len(data)
    while resume < end:
        at, resume = resume, end
        for field, kind, first, last in wire.fields(data, at, end):
            if field == number:
                behind = floats.take(data, kind, first, last, end)
                if behind != last:
                    resume = behind
                    break
    return floats.array()


def _read_dims(data: wire.Buffer, begin: int, end: int, dims: list[int]) -> None:
    for number, kind, first, last in wire.fields(data, begin, end):
        if number != 1:
            continue
        if kind == wire.VARINT:
            dims.append(_signed(first, 64))
        elif kind == wire.BYTES:
            while first < last and len(dims) <= MAX_AXES:
                value, first = wire.read_varint(data, first, last)
                dims.append(_signed(value, 64))
        if len(dims) > MAX_AXES:
            raise ValueError(f"its shape has more than {MAX_AXES} dimensions")


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


class _Values:
    """The values of one repeated field, packed or not, in as many pieces as the file has."""

    def __init__(self, dtype: str, number: int, single: int) -> None:
        self._dtype = np.dtype(dtype)
        self._tag = number << 3 | single
        self._single = single
        self._pieces: list[NDArray[Any]] = []
        self.count = 0

    def take(self, data: wire.Buffer, kind: int, first: int, last: int, end: int) -> int:
        """Adds the values at ``[first, last)`` and, if unpacked, those that follow; returns the offset behind them."""
        size = self._dtype.itemsize
        if kind == wire.BYTES:
            if (last - first) % size:
                raise ValueError(f"its {last - first} bytes of values are not a multiple of {size}")
            if last > first:
                self._add(np.frombuffer(data, self._dtype, (last - first) // size, first))
            return last
        if kind != self._single:
            return last
        step = size + 1  # all tags here are one byte
        begin = first - 1
        most = (end - begin) // step
        rows, look = 1, 64
        while rows < most:
            look = min(2 * look, most - rows)
            tags = np.frombuffer(data, np.uint8, look * step, begin + rows * step)[::step]
            gaps = np.flatnonzero(tags != self._tag)
            if gaps.size:
                rows += int(gaps[0])
                break
            rows += look
        run = np.frombuffer(data, np.uint8, rows * step, begin).reshape(rows, step)
        self._add(np.ascontiguousarray(run[:, 1:]).view(self._dtype).reshape(rows))
        return begin + rows * step

    def _add(self, piece: NDArray[Any]) -> None:
        self._pieces.append(piece)
        self.count += piece.size

    def array(self) -> NDArray[Any]:
        if len(self._pieces) == 1:
            return self._pieces[0]
        return np.concatenate(self._pieces) if self._pieces else np.zeros(0, self._dtype)


def encode_blob(array: NDArray[Any], legacy: bool = False) -> tuple[int, list[Any]]:
    """The BlobProto of an array, in pieces: bytes, and the array itself, to be written as float32.

    Args:
        array: the values.
        legacy: write its shape as the old four dimensions; the array must have four.

    Returns:
        The size of the whole in bytes, and the pieces.
    """
    head = wire.encode_head(5, 4 * array.size) if array.size else b""
    tail = _encode_old_shape(array.shape) if legacy else _encode_shape(array.shape)
    return len(head) + 4 * array.size + len(tail), [head, array, tail]


def _encode_shape(shape: Sequence[int]) -> bytes:
    dims = b"".join(map(wire.encode_varint, shape))
    inner = wire.encode_head(1, len(dims)) + dims if dims else b""
    return wire.encode_head(7, len(inner)) + inner


def _encode_old_shape(shape: Sequence[int]) -> bytes:
    return b"".join(
        wire.encode_tag(number, wire.VARINT) + wire.encode_varint(dim) for number, dim in enumerate(shape, start=1)
    )
