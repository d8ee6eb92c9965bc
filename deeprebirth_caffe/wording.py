"""What the commands write: JSON, cells of tables, numbers of things, and text from files made fit to be shown."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from deeprebirth_caffe.results import to_json

T = TypeVar("T")

MAX_NAMED = 4
"""The most layers that a sentence names; more are only counted."""
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Control characters, those that turn the writing direction, bytes that are no text, line separators."""

STANDS_FOR: dict[str, str] = {}
"""Paths that mean nothing to people, and the words to show instead: a net from standard input."""
WORTH_TELLING = 60.0
"""From this many seconds of work on, people are told how long it will take."""


def json_bytes(data: Any) -> bytes:
    """A result (`results.to_json`) as people and tools like it: indented, in the order given, a newline at the end.

    Letters that a terminal would obey, and bytes of a path or a name that are no text (PEP 383), become JSON
    escapes, so a reader of the JSON gets them unchanged.
    """
    text = _shown(json.dumps(to_json(data), indent=2, ensure_ascii=False, allow_nan=False)) + "\n"
    # Only strings hold such letters; ASCII's control characters except DEL are escaped already.
    hidden = {ord(letter): json.dumps(letter)[1:-1] for letter in set(text) if letter > "\x7f" and is_hidden(letter)}
    return text.translate({0x7F: "\\u007f", **hidden}).encode(errors="backslashreplace")


class Named(Protocol):
    """A layer, or what a result says of one."""

    @property
    def name(self) -> str: ...

    @property
    def type(self) -> str: ...


def without(uncounted: Sequence[Named]) -> str:
    """Names the layers that a sum lacks, for people; empty if it lacks none."""
    if not uncounted:
        return ""
    names = [f"{layer.name} ({layer.type})" for layer in uncounted[:MAX_NAMED]]
    more = f" and {len(uncounted) - MAX_NAMED} more" if len(uncounted) > MAX_NAMED else ""
    return f"without {counted(len(uncounted), 'layer')}: {', '.join(names)}{more}"


def counted(number: int, what: str) -> str:
    """1 layer, 2 layers.

    Args:
        number: how many.
        what: the noun in the singular.
    """
    if number == 1:
        return f"1 {what}"
    return f"{number} {what}{'es' if what.endswith('ch') else 's'}"


def mib(value: float | None) -> str:
    """Bytes in MiB."""
    return "unknown" if value is None else f"{value / 2**20:.2f} MiB"


def ms(value: float) -> str:
    """Milliseconds with three significant digits."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def about(seconds: float) -> str:
    """A duration as people say it: about 2 h 10 min."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"about {max(1, round(seconds))} s"
    hours, rest = divmod(minutes, 60)
    if not hours:
        return f"about {minutes} min"
    return f"about {hours} h {rest:02} min" if hours < 24 else f"about {hours // 24} d {hours % 24} h"


def printable(data: T) -> T:
    """The same data, with line breaks and control characters escaped in every string.

    Names in nets and of files come from strangers: they must not move the cursor or start a second line.
    """
    return cast(T, _printable(data))


def _printable(data: Any) -> Any:
    if isinstance(data, str):
        data = _shown(data)
        return data if data.isprintable() else "".join(map(escaped, data))
    if isinstance(data, dict):
        return {_printable(key): _printable(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return type(data)(_printable(value) for value in data)
    if isinstance(data, Path):
        return Path(_printable(str(data)))
    if is_dataclass(data) and not isinstance(data, type):
        return replace(data, **{field.name: _printable(getattr(data, field.name)) for field in fields(data)})
    return data


def _shown(text: str) -> str:
    """A text with the words for such paths."""
    for path, name in STANDS_FOR.items():
        text = text.replace(path, name)
    return text


def is_hidden(letter: str) -> bool:
    """Whether a terminal would obey or hide a letter."""
    return unicodedata.category(letter) in _HIDDEN


def escaped(letter: str) -> str:
    """A hidden letter as Python escapes it; other letters unchanged."""
    return letter.encode("unicode_escape").decode() if is_hidden(letter) else letter


def shown(text: str) -> str:
    """A text of several lines with its hidden letters escaped."""
    hidden = {ord(letter): escaped(letter) for letter in set(text) if letter not in "\n\t" and is_hidden(letter)}
    return text.translate(hidden)


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""The first letters of formulas; some spreadsheets also accept their wide forms."""

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.ASCII | re.IGNORECASE)


def csv_cell(value: object) -> object:
    """A cell of a CSV table that no spreadsheet takes for a formula.

    A text that begins like a formula gets an apostrophe in front. Hidden letters are escaped, except bytes that are no
    text. Numbers do not change.
    """
    if not isinstance(value, str):
        return value
    # Bytes that are no text stay, so that the cell still names its file.
    text = (
        value
        if value.isprintable()
        else "".join(char if "\udc80" <= char <= "\udcff" else escaped(char) for char in value)
    )
    return f"'{text}" if value.startswith(_FORMULA) and not _NUMBER.fullmatch(value) else text


LONGEST_WORD, LONGEST_LINE = 400, 4000
"""The most letters of a word and of a line; longer ones are cut in the middle."""


def clipped(text: str) -> str:
    """A line of readable length: long words, and then the line, are cut in the middle."""
    if len(text) > LONGEST_WORD:
        text = re.sub(r"\S+", lambda word: _cut(word[0], LONGEST_WORD), text)
    return _cut(text, LONGEST_LINE)


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return f"{text[: most * 2 // 3]}[... {len(text) - most} letters ...]{text[-(most - most * 2 // 3) :]}"
