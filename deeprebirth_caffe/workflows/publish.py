"""What the commands write: JSON, and numbers of things."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


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
