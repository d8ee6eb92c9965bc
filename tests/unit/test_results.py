"""Results are classes, one serialiser makes JSON of them, and what crosses rooms says what it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import deeprebirth_caffe
from deeprebirth_caffe.results import ABSENT, HIDDEN, Absent, Result, to_json
from deeprebirth_caffe.wording import json_bytes, printable

PACKAGE = Path(deeprebirth_caffe.__file__).parent
ROOMS = ("bench", "cli", "commands", "inputs", "nets", "relearn", "runs", "training")
PLAIN = {
    # Files of a run: what comes back from a disk is held against a shape first.
    "runs/schedule/shapes.py: read_ours",
    "runs/report/figures.py: by_stage",
    "runs/report/figures.py: groups_of",
    # Schedules: YAML as people wrote it, and the JSON schema of it.
    "runs/schedule/files.py: validated",
    "runs/schedule/files.py: schema",
    "runs/schedule/keys.py: keyed",
    "runs/schedule/model.py: joined",
    "runs/schedule/model.py: json_schema",
}
"""Functions that others call and that speak of plain data, with the reason."""


@dataclass(frozen=True, kw_only=True)
class Row:
    pass_: str
    score: float | None
    place: Path
    left: int | Absent | None = ABSENT
    secret: str = field(default="", metadata=HIDDEN)


@dataclass(frozen=True, kw_only=True)
class Made(Result):
    rows: Sequence[Row]
    shapes: Mapping[str, tuple[int, ...]]


ROW = Row(pass_="a\nb", score=float("nan"), place=Path("a/b"))


def test_json_has_the_fields_in_their_order() -> None:
    made = Made(rows=(ROW, Row(pass_="p", score=0.5, place=Path("c"), left=None, secret="s")), shapes={"data": (3, 8)})
    found = to_json(made)
    assert found == {
        "version": 1,
        "rows": [
            {"pass": "a\nb", "score": None, "place": "a/b"},
            {"pass": "p", "score": 0.5, "place": "c", "left": None},
        ],
        "shapes": {"data": [3, 8]},
    }
    assert list(found) == ["version", "rows", "shapes"] and list(found["rows"][1]) == ["pass", "score", "place", "left"]
    assert json_bytes(made) == json_bytes(found)


def test_a_result_is_made_printable_as_a_whole() -> None:
    shown = printable([ROW])
    assert isinstance(shown[0], Row) and (shown[0].pass_, shown[0].place) == ("a\\nb", Path("a/b"))


def _told(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Each function that others can call, and the types in its signature."""
    for one in ast.iter_child_nodes(node):
        if isinstance(one, ast.ClassDef) and not one.name.startswith("_"):
            yield from _told(one)
        elif isinstance(one, ast.FunctionDef) and not one.name.startswith("_"):
            given = [part.annotation for part in (*one.args.posonlyargs, *one.args.args, *one.args.kwonlyargs)]
            yield one.name, " ".join(ast.unparse(kind) for kind in (*given, one.returns) if kind is not None)


def test_what_crosses_rooms_says_what_it_is() -> None:
    found = set()
    for room in ROOMS:
        for path in (PACKAGE / room).rglob("*.py"):
            for name, types in _told(ast.parse(path.read_text(encoding="utf-8"))):
                if "[str, Any]" in types:
                    found.add(f"{path.relative_to(PACKAGE).as_posix()}: {name}")
    assert found == PLAIN, "give the result or the options a class; see deeprebirth_caffe/results.py"
