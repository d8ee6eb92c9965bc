"""Reads protobuf's wire format from a buffer, without a copy and without trust.

Every length is checked against the end of the message around it before anything is read. So whatever a file
claims, reading it takes no more memory than it has bytes.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

VARINT, FIXED64, BYTES, _START_GROUP, _END_GROUP, FIXED32 = range(6)
"""Wire types."""

Buffer = bytes | mmap.mmap | memoryview


class WireError(ValueError):
    """Bytes that are no message.

    Attributes:
        at: the offset of the first wrong byte.
        reason: what is wrong, as the end of a sentence.
        cut: whether the buffer ends too early.
    """

    def __init__(self, at: int, reason: str, cut: bool = False) -> None:
        super().__init__(f"byte {at}: {reason}")
        self.at = at
        self.reason = reason
        self.cut = cut


def read_varint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    """One number of at most ten bytes, and the offset behind it."""
    value = shift = 0
    for place in range(at, min(end, at + 10)):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, place + 1
        shift += 7
    if end - at < 10:
        raise WireError(at, "a number is cut off", cut=True)
    raise WireError(at, "a number has more than ten bytes")


def fields(data: Buffer, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message that fills ``[at, end)``.

    Yields:
        Number and wire type; then for VARINT the value and zero, for other types the content's begin and end.

    Raises:
        WireError: at the first wrong byte.
    """
    while at < end:
        begin = at
        # Nearly every tag and length has one or two bytes: reading it in place saves a call.
        tag = data[at]
        at += 1
        if tag >= 0x80:
            tag, at = read_varint(data, begin, end)
        number, kind = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise WireError(begin, f"there is no field {number}")
        if kind == BYTES:
            size, at = read_varint(data, at, end)
            if size > end - at:
                raise WireError(
                    begin,
                    f"field {number} claims {size} bytes where {end - at} are left",
                    cut=end == len(data),
                )
            yield number, kind, at, at + size
            at += size
        elif kind == VARINT:
            value, at = read_varint(data, at, end)
            yield number, kind, value, 0
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
            if size > end - at:
                raise WireError(begin, f"field {number} is cut off", cut=end == len(data))
            yield number, kind, at, at + size
            at += size
        else:
            raise WireError(begin, f"field {number} has the unknown type {kind}")


def encode_varint(value: int) -> bytes:
    """Encodes a number; negative ones as 64-bit two's complement."""
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_tag(number: int, kind: int) -> bytes:
    """Encodes a field's tag."""
    return encode_varint(number << 3 | kind)


def encode_head(number: int, size: int) -> bytes:
    """Encodes the tag and length in front of `size` bytes of content."""
    return encode_tag(number, BYTES) + encode_varint(size)
