"""Schedules as YAML files: read with one clear error."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.extras import pip_install
from deeprebirth_caffe.formats.files import read_regular_text
from deeprebirth_caffe.wording import clipped

if TYPE_CHECKING:
    from pydantic import ValidationError

    from deeprebirth_caffe.runs.schedule.model import Schedule

_NET = re.compile(r"^\s*layers?\s*:?\s*\{", re.MULTILINE)
_SOLVER = re.compile(r"^(base_lr|lr_policy|max_iter|snapshot_prefix)\s*:", re.MULTILINE)
"""Keys that a solver has at its top and a schedule never."""
_PLAN = "write one with: rebirth plan {net} -w {weights} -o schedule.yaml"


def read_schedule(path: Path, files: Mapping[str, Path] | None = None) -> Schedule:
    """Reads and validates a schedule.

    Args:
        path: of a YAML (or JSON) file.
        files: paths, from the working directory, that take the place of the schedule's net, weights or solver.

    Raises:
        RebirthError: it cannot be read, is no YAML, or says what no schedule says; or a library is missing.
    """
    try:
        text = read_regular_text(path, "strict", MOST_BYTES)
    except OSError as error:
        raise RebirthError(f"{path}: cannot read this schedule: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        if path.suffix in (".caffemodel", ".solverstate", ".h5"):
            raise RebirthError(
                f"{path}: these are weights, and no schedule; {_PLAN.format(net='NET', weights=path)}"
            ) from None
        raise RebirthError(f"{path}: this is no text in UTF-8 ({error.reason} at byte {error.start})") from error
    if _NET.search(text):
        raise RebirthError(f"{path}: this is a net, and no schedule; {_PLAN.format(net=path, weights='WEIGHTS')}")
    if _SOLVER.search(text):
        raise RebirthError(f"{path}: this is a solver, and no schedule; run it with: rebirth finetune {path}")
    return parse_schedule(text, str(path), files)


def parse_schedule(text: str, where: str, files: Mapping[str, Path] | None = None) -> Schedule:
    """A schedule out of its text; see `read_schedule`.

    Args:
        text: YAML.
        where: what errors call it.
        files: see `read_schedule`.
    """
    yaml = _yaml()
    try:
        data = _loaded(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise RebirthError(f"{where}{at}: this is no YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise RebirthError(f"{where}: this is no YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise RebirthError(f"{where}: this is nested too deeply") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # PyYAML's own constructors let these through: `!!int x`, numbers of thousands of figures.
        raise RebirthError(f"{where}: a value in it cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise RebirthError(f"{where}: a schedule is a mapping with net, weights and steps")
    return validated({**data, **{key: str(file.absolute()) for key, file in (files or {}).items()}}, where)


def _loaded(text: str) -> Any:
    """The plain data of a text in YAML, which is measured before any of it is made.

    Raises:
        yaml.YAMLError, RecursionError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError: it is no
            YAML, or too much of it.
    """
    if _MANY_BRACKETS.search(text):
        raise RecursionError  # PyYAML takes seconds to find that out
    loader = _loader()(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, {}, 0)
        return loader.construct_document(node)
    finally:
        loader.dispose()


_MANY_BRACKETS = re.compile(r"(?:[\[{][ \t]*){200}")
MOST_BYTES = 1 << 20
MOST_NODES, DEEPEST = 50_000, 60
"""Values that a schedule may have, and how deep they may lie in each other. An alias counts as what it stands for: a
few lines of aliases of aliases stand for more values than any memory holds."""
LONGEST_NUMBER = 40


def _measure(node: Any, sizes: dict[int, int], depth: int) -> int:
    """How many values a node stands for.

    Args:
        node: of YAML.
        sizes: those of the nodes that were measured before, by their identity; 0 while one is measured.
        depth: how deep it lies.

    Raises:
        yaml.MarkedYAMLError: it stands for too many, lies too deep, holds itself, or a number in it is too long.
    """
    yaml = _yaml()
    known = sizes.get(id(node))
    problem = ""
    if known == 0:
        problem = "an alias stands for what it is in"
    elif depth > DEEPEST:
        problem = f"this is nested too deeply: more than {DEEPEST} values in each other"
    elif (
        isinstance(node, yaml.ScalarNode) and len(node.value) > LONGEST_NUMBER and node.tag.endswith((":int", ":float"))
    ):
        problem = f"this number has {len(node.value):,} letters; {LONGEST_NUMBER} are the most"
    if known is None and not problem:
        sizes[id(node)] = 0
        parts = () if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in parts for part in pair]
        known = 1 + sum(_measure(part, sizes, depth + 1) for part in parts)
        sizes[id(node)] = known
        if known > MOST_NODES:
            problem = f"this stands for more than {MOST_NODES:,} values, aliases included"
    if problem:
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    assert known
    return known


def validated(data: dict[str, Any], where: str) -> Schedule:
    """A schedule out of plain data; see `read_schedule`."""
    _need("pydantic")
    from pydantic import ValidationError

    from deeprebirth_caffe.runs.schedule.model import Schedule

    try:
        return Schedule.model_validate(data)
    except ValidationError as error:
        raise RebirthError(f"{where}: {_first(error, data)}") from None


def schema() -> dict[str, Any]:
    """The JSON schema of schedules, for editors."""
    _need("pydantic")
    from deeprebirth_caffe.runs.schedule.model import json_schema

    return json_schema()


def _first(error: ValidationError, data: dict[str, Any]) -> str:
    """The first of the errors in words, and how many more there are."""
    errors = error.errors(include_url=False, include_context=False, include_input=True)
    # A slip in `defaults` shows in every step too: it is told once, where it stands.
    errors.sort(key=lambda one: one["loc"][:1] != ("defaults",))
    one = errors[0]
    place = _place(one["loc"], data)
    kind, message = one["type"], one["msg"]
    if kind == "extra_forbidden":
        message = f"there is no such key{_near(one['loc'])}"
    elif kind == "missing":
        message = "this is missing"
    else:
        message = (
            message.removeprefix("Value error, ")
            .replace("tuple", "list")
            .replace("Tuple", "List")
            .replace(" after validation", "")
        )
        message = re.sub(r"dictionary( or instance of \w+)?", "mapping", message)
        value = one.get("input")
        if isinstance(value, (str, int, float, bool)) or value is None:
            message = f"{message}, not {'null' if value is None else clipped(repr(value))}"
    own = {(repr(one["loc"][-1:]), one["type"]) for one in errors}
    more = f" (and {len(own) - 1} more)" if len(own) > 1 else ""
    return f"{place}{': ' if place else ''}{message[:1].lower()}{message[1:]}{more}"


def _place(loc: tuple[int | str, ...], data: dict[str, Any]) -> str:
    """Where an error is: steps[2] (conv2).finetune.base_lr."""
    words = ""
    for index, part in enumerate(loc):
        if isinstance(part, str) and "[" in part:
            continue  # which of several forms a value may have
        if isinstance(part, int):
            words += f"[{part}]"
            if loc[:index] == ("steps",):
                step = data["steps"][part]
                name = step.get("name") or step.get("stages") if isinstance(step, dict) else None
                called = ", ".join(map(str, name)) if isinstance(name, (list, tuple)) else str(name or "")
                words += f" ({clipped(' '.join(called.split()))})" if called else ""
        else:
            words += f".{part}" if words else part
    return words


def _near(loc: tuple[int | str, ...]) -> str:
    """A key that may have been meant."""
    from difflib import get_close_matches

    from deeprebirth_caffe.runs.schedule.model import Schedule

    model: Any = Schedule
    for part in loc[:-1]:
        if isinstance(part, str):
            model = _model_of(model.model_fields[part].annotation)
    near = get_close_matches(str(loc[-1]), list(model.model_fields), n=1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(model.model_fields)}"


def _model_of(annotation: Any) -> Any:
    """The model inside an annotation such as `tuple[Step, ...]` or `Joint | None`."""
    from typing import get_args

    if hasattr(annotation, "model_fields"):
        return annotation
    return next((found for one in get_args(annotation) if (found := _model_of(one)) is not None), None)


def _need(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        raise RebirthError(f"schedules need {library}, which is not installed: {pip_install('run')}")


def _yaml() -> Any:
    _need("yaml")
    import yaml

    return yaml


def _loader() -> Any:
    """YAML's safe loader by the rules of YAML 1.2: `on` and 2024-01-01 are words, 1e-3 a number; keys stand once."""
    yaml = _yaml()
    merge = "tag:yaml.org,2002:merge"

    class Loader(yaml.SafeLoader):  # type: ignore[name-defined,misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                if key_node.tag == merge:
                    continue  # `<<: *other`, which the safe loader puts in below
                key = self.construct_object(key_node, deep=True)
                if isinstance(key, str) and key in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key} stands here twice", problem_mark=key_node.start_mark
                    )
                seen.add(key if isinstance(key, str) else None)
            return dict(super().construct_mapping(node, deep))

    unlike = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("bool", "timestamp", "int", "float"))
    # Each class has its own table, so that only this one changes.
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in rules if tag not in unlike]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:bool", re.compile("^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
    )
    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(
            r"^([-+]?((\d+\.\d*|\.\d+)([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(inf|Inf|INF))|\.(nan|NaN|NAN))$", re.ASCII
        ),
        list("-+0123456789."),
    )
    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:int", re.compile("^([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")
    )
    # YAML 1.1 also has numbers to the base 60, which take quadratic time, and octal ones that begin with a bare 0.
    Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: _whole(loader.construct_scalar(node)))
    Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: _real(loader.construct_scalar(node)))
    return Loader


def _whole(text: str) -> int:
    return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))


def _real(text: str) -> float:
    return float(text.replace(".", "", 1) if text.lower().lstrip("+-") in (".inf", ".nan") else text)
