"""Holds JSON against the classes of results, which the tables of docs/json.md are made of (`scripts/json_docs.py`)."""

from __future__ import annotations

import re
from typing import Any

import json_docs


def examples() -> list[tuple[str, str]]:
    """(heading, text) of each example."""
    text = json_docs.PAGE.read_text(encoding="utf-8")
    parts = re.split(r"^## ", text, flags=re.M)[1:]
    return [(part.partition("\n")[0], code) for part in parts for code in re.findall(r"```json\n(.*?)```", part, re.S)]


def check(data: Any, heading: str) -> None:
    """Fails unless the data has exactly the fields of a result, in their order, each of its type."""
    problems = json_docs.problems(data, json_docs.RESULTS[heading])
    assert not problems, "\n".join(problems)
