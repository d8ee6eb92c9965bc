"""Files as NVCaffe 0.16 and OpenCV's shrinkCaffeModel write them: values as raw data, unknown to plain Caffe."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deeprebirth_caffe.formats import wire

TYPES = {"<f8": 0, "<f4": 1, "<f2": 2}
"""NVCaffe's number of each type."""


def raw_blob(plain: bytes, dtype: str, kind: int | None = None) -> bytes:
    """A BlobProto with raw_data_type (10) and raw_data (12) in the place of data (5)."""
    out = b""
    for number, wire_type, first, last in wire.fields(plain, 0, len(plain)):
        if number == 5:
            values = np.frombuffer(plain[first:last], "<f4").astype(dtype).tobytes()
            out += wire.encode_tag(10, wire.VARINT) + wire.encode_varint(TYPES[dtype] if kind is None else kind)
            out += wire.encode_head(12, len(values)) + values
        else:
            out += _field(plain, number, wire_type, first, last)
    return out


def raw_model(plain: bytes, dtype: str) -> bytes:
    """A caffemodel with raw blobs: field 7 of each layer (100)."""
    return _inside(plain, 100, lambda layer: _inside(layer, 7, lambda blob: raw_blob(blob, dtype)))


def raw_state(plain: bytes, dtype: str) -> bytes:
    """A solverstate with raw blobs: field 3."""
    return _inside(plain, 3, lambda blob: raw_blob(blob, dtype))


def _inside(data: bytes, field: int, change: Callable[[bytes], bytes]) -> bytes:
    out = b""
    for number, wire_type, first, last in wire.fields(data, 0, len(data)):
        if (number, wire_type) == (field, wire.BYTES):
            changed = change(data[first:last])
            out += wire.encode_head(number, len(changed)) + changed
        else:
            out += _field(data, number, wire_type, first, last)
    return out


def _field(data: bytes, number: int, wire_type: int, first: int, last: int) -> bytes:
    if wire_type == wire.VARINT:
        return wire.encode_tag(number, wire_type) + wire.encode_varint(first)
    head = wire.encode_head(number, last - first) if wire_type == wire.BYTES else wire.encode_tag(number, wire_type)
    return head + data[first:last]
