"""Writes the tables of docs/json.md: one for each result, made of its class and the `Attributes:` in its docstring.

python scripts/json_docs.py
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from deeprebirth_caffe.commands.caffe import CaffeFacts
from deeprebirth_caffe.commands.data import MadeData
from deeprebirth_caffe.commands.device import DeviceInfo, Devices
from deeprebirth_caffe.commands.dialects import Dialects
from deeprebirth_caffe.commands.diff import Difference
from deeprebirth_caffe.commands.distil import Distilled
from deeprebirth_caffe.commands.doctor import Findings
from deeprebirth_caffe.commands.export import Model
from deeprebirth_caffe.commands.finetune import Finetuned
from deeprebirth_caffe.commands.forward import Forwarded
from deeprebirth_caffe.commands.inspect import Inspection
from deeprebirth_caffe.commands.refit import Refit
from deeprebirth_caffe.commands.shipped import Configs
from deeprebirth_caffe.commands.test import Scored
from deeprebirth_caffe.commands.time import Times
from deeprebirth_caffe.commands.zoo import Nets, WrittenNet
from deeprebirth_caffe.nets.manifest import Manifest
from deeprebirth_caffe.results import Absent, key_of
from deeprebirth_caffe.runs.planning.plan import Planned
from deeprebirth_caffe.runs.report.write import Report
from deeprebirth_caffe.runs.schedule.runner import RunResult
from deeprebirth_caffe.runs.schedule.status import RunStatus
from deeprebirth_caffe.runs.schedule.steps import StepResult
from deeprebirth_caffe.training.loop import LogLine

PAGE = Path(__file__).parents[1] / "docs" / "json.md"
RESULTS: Mapping[str, type] = {
    "convert, deploy: manifest.json": Manifest,
    "refit": Refit,
    "distil": Distilled,
    "inspect": Inspection,
    "diff": Difference,
    "finetune": Finetuned,
    "finetune --log": LogLine,
    "test": Scored,
    "forward": Forwarded,
    "zoo list": Nets,
    "zoo NAME": WrittenNet,
    "config list": Configs,
    "caffe install, caffe info": CaffeFacts,
    "doctor": Findings,
    "doctor NET": Dialects,
    "data": MadeData,
    "export": Model,
    "time": Times,
    "run": RunResult,
    "run: result.json": StepResult,
    "status": RunStatus,
    "report": Report,
    "plan": Planned,
    "device list": Devices,
    "device info": DeviceInfo,
}
"""What the sections of the page describe."""
SIMPLE = {str: "string", Path: "string", int: "integer", float: "number", bool: "boolean"}


def options_of(hint: Any) -> list[Any]:
    """The types of a union; the type itself where it is none."""
    return list(get_args(hint)) if get_origin(hint) in (Union, UnionType) else [hint]


def classes_in(hint: Any) -> list[type]:
    """The result classes that values of a type have."""
    if is_dataclass(hint) and isinstance(hint, type):
        return [hint]
    return [found for inner in get_args(hint) for found in classes_in(inner)]


def keys(cls: type) -> dict[str, Any]:
    """The type of each field of the JSON, by its key."""
    hints = get_type_hints(cls)
    return {key_of(field.name): hints[field.name] for field in fields(cls) if "hidden" not in field.metadata}


def meanings(cls: type) -> dict[str, str]:
    """What the fields mean, by key, from the docstrings of a class and of those it extends."""
    found: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        text = inspect.cleandoc(one.__doc__ or "").partition("Attributes:\n")[2]
        for names, meaning in re.findall(r"^    ([a-z_0-9, ]+): ((?:.|\n {5,})+)", text, re.M):
            words = " ".join(meaning.split()).removesuffix(".").replace("|", r"\|")
            found |= {key_of(name): words for name in names.split(", ")}
    return found


def spelled(hint: Any) -> str:
    """A type as the page writes it."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint in SIMPLE:
        return SIMPLE[hint]
    if hint is NoneType:
        return "null"
    if origin in (Union, UnionType):
        kinds = list(dict.fromkeys(spelled(one) for one in inner if one is not Absent))
        return " or ".join(kinds) + (", optional" if Absent in inner else "")
    if origin is tuple and inner[0] is int:
        return "shape"
    if origin in (Sequence, list, tuple):
        return f"list of {_together(inner[0])}"
    if origin in (Mapping, dict):
        return f"map of {_together(inner[1])}"
    return "object"


