"""Changes to data that has a structure: JSON and YAML trees, with the values that break things."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 0.0, -0.5, 1e-310, 1e308, 1e100, 2**31, 2**63, 10**40, "", "x", "1", "nan", "../x"),
    *([], {}, [[]], [None], {"": 1}, [1, 2, 3], "é\u202e", "a" * 500, "\x1b[2J", "=1", float("nan"), float("inf")),
)
BIG = "1" + "0" * 400


def change(random: Random, data: Any) -> Any:
    """The same tree with one to three of its places changed."""
    data = copy.deepcopy(data)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        places = list(_places(data))
        if not places:
            return random.choice(VALUES)
        holder, key = random.choice(places)
        kind = random.randrange(8)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, list):
            holder.insert(random.randrange(len(holder) + 1), copy.deepcopy(random.choice(holder)))
        elif kind == 1:
            holder[random.choice(("x", "", "name", key + "?"))] = holder[key]
        elif kind == 2:
            other, place = random.choice(places)
            holder[key] = copy.deepcopy(other[place])
        elif kind == 3:
            holder[key] = _deep(random.choice((5, 60, 200)))
        else:
            holder[key] = copy.deepcopy(random.choice(VALUES))
    return data


def as_json(random: Random, data: Any) -> bytes:
    """The text of a tree; now and then a number is made longer than any machine holds."""
    text = json.dumps(data)
    if random.randrange(20) == 0:
        text = text.replace("0", BIG, 1)
    if random.randrange(200) == 0:
        text = "[" * 5000 + text
    return text.encode("utf-8", "surrogatepass")


def _places(data: Any) -> Any:
    stack = [data]
    while stack:
        holder = stack.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            yield holder, key
            stack.append(holder[key])


def _deep(levels: int) -> Any:
    found: Any = 1
    for level in range(levels):
        found = [found] if level % 2 else {"a": found}
    return found
