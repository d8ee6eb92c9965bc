"""Text from files, made fit for a terminal."""

from __future__ import annotations

import unicodedata
from typing import Any

_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Control characters, those that turn the writing direction, bytes that are no text, line separators."""


def printable(data: Any) -> Any:
    """The same data, every string in it without line breaks and control characters.

    Names in nets and of files come from strangers: they must not move the cursor or start a second line.
    """
    if isinstance(data, str):
        return data if data.isprintable() else "".join(map(_escaped, data))
    if isinstance(data, dict):
        return {printable(key): printable(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [printable(value) for value in data]
    return data


def _escaped(letter: str) -> str:
    hidden = unicodedata.category(letter) in _HIDDEN
    return letter.encode("unicode_escape").decode() if hidden else letter
