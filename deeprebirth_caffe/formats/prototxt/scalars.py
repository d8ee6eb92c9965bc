"""Scalar values: from their spelling to Python and back.

Accepts exactly what Caffe's parser accepts: octal and hexadecimal for integers only, ``1.f`` for
floats, ``t``/``1`` for booleans, a number for an enum value that exists.
"""

from __future__ import annotations

import contextlib
import math
import re
import struct
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from deeprebirth_caffe.formats.prototxt.tree import NUMBER, STRING, WORD

_INTEGER = re.compile(r"0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*")
_FLOAT = re.compile(r"(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?")
_LITERAL = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|\#[^\n]*|[^"'\#]+""", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|x([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_LOW_SURROGATE = re.compile(r"\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_SIMPLE = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, "?": 63, "'": 39, '"': 34}
_TRUE = {"true", "True", "t"}
_FALSE = {"false", "False", "f"}

_LIMITS = {"ClipParameter.min", "ClipParameter.max", "ThresholdParameter.threshold", "SolverParameter.clip_gradients"}
"""Fields in which infinity makes sense."""

Convert = Callable[[str, int], Any]
"""(spelling, kind of node) -> value; raises ValueError with the reason."""

_LIKE_SLIPS = {"EltwiseOp": {"SUB"}}
"""Values of forks that look like slips of Caffe's own, by enum."""
_ALL_TOLD = ("Phase", "LayerType")
"""Enums whose unknown values are errors: they decide which layers there are, and of what type."""


class ForkValue(ValueError):
    """A value that an enum of Caffe lacks and that is no misspelling: most likely a fork's."""


def _integer(low: int, high: int) -> Convert:
    def convert(text: str, kind: int) -> int:
        if kind != NUMBER:
            raise ValueError(f"expected an integer, found {_shown(text)}")
        negative = text[0] == "-"
        digits = _magnitude(text) if negative else text
        if not _INTEGER.fullmatch(digits):
            raise ValueError(f"expected an integer, found {_shown(text)}")
        if len(digits) > 40:  # before int(), whose cost grows with the square of the length
            raise ValueError(f"{_shown(text)} is out of range ({low} to {high})")
        if digits[0] != "0" or len(digits) == 1:
            value = int(digits)
        else:
            value = int(digits, 16 if digits[1] in "xX" else 8)
        if negative:
            value = -value
        if not low <= value <= high:
            raise ValueError(f"{_shown(text)} is out of range ({low} to {high})")
        return value

    return convert


def _float(text: str, kind: int) -> float:
    negative = text[0] == "-"
    digits = _magnitude(text) if negative else text
    if kind != STRING and digits[0].isalpha():
        word = digits.lower()
        if word in ("inf", "infinity"):
            value = float("inf")
        elif word == "nan":
            value = float("nan")
        else:
            raise ValueError(f"expected a number, found {_shown(text)}")
    elif kind == STRING or not _FLOAT.fullmatch(digits):
        raise ValueError(f"expected a decimal number, found {_shown(text)}")
    else:
        value = float(digits.rstrip("fF"))
    return -value if negative else value


def _bounded(text: str, kind: int) -> float:
    """A number that single precision holds: in most fields of a net infinity and NaN spoil the results."""
    value = _float(text, kind)
    if math.isfinite(value):
        with contextlib.suppress(OverflowError):
            struct.pack("<f", value)
            return value
    raise ValueError(f"{_shown(text)} is not a number that Caffe can use")


def _unbounded(text: str, kind: int) -> float:
    """A limit: infinity means no limit."""
    value = _float(text, kind)
    if math.isnan(value):
        raise ValueError(f"{_shown(text)} is not a number that Caffe can use")
    return value


def _bool(text: str, kind: int) -> bool:
    if kind == WORD:
        if text in _TRUE:
            return True
        if text in _FALSE:
            return False
    elif kind == NUMBER and _INTEGER.fullmatch(text) and text.lower().lstrip("0x") in ("", "1"):
        return text.endswith("1")
    raise ValueError(f"expected true or false, found {_shown(text)}")


def _string(text: str, kind: int) -> str:
    if kind != STRING:
        raise ValueError(f"expected a string in quotes, found {_shown(text)}")
    body = text[1:-1]
    if "\\" not in body and text[0] not in body and body.isascii():
        return body
    return unescape(text).decode("utf-8", "replace")


def _bytes(text: str, kind: int) -> bytes:
    if kind != STRING:
        raise ValueError(f"expected a string in quotes, found {_shown(text)}")
    return unescape(text)


def _enum(enum: Any) -> Convert:
    by_name: dict[str, int] = {value.name: value.number for value in enum.values}
    numbers = set(by_name.values())
    names = ", ".join(by_name) if len(by_name) <= 8 else ", ".join(list(by_name)[:8]) + ", ..."

    def convert(text: str, kind: int) -> int:
        if kind == WORD:
            number = by_name.get(text)
            if number is not None:
                return number
        elif kind == NUMBER:
            number = int(int32(text, kind))
            if number in numbers:
                return number
        reason = f"{_shown(text)} is not one of {enum.name}'s values ({names})"
        if kind == STRING or enum.name in _ALL_TOLD:
            raise ValueError(reason)
        if kind == NUMBER or text in _LIKE_SLIPS.get(enum.name, ()):
            raise ForkValue(reason)
        meant = next((name for name in by_name if _is_slip(text, name)), "")
        raise ValueError(f"{reason}; did you mean {meant}?") if meant else ForkValue(reason)

    return convert


