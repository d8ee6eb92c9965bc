"""How the text of an option is read: places of files, numbers, choices, and what has a spelling of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any

MAX_INT = 2**31 - 1
"""The largest number that Caffe counts to."""


@dataclass(frozen=True)
class Kind:
    """Any text."""

    def spell(self, value: Any) -> str:
        """The text of a value."""
        return str(value)

    def check(self, value: Any) -> Any:
        """The value that a program gave, as commands take it.

        Raises:
            ValueError: the option does not take it; the text says why.
        """
        return value


@dataclass(frozen=True)
class Flag(Kind):
    """Said or not said."""

    def check(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError(f"{value!r} is neither True nor False")
        return value


@dataclass(frozen=True)
class Place(Kind):
    """A path.

    Attributes:
        exists: whether it has to be there.
        file: whether it may be a file.
        folder: whether it may be a folder.
        stdin: whether `-` stands for standard input.
        dash: why `-` means nothing; empty and no `stdin`: it is a name like any other, and maybe standard output.
    """

    exists: bool = False
    file: bool = True
    folder: bool = True
    stdin: bool = False
    dash: str = ""

    def check(self, value: Any) -> Path:
        path = Path(value)
        if self.exists and not path.exists():
            raise ValueError(f"{path} does not exist")
        if path.is_dir() and not self.folder:
            raise ValueError(f"{path} is a directory")
        if path.is_file() and not self.file:
            raise ValueError(f"{path} is a file")
        return path


@dataclass(frozen=True)
class Whole(Kind):
    """A whole number; both limits may be reached."""

    least: int | None = None
    most: int | None = None

    def check(self, value: Any) -> int:
        number = index(value)
        if (self.least is not None and number < self.least) or (self.most is not None and number > self.most):
            raise ValueError(f"{number} is not in the range from {self.least} to {self.most}")
        return number


@dataclass(frozen=True)
class Real(Kind):
    """A number that Caffe's single precision can hold.

    Attributes:
        least: the limit below.
        most: the limit above.
        above: whether it has to be more than `least`.
        below: whether it has to be less than `most`.
    """

    least: float | None = None
    most: float | None = None
    above: bool = False
    below: bool = False

    def check(self, value: Any) -> float:
        number = float(value)
        low = self.least is None or number > self.least or (number == self.least and not self.above)
        high = self.most is None or number < self.most or (number == self.most and not self.below)
        if not (low and high and abs(number) < 1e38):
            raise ValueError(f"{number:g} is out of range")
        return number


@dataclass(frozen=True)
class OneOf(Kind):
    """One of some words."""

    words: tuple[str, ...]

    def check(self, value: Any) -> str:
        if value not in self.words:
            raise ValueError(f"{value!r} is none of {', '.join(self.words)}")
        return str(value)


@dataclass(frozen=True)
class Spelled(Kind):
    """What has a spelling of its own.

    Attributes:
        name: what the help calls it.
        parse: reads a text; raises ValueError, whose text says what it is not.
        form: makes a text of a value.
    """

    name: str
    parse: Callable[[str], Any]
    form: Callable[[Any], str] = str

    def spell(self, value: Any) -> str:
        return self.form(value)

    def check(self, value: Any) -> Any:
        return self.parse(value if isinstance(value, str) else self.form(value))


TEXT = Kind()
FLAG = Flag()
FILE = Place(exists=True, folder=False, dash="this file is read more than once, or from where it lies; save it")
NET = Place(exists=True, folder=False, stdin=True)
"""A net, which may come through standard input."""
FOLDER = Place(file=False, dash="a folder is written, with several files")
THERE = Place(exists=True, file=False)
"""A folder to read."""
OUT = Place()
"""A file or folder to write; - may be standard output."""
OUT_FILE = Place(folder=False)
POSITIVE = Real(0, above=True)
COUNT = Whole(1, MAX_INT)
SEED = Whole(0)


def digits(text: str, most: int = MAX_INT) -> int | None:
    """The number that a text of digits alone says; None for another text, or where it is more."""
    short = text.isascii() and text.isdigit() and len(text) <= len(str(most))
    return int(text) if short and int(text) <= most else None


def _kernel(text: str) -> str | int:
    if text in ("keep", "receptive"):
        return text
    if not (size := digits(text, 10**9 - 1)):
        raise ValueError(f"{text!r} is not keep, receptive or a kernel size")
    return size


def _reduce(text: str) -> tuple[str, float]:
    pattern, _, number = text.rpartition("=")
    try:
        ratio = float(number)
    except ValueError:
        ratio = 0.0
    if not 0 < ratio <= 1:
        raise ValueError(f"{text!r} is not a ratio above 0 and at most 1, nor PATTERN=ratio")
    return pattern, ratio


def _parts(text: str) -> tuple[str, ...]:
    found = [word for word in text.lower().split(",") if word]
    for word in found:
        sides = word.split("x")
        sized = all((digits(side, 999) or 0) > 0 for side in sides if side != "k")
        if word != "bn" and not (len(sides) == 2 and sized):
            raise ValueError(f"{word!r} is no part: bn, or a kernel such as 1x1, 1xk, kxk, 3x1")
    return tuple(word for word in found if word != "bn")


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    blob, _, dims = text.rpartition("=")
    try:
        shape = tuple(int(dim) for dim in dims.replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if not blob or not shape or min(shape) < 1 or max(shape) > MAX_INT:
        raise ValueError(f"{text!r} is not of the form data=3,224,224")
    return blob, shape


def _size(text: str) -> tuple[int, int]:
    numbers = [digits(side, 2**15 - 1) or 0 for side in text.lower().split("x")]
    if len(numbers) > 2 or not all(numbers):
        raise ValueError(f"{text!r} is not a size: 256 or 240x320, height first, at most 32767")
    return numbers[0], numbers[-1]


def _means(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) not in (1, 3) or not all(abs(number) < 1e38 for number in found):
        raise ValueError(f"{text!r} is not one number or three, as 104,117,123")
    return found


def _batches(text: str) -> int:
    count = 0 if text == "all" else digits(text)
    if count is None:
        raise ValueError(f"{text!r} is not a number of batches, nor all")
    return count


_UNITS = {"B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def _memory(text: str) -> int:
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?) ?([A-Za-z]+)", text)
    if not found or found[2].upper() not in _UNITS or not float(found[1]):
        raise ValueError(f"{text!r} is not of the form 12GiB (or MiB, GB, MB)")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def parse_cpus(text: str) -> list[int]:
    """Processors from a list ("0-3,6") or a mask ("0x4f").

    Raises:
        ValueError: it is neither, or names none.
    """
    found: set[int] = set()
    if re.fullmatch(r"0[xX][0-9a-fA-F]{1,64}", text):
        mask = int(text, 16)
        found = {bit for bit in range(mask.bit_length()) if mask >> bit & 1}
    elif re.fullmatch(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*", text, re.ASCII):
        for part in text.split(","):
            first, _, last = part.partition("-")
            found.update(range(int(first), int(last or first) + 1))
    if not found:
        raise ValueError(f"{text!r} is neither a list of processors like 0-3,6 nor a mask like 0x4f")
    return sorted(found)


def _commas(values: Sequence[Any]) -> str:
    return ",".join(map(str, values))


KERNEL = Spelled("keep|receptive|N", _kernel)
REDUCE = Spelled("R|PATTERN=R", _reduce, lambda pair: f"{pair[0]}={pair[1]}" if pair[0] else str(pair[1]))
PARTS = Spelled("PART,PART", _parts, lambda kernels: _commas(["bn", *kernels]))
SHAPE = Spelled("BLOB=C,H,W", _shape, lambda pair: f"{pair[0]}={_commas(pair[1])}")
SIZE = Spelled("N|HxW", _size, lambda size: f"{size[0]}x{size[1]}")
MEANS = Spelled("B,G,R", _means, _commas)
BATCHES = Spelled("N|all", _batches)
CPUS = Spelled("MASK", parse_cpus, _commas)
MEMORY = Spelled("SIZE", _memory, lambda size: f"{size}B")
