"""Reads JSON from a disk and checks its shape before anybody uses it.

A shape looks like the data: `{"name": TEXT, "steps": [{"seconds": Maybe(NUMBER)}]}`. A key that ends in "?"
may be missing; keys that the shape does not name stay as they are. `ANYTHING` leaves the check to the caller.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import read_regular

DEEPEST = 100
"""The deepest nesting of lists and objects that is read; our files have ten levels."""
_LARGEST = 1e100
"""The largest number: sums and squares of many such numbers stay finite."""
_SMALLEST = 1e-100
"""The smallest number that may be a divisor."""


@dataclass(frozen=True)
class Text:
    """A string.

    Attributes:
        pattern: that it must match; None: any.
        what: the pattern in words.
    """

    pattern: re.Pattern[str] | None = None
    what: str = "a string"


@dataclass(frozen=True)
class Number:
    """A number.

    Attributes:
        whole: whether it must be whole; it is then read as an int.
        least: the smallest one.
        most: the largest one.
        lenient: whether NaN, infinity and null are allowed; they are read as NaN.
    """

    whole: bool = False
    least: float = -_LARGEST
    most: float = _LARGEST
    lenient: bool = False


@dataclass(frozen=True)
class Flag:
    """True or false."""


@dataclass(frozen=True)
class Anything:
    """Any value."""


@dataclass(frozen=True)
class Maybe:
    """A value, or null."""

    of: Shape


@dataclass(frozen=True)
class Each:
    """An object with any keys, all of whose values are alike.

    Attributes:
        of: the values.
        key: the shape of each key.
    """

    of: Shape
    key: Text = Text()


@dataclass(frozen=True)
class Either:
    """One of some shapes."""

    of: tuple[Shape, ...]


Shape = Text | Number | Flag | Anything | Maybe | Each | Either | list[Any] | dict[str, Any]
TEXT, FLAG, ANYTHING = Text(), Flag(), Anything()
NUMBER, POSITIVE = Number(), Number(least=_SMALLEST)
WHOLE, COUNT = Number(whole=True), Number(whole=True, least=0)
FILE_NAME = Text(re.compile(r"(?!\.\.?$)[^/\0]+"), "the name of a file")
"""A name that can only lead to a file of its folder."""


def parse_json(text: str | bytes) -> Any:
    """Parses a JSON text.

    Raises:
        ValueError: it is no JSON, or nested too deeply.
    """
    try:
        data = json.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    brackets = (text.count("[") + text.count("{")) if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    if brackets > DEEPEST and _depth(data) > DEEPEST:
        raise ValueError(_TOO_DEEP)
    return data


def read_json(path: Path, shape: Shape, advice: str) -> Any:
    """Reads a JSON file and checks its shape; None if the file is missing.

    Args:
        path: of the file.
        shape: see the module.
        advice: what to do about a file that cannot be read.

    Raises:
        RebirthError: it cannot be read, or has another shape.
    """
    try:
        data = parse_json(read_regular(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RebirthError(f"{path}: cannot be read ({error.strerror or error}); {advice}") from error
    except ValueError as error:
        raise RebirthError(f"{path}: cannot be read ({error}); {advice}") from error
    return held_against(path, data, shape, advice)


def held_against(path: Path, data: Any, shape: Shape, advice: str) -> Any:
    """Checks the data of a file; see `read_json`."""
    try:
        return shaped(data, shape)
    except ValueError as error:
        raise RebirthError(f"{path}: cannot be read ({error}); {advice}") from error


def shaped(data: Any, shape: Shape, where: str = "") -> Any:
    """Checks data against a shape and returns it, with whole numbers as ints.

    Args:
        data: as `parse_json` gives it.
        shape: see the module.
        where: what errors call it.

    Raises:
        ValueError: the data have another shape.
    """
    if isinstance(shape, Anything) or (isinstance(shape, Maybe) and data is None):
        return data
    if isinstance(shape, Maybe):
        return shaped(data, shape.of, where)
    if isinstance(shape, Either):
        for choice in shape.of[:-1]:
            with contextlib.suppress(ValueError):
                return shaped(data, choice, where)
        return shaped(data, shape.of[-1], where)
    if isinstance(shape, list) and isinstance(data, list):
        return [shaped(item, shape[0], f"{where}[{index}]") for index, item in enumerate(data)]
    if isinstance(shape, Each) and isinstance(data, dict):
        for key in data:
            shaped(key, shape.key, f"a key of {where}" if where else "a key")
        return {key: shaped(item, shape.of, _below(where, key)) for key, item in data.items()}
    if isinstance(shape, dict) and isinstance(data, dict):
        checked = dict(data)
        for key, inner in shape.items():
            name = key.removesuffix("?")
            if name in data:
                checked[name] = shaped(data[name], inner, _below(where, name))
            elif name == key:
                raise ValueError(f"it lacks {_below(where, name)}")
        return checked
    if isinstance(shape, Number) and (number := _number(data, shape)) is not None:
        return number
    if isinstance(shape, Flag) and isinstance(data, bool):
        return data
    if isinstance(shape, Text) and isinstance(data, str) and (not shape.pattern or shape.pattern.fullmatch(data)):
        return data
    raise ValueError(f"{where or 'it'} is {_kind_of(data)}, not {_kind_of_shape(shape)}")


def as_number(value: object) -> float | None:
    """A number of a file as a float; None if it is no number."""
    number = _number(value, NUMBER)
    return None if number is None else float(number)


_TOO_DEEP = f"its lists and objects are nested more than {DEEPEST} deep"


def _number(data: Any, shape: Number) -> float | int | None:
    if shape.lenient and (data is None or (isinstance(data, float) and not math.isfinite(data))):
        return math.nan
    if isinstance(data, bool) or not isinstance(data, (int, float)) or not shape.least <= data <= shape.most:
        return None
    if shape.whole:
        return int(data) if math.floor(data) == data else None
    return data


def _below(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _depth(data: Any) -> int:
    """The nesting depth of lists and objects, counted without recursion."""
    depth, level = 0, [data]
    while level:
        inner = [item for item in level if isinstance(item, (list, dict))]
        depth += bool(inner)
        level = [part for item in inner for part in (item.values() if isinstance(item, dict) else item)]
    return depth


def _kind_of(data: Any) -> str:
    if isinstance(data, Mapping):
        return "an object"
    if isinstance(data, list):
        return "a list"
    text = json.dumps(data) if isinstance(data, (str, float, bool)) or data is None else "a long number"
    if isinstance(data, int) and not isinstance(data, bool) and abs(data) < 10**40:
        text = str(data)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _kind_of_shape(shape: Shape) -> str:
    if isinstance(shape, Text):
        return shape.what
    if isinstance(shape, Number):
        kind = "a whole number" if shape.whole else "a number"
        return kind if shape.least < 0 else f"{kind} {'of 0 or more' if shape.least == 0 else 'above 0'}"
    if isinstance(shape, Flag):
        return "true or false"
    return "a list" if isinstance(shape, list) else "an object"