def _is_slip(word: str, name: str) -> bool:
    """Whether a word may be a misspelled name: another case, or one letter wrong (two in a name of five or more)."""
    word = word.upper()
    allowed = 1 if len(name) < 5 else 2
    return word == name or (abs(len(word) - len(name)) <= allowed and _distance(word, name) <= allowed)


def _distance(a: str, b: str) -> int:
    """How many letters to insert, remove, change or swap with their neighbour."""
    rows = [list(range(len(b) + 1))]
    for i, letter in enumerate(a, start=1):
        row = [i]
        for j, right in enumerate(b, start=1):
            cost = min(rows[-1][j] + 1, row[j - 1] + 1, rows[-1][j - 1] + (letter != right))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == right:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]


def unescape(text: str) -> bytes:
    """The bytes of one or more quoted strings (with spaces and comments between them)."""
    parts: list[bytes] = []
    for match in _LITERAL.finditer(text):
        literal = match.group(1)
        if literal is None:
            continue
        body = literal[1:-1]
        at = 0
        while True:
            slash = body.find("\\", at)
            if slash < 0:
                break
            parts.append(body[at:slash].encode("utf-8", "surrogateescape"))
            escape = _ESCAPE.match(body, slash)
            assert escape is not None  # the tokenizer never ends a string with a backslash
            octal, hexa, short, long, simple = escape.groups()
            at = escape.end()
            if octal:
                parts.append(bytes((int(octal, 8) & 0xFF,)))
            elif hexa:
                parts.append(bytes((int(hexa, 16),)))
            elif simple and simple in _SIMPLE:
                parts.append(bytes((_SIMPLE[simple],)))
            elif short or long:
                code = int(short or long, 16)
                if 0xD800 <= code < 0xDC00 and (low := _LOW_SURROGATE.match(body, at)):  # a pair, as in JSON
                    code = 0x10000 + ((code - 0xD800) << 10) + int(low.group(1), 16) - 0xDC00
                    at = low.end()
                if code > 0x10FFFF:
                    raise ValueError(f"{escape.group(0)} is no character")
                parts.append(chr(code).encode("utf-8", "surrogatepass"))
            else:
                raise ValueError(f"unknown escape {escape.group(0)!a} in a string")
        parts.append(body[at:].encode("utf-8", "surrogateescape"))
    return b"".join(parts)


def _magnitude(text: str) -> str:
    """The spelling behind a minus sign, with spaces and comments between."""
    rest = text[1:].lstrip()
    while rest.startswith("#"):
        rest = rest.partition("\n")[2].lstrip()
    return rest


def _shown(text: str) -> str:
    flat = " ".join(text.split())
    return ascii(flat if len(flat) <= 40 else flat[:37] + "...")


int32 = _integer(-(1 << 31), (1 << 31) - 1)
_CONVERT: dict[int, Convert] = {
    FieldDescriptor.CPPTYPE_INT32: int32,
    FieldDescriptor.CPPTYPE_INT64: _integer(-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: _integer(0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: _integer(0, (1 << 64) - 1),
    FieldDescriptor.CPPTYPE_FLOAT: _bounded,
    FieldDescriptor.CPPTYPE_DOUBLE: _bounded,
    FieldDescriptor.CPPTYPE_BOOL: _bool,
}


def converter(field: FieldDescriptor) -> Convert:
    """The function that turns the spelling of a scalar field into its value."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return _bytes if field.type == FieldDescriptor.TYPE_BYTES else _string
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return _enum(field.enum_type)
    owner: Any = field.containing_type
    if f"{owner.name}.{field.name}" in _LIMITS:
        return _unbounded
    return _CONVERT[field.cpp_type]


def format_float(value: float) -> str:
    """The shortest decimal that reads back as the same float32."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and 0 < abs(value) < 1e7:
        return str(int(value))
    for digits in range(6, 10):
        text = f"{value:.{digits}g}"
        try:
            if struct.unpack("<f", struct.pack("<f", float(text)))[0] == value:
                return text
        except OverflowError:  # rounded up beyond the largest float32
            continue
    return repr(value)


def format_string(value: str | bytes, quote: str = '"') -> str:
    """A quoted string with protobuf's escapes; valid characters beyond ASCII stay as they are."""
    if isinstance(value, bytes):
        out = "".join(_escaped(chr(b), quote) if b < 0x7F else f"\\{b:03o}" for b in value)
    elif value.isprintable() and quote not in value and "\\" not in value:
        return quote + value + quote
    else:
        out = "".join(_escaped(c, quote) for c in value)
    return quote + out + quote


def _escaped(char: str, quote: str) -> str:
    if char in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[char]
    if char in (quote, "\\"):
        return "\\" + char
    if char.isprintable():
        return char
    return "".join(f"\\{b:03o}" for b in char.encode("utf-8", "surrogateescape"))


def format_scalar(field: FieldDescriptor, value: Any, quote: str = '"') -> str:
    """The spelling of a scalar field's value."""
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return format_string(value, quote)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return "true" if value else "false"
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        enum: Any = field.enum_type
        known = enum.values_by_number.get(value)
        return known.name if known is not None else str(value)
    if kind == FieldDescriptor.CPPTYPE_FLOAT:
        return format_float(value)
    if kind == FieldDescriptor.CPPTYPE_DOUBLE:
        return repr(value).removesuffix(".0")
    return str(value)
