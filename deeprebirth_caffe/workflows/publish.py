"""Small things that every command that writes files needs."""

from __future__ import annotations

import json
from typing import Any


def json_bytes(data: Any) -> bytes:
    """JSON as people and tools like it: indented, in the order given, a newline at the end.

    A byte of a path or a name that is no text (PEP 383) becomes JSON's own escape of a lone surrogate.
    """
    return (json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode(errors="backslashreplace")
