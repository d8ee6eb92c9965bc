"""JSON from a disk is held against a shape, and what does not fit is said in one line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.jsonfile import (
    ANYTHING,
    COUNT,
    FILE_NAME,
    FLAG,
    NUMBER,
    POSITIVE,
    TEXT,
    WHOLE,
    Each,
    Either,
    Maybe,
    Number,
    Shape,
    as_number,
    parse_json,
    read_json,
    shaped,
)

ROWS: Shape = {"rows": [{"name": TEXT, "ms?": Maybe(NUMBER)}]}


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        ({"rows": []}, ROWS),
        ({"rows": [{"name": "a", "ms": None, "more": [[]]}, {"name": "b", "ms": 1e-300}]}, ROWS),
        ({"a": 1, "b": 2.5}, Each(NUMBER)),
        (-3, WHOLE),
        (True, FLAG),
        ("a.b", FILE_NAME),
        ([1, [None, 2.0]], [Either((NUMBER, [Maybe(NUMBER)]))]),
        ({"a": {}}, ANYTHING),
    ],
)
def test_what_fits_comes_through(data: Any, shape: Shape) -> None:
    assert shaped(data, shape) == data


@pytest.mark.parametrize(
    ("data", "shape", "said"),
    [
        ({}, ROWS, "it lacks rows"),
        ({"rows": [{}]}, ROWS, "it lacks rows[0].name"),
        ({"rows": [{"name": "a"}, {"name": 1}]}, ROWS, "rows[1].name is 1, not a string"),
        ({"rows": {"name": "a"}}, ROWS, "rows is an object, not a list"),
        ({"a": {"b/c": 1}}, {"a": Each(NUMBER, FILE_NAME)}, 'a key of a is "b/c", not the name of a file'),
        ([], ROWS, "it is a list, not an object"),
        ({"a": True}, Each(NUMBER), "a is true, not a number"),
        ({"a": 10**400}, Each(NUMBER), "a is a long number, not a number"),
        ({"a": math.inf}, Each(NUMBER), "a is Infinity, not a number"),
        (0, POSITIVE, "it is 0, not a number above 0"),
        (-1, COUNT, "it is -1, not a whole number of 0 or more"),
        (1.5, COUNT, "it is 1.5, not a whole number of 0 or more"),
        (1, FLAG, "it is 1, not true or false"),
        *((name, FILE_NAME, "not the name of a file") for name in ("a/b", "..", ".", "", "a\0")),
        ("x" * 99, NUMBER, 'it is "' + "x" * 36 + "..., not a number"),
        ([["a"]], [Either((NUMBER, [NUMBER]))], '[0][0] is "a", not a number'),
    ],
)
def test_what_does_not_fit_is_said(data: Any, shape: Shape, said: str) -> None:
    with pytest.raises(ValueError) as error:
        shaped(data, shape)
    assert said in str(error.value)


def test_numbers() -> None:
    assert shaped(2.0, COUNT) == 2 and isinstance(shaped(2.0, COUNT), int)
    assert all(math.isnan(shaped(value, Number(lenient=True))) for value in (None, math.nan, -math.inf))
    assert [as_number(value) for value in (1, 0.5, True, "1", None, math.nan, 10**999)] == [1, 0.5, *[None] * 5]


@pytest.mark.parametrize("text", ["[" * 10**6, "[" * 101 + "]" * 101, '{"a":' * 200 + "1" + "}" * 200])
def test_depth_has_a_limit(text: str) -> None:
    for form in (text, text.encode()):
        with pytest.raises(ValueError, match=r"nested more than 100 deep|Expecting"):
            parse_json(form)
    assert parse_json("[" * 100 + "]" * 100)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert read_json(path, ROWS, "mend it") is None
    for content in (b"", b"\xff", b"{", b"[]", b"1" * 5000, b'{"rows": [3]}'):
        path.write_bytes(content)
        with pytest.raises(RebirthError, match=r"a\.json: cannot be read \(.*\); mend it$"):
            read_json(path, ROWS, "mend it")
    path.write_text(json.dumps({"rows": []}))
    assert read_json(path, ROWS, "mend it") == {"rows": []}
    with pytest.raises(RebirthError, match=r"cannot be read \(.*directory"):
        read_json(tmp_path, ROWS, "mend it")
