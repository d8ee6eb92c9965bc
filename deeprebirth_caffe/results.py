"""Results of commands: frozen dataclasses, and the one way from them to JSON.

A field is called like its key in the JSON; one that Python cannot call so has an underscore behind it (`pass_`). Its
meaning stands in the `Attributes:` of its class, and `docs/json.md` is made of that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal

from deeprebirth_caffe import __version__

SCHEMA = 1
"""The version of the JSON; it goes up when a field changes its meaning or goes away."""


class Absent(Enum):
    """Stands in a field that does not apply: the JSON does not have it."""

    ABSENT = "absent"

    def __bool__(self) -> Literal[False]:
        return False


ABSENT: Final = Absent.ABSENT
HIDDEN: Final = {"hidden": True}
"""Metadata of a field that the JSON never has."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a command came to.

    Attributes:
        version: of the JSON; see above.
    """

    version: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class Signed(Result):
    """A result that says what made it.

    Attributes:
        rebirth: the version of the program.
    """

    rebirth: str = __version__


Figures = Mapping[str, float | Sequence[float | None] | None]
"""What a test gave, by output blob: a number where it has one element; None where it is NaN or infinite."""


def key_of(name: str) -> str:
    """What the JSON calls a field."""
    return name.removesuffix("_")


def common(result: Any, cls: type) -> dict[str, Any]:
    """The fields of a result that a class has: for a larger result with the same fields."""
    return {field.name: getattr(result, field.name) for field in fields(cls)}


def to_json(value: Any) -> Any:
    """A result as JSON has it: objects, lists, texts, numbers; null where a number is NaN or infinite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: to_json(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(inner) for inner in value]
    if is_dataclass(value):
        named = [(field.name, getattr(value, field.name)) for field in fields(value) if "hidden" not in field.metadata]
        return {key_of(name): to_json(inner) for name, inner in named if inner is not ABSENT}
    return str(value) if isinstance(value, Path) else value
