"""Reads the tables of docs/json.md and holds JSON against them, so that the two cannot drift apart.

A type in a table is: string, integer, number, boolean, object (its fields are in the rows below), shape, layer, totals,
refit, "list of T", "map of T", "T or null", with parentheses where needed; "or null" belongs to all that stands before
it.
", optional" behind a type lets the field be left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import json_docs

DOCS = Path(__file__).parents[2] / "docs" / "json.md"
_SIMPLE: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


@dataclass
class Field:
    """One row of a table and, of an object, the rows below it."""

    type: str
    optional: bool
    meaning: str
    kids: dict[str, Field] = field(default_factory=dict)


@cache
def sections() -> dict[str, Field]:
    """The tables by heading."""
    found: dict[str, Field] = {}
    text = DOCS.read_text(encoding="utf-8")
    for part in re.split(r"^## ", text, flags=re.M)[1:]:
        heading, _, body = part.partition("\n")
        rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \| ((?:[^|\\]|\\.)*)\|$", body, flags=re.M)
        if not rows or "| field | type | meaning |" not in body:
            continue
        root = Field("object", False, "")
        for path, kind, meaning in rows:
            node = root
            *above, name = path.split(".")
            for step in above:
                node = node.kids[step.removesuffix("[]")]
                assert ("list of object" in node.type) == step.endswith("[]"), path
            assert name not in node.kids, f"{path} stands there twice"
            bare = kind.strip().removesuffix(", optional")
            node.kids[name] = Field(bare, bare != kind.strip(), meaning.strip())
        found[heading] = root
    return found


def examples() -> list[tuple[str, str]]:
    """(heading, text) of each example."""
    text = DOCS.read_text(encoding="utf-8")
    parts = re.split(r"^## ", text, flags=re.M)[1:]
    return [(part.partition("\n")[0], code) for part in parts for code in re.findall(r"```json\n(.*?)```", part, re.S)]


def check(data: Any, heading: str) -> None:
    """Fails unless the data has exactly the documented fields, each of its type."""
    if heading in json_docs.RESULTS:
        problems = json_docs.problems(data, json_docs.RESULTS[heading])
    else:
        problems = list(_problems(data, sections()[heading], "object", ""))
    assert not problems, "\n".join(problems)


def _problems(data: Any, row: Field, kind: str, path: str) -> list[str]:
    if kind.endswith(" or null"):
        return [] if data is None else _problems(data, row, kind.removesuffix(" or null"), path)
    if kind.startswith("(") and kind.endswith(")"):
        return _problems(data, row, kind[1:-1], path)
    if kind.startswith("list of "):
        if not isinstance(data, list):
            return [f"{path}: {data!r} is no list"]
        return [line for one in data for line in _problems(one, row, kind.removeprefix("list of "), f"{path}[]")]
    if kind.startswith("map of "):
        if not isinstance(data, dict):
            return [f"{path}: {data!r} is no map"]
        return [
            line for one in data.values() for line in _problems(one, row, kind.removeprefix("map of "), f"{path}.*")
        ]
    if kind == "shape":
        return _problems(data, row, "list of integer", path)
    if kind == "layer":
        return _problems(data, sections()["inspect"].kids["layers"], "object", path)
    if kind == "totals":
        return _problems(data, sections()["convert, deploy: manifest.json"].kids["before"], "object", path)
    if kind == "refit":
        return _problems(data, sections()["convert, deploy: manifest.json"].kids["refit"], "object", path)
    if kind == "object":
        return _object(data, row, path)
    if " or " in kind:
        left, _, right = kind.partition(" or ")
        return _problems(data, row, left, path) and _problems(data, row, right, path)
    # True is an int to Python, and not to JSON.
    if not isinstance(data, _SIMPLE[kind]) or (isinstance(data, bool) and kind != "boolean"):
        return [f"{path}: {data!r} is no {kind}"]
    return []


def _object(data: Any, row: Field, path: str) -> list[str]:
    if not isinstance(data, dict):
        return [f"{path}: {data!r} is no object"]
    problems = [f"{path}.{name} is not in docs/json.md" for name in data if name not in row.kids]
    for name, kid in row.kids.items():
        if name in data:
            problems += _problems(data[name], kid, kid.type, f"{path}.{name}")
        elif not kid.optional:
            problems.append(f"{path}.{name} is missing")
    return problems