def _together(hint: Any) -> str:
    text = spelled(hint)
    return f"({text})" if " or " in text else text


def merged(classes: Sequence[type]) -> Iterator[tuple[str, Any, str]]:
    """Key, type and meaning of the fields of some classes, one of which an object is."""
    all_keys = [keys(cls) for cls in classes]
    texts = [meanings(cls) for cls in classes]
    for key in dict.fromkeys(key for one in all_keys for key in one):
        hint = next(one[key] for one in all_keys if key in one)
        if any(key not in one for one in all_keys):
            hint = Union[hint, Absent]  # noqa: UP007 - made at run time
        yield key, hint, next((text[key] for text in texts if key in text), "")


def table(heading: str, seen: dict[tuple[type, ...], tuple[str, str]]) -> list[str]:
    """The rows of a section.

    Args:
        heading: of it.
        seen: under which heading, and where there, an object of some classes has been described; filled in.
    """
    rows = ["| field | type | meaning |", "|---|---|---|"]

    def add(classes: Sequence[type], path: str) -> None:
        for key, hint, meaning in merged(classes):
            inner = tuple(classes_in(hint))
            kind = spelled(hint)
            known = seen.get(inner) if inner else None
            if known is not None:
                place = known[1] if known[0] == heading else f"{known[1]} of {known[0].rpartition(': ')[2]}"
                kind = kind.replace("object", f"object as {place}")
            rows.append(f"| `{path}{key}` | {kind} | {f'{meaning} ' if meaning else ''}|")
            if inner and known is None:
                place = f"{path}{key}{'[]' if 'list of' in kind else ''}"
                seen[inner] = heading, f"`{place}`"
                add(inner, f"{place}.")

    add([RESULTS[heading]], "")
    return rows


def written(text: str) -> str:
    """The page with its tables as the classes have them."""
    seen: dict[tuple[type, ...], tuple[str, str]] = {}
    for heading in re.findall(r"^## (.*)$", text, re.M):
        if heading in RESULTS:
            head, start, rest = text.partition(f"## {heading}\n")
            before, _, after = rest.partition("| field | type | meaning |")
            text = f"{head}{start}{before}" + "\n".join(table(heading, seen)) + "\n\n" + after.partition("\n\n")[2]
    return text


def problems(data: Any, hint: Any, path: str = "") -> list[str]:
    """Where JSON is not what a result's type says."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        found = [problems(data, one, path) for one in inner if one is not Absent]
        return [] if [] in found else max(found, key=len)
    if origin in (Sequence, list, tuple):
        if not isinstance(data, list):
            return [f"{path}: {data!r} is no list"]
        return [line for one in data for line in problems(one, inner[0], f"{path}[]")]
    if origin in (Mapping, dict):
        if not isinstance(data, dict):
            return [f"{path}: {data!r} is no map"]
        return [line for one in data.values() for line in problems(one, inner[1], f"{path}.*")]
    if is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(data, dict):
            return [f"{path}: {data!r} is no object"]
        wanted = keys(hint)
        lines = [f"{path}.{key} is not in {hint.__name__}" for key in data if key not in wanted]
        lines += [
            f"{path}.{key} is missing" for key in wanted if key not in data and Absent not in get_args(wanted[key])
        ]
        order = [key for key in wanted if key in data]
        if not lines and order != list(data):
            lines.append(f"{path}: its fields are not in their order")
        return lines + [line for key in order for line in problems(data[key], wanted[key], f"{path}.{key}")]
    # True is an int to Python, and not to JSON; a whole number is a number.
    fits = {Path: (str,), float: (int, float)}.get(hint, (hint,))
    if not isinstance(data, fits) or (isinstance(data, bool) and hint is not bool):
        return [f"{path}: {data!r} is no {spelled(hint)}"]
    return []


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
