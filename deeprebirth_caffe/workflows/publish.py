"""What the commands write: JSON, numbers of things, and text from files made fit to be shown."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping
from typing import Any

_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Control characters, those that turn the writing direction, bytes that are no text, line separators."""


def json_bytes(data: Any) -> bytes:
    """JSON as people and tools like it: indented, in the order given, a newline at the end.

    A byte of a path or a name that is no text (PEP 383) becomes JSON's own escape of a lone surrogate.
    """
    return (json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode(errors="backslashreplace")


def finite(data: Any) -> Any:
    """The same data, None where a number is NaN or infinite: JSON has no word for those."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(value) for value in data]
    return data


def counted(number: int, what: str) -> str:
    """1 layer, 2 layers.

    Args:
        number: how many.
        what: of what, as it is called when there is one.
    """
    if number == 1:
        return f"1 {what}"
    return f"{number} {what}{'es' if what.endswith('ch') else 's'}"


def mib(value: int | None) -> str:
    """Bytes in MiB."""
    return "unknown" if value is None else f"{value / 2**20:.2f} MiB"


def ms(value: float) -> str:
    """Milliseconds with three digits that count."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.3f}"


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
