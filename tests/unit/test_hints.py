"""Commands that errors and notes tell people to type."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import deeprebirth_caffe
from deeprebirth_caffe.errors import spelled_command

PACKAGE = Path(deeprebirth_caffe.__file__).parent
COMMAND = re.compile(r"\brebirth [a-z]+\b[^`]*$")


def test_words_are_quoted_as_a_shell_wants_them() -> None:
    name = "adb:$(touch x)"
    assert spelled_command("device", "install", name) == "rebirth device install 'adb:$(touch x)'"
    assert spelled_command("run", Path("a b.yaml")) == "rebirth run 'a b.yaml'"


def test_no_message_puts_a_value_into_a_command_by_hand() -> None:
    """A value behind `rebirth …` between backquotes has to come through `spelled_command`."""
    bad = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.JoinedStr):
                continue
            for before, value in zip(node.values, node.values[1:], strict=False):
                text = before.value if isinstance(before, ast.Constant) else ""
                if not isinstance(value, ast.FormattedValue) or not COMMAND.search(str(text).rpartition("`")[2]):
                    continue
                if "`" in str(text) and not isinstance(value.value, ast.Call):
                    bad.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert not bad
