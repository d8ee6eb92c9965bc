"""What messages, help and pages tell people to type can be typed, in a clone and where a wheel is installed."""

from __future__ import annotations

import ast
import configparser
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

import deeprebirth_caffe
from deeprebirth_caffe.cli import rebirth
from deeprebirth_caffe.commands.doctor import PACKAGES

PACKAGE = Path(deeprebirth_caffe.__file__).parent
ROOT = PACKAGE.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("examples/*.md"))]
SCHEDULES = [*sorted(ROOT.glob("configs/*.yaml")), *sorted(ROOT.glob("examples/*.yaml"))]
ANY = "X"
"""Stands for what a message fills in."""


@cache
def sources() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def strings() -> Iterator[tuple[str, str]]:
    """Every string of the package with its place, help and docstrings too."""
    for path, tree in sources().items():
        inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.JoinedStr):
                yield where, "".join(str(part.value) if isinstance(part, ast.Constant) else ANY for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
                yield where, node.value


@cache
def extras() -> dict[str, str]:
    """The extras of setup.cfg and their packages."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return dict(config["options.extras_require"])


def wrong_with(words: list[str]) -> str | None:
    """What keeps `rebirth WORDS` from being typed; None where nothing does."""
    command: click.Command | None = rebirth
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        command = command.get_command(click.Context(command), name)
        if command is None:
            return f"there is no command {name}"
    assert command is not None
    known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
    known |= {"--help", "-h", "--version"}
    given = [word.split("=")[0] for word in rest if re.match("-{1,2}[a-z]", word)]
    unknown = [option for option in given if option not in known]
    return f"no such option {unknown[0]}" if unknown else None


def commands(text: str) -> Iterator[list[str]]:
    """The words behind `rebirth` in inline code and in lines of code."""
    fenced = re.findall(r"^```[a-z]*\n(.*?)^```", text, flags=re.M | re.S)
    indented = re.findall(r"^    (?:\$ )?(rebirth .*)$", text, flags=re.M)
    lines = [line.strip() for block in fenced for line in block.replace("\\\n", " ").splitlines()]
    inline = re.findall(r"(?<!`)`(rebirth [^`]+)`(?!`)", text)
    for line in (*lines, *indented, *inline):
        if line.startswith("rebirth "):
            yield shlex.split(line, comments=True)[1:]


def test_the_checker_sees_what_is_wrong() -> None:
    assert wrong_with(["caffe", "instal"]) == "there is no command instal"
    assert wrong_with(["convert", "net", "--frobnicate=3"]) == "no such option --frobnicate"
    assert wrong_with(["caffe", "install", "--arch", "arm64"]) is None
    assert list(commands("so: `rebirth run A`\n```\nrebirth plan B  # c\n```\n")) == [["plan", "B"], ["run", "A"]]


def test_commands_in_messages() -> None:
    wrong = [
        f"{where}: rebirth {' '.join(words)}: {problem}"
        for where, text in strings()
        for words in commands(text)
        if words != ["--help"] and (problem := wrong_with(words))
    ]
    assert wrong == []


def test_groups_are_named_with_a_command_of_theirs() -> None:
    """Help has no room for backticks: `rebirth caffe install` stands there without."""
    groups = {name for name in rebirth.list_commands(click.Context(rebirth)) if _commands_of(name)}
    wrong = [
        f"{where}: rebirth {group} {word}"
        for where, text in strings()
        for group, word in re.findall(r"\brebirth ([a-z]+) ([a-z]+)", text)
        if group in groups and word not in _commands_of(group)
    ]
    assert groups >= {"caffe", "config", "data", "device"} and wrong == []


@cache
def _commands_of(name: str) -> tuple[str, ...]:
    command = rebirth.get_command(click.Context(rebirth), name)
    return tuple(command.commands) if isinstance(command, click.Group) else ()


@pytest.mark.parametrize("page", [*PAGES, *SCHEDULES], ids=lambda path: path.name)
def test_commands_in_documentation(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".yaml":
        text = re.sub(r"^# (?=rebirth )", "    ", text, flags=re.M)
    told = [words for words in commands(text) if words[0] != "COMMAND"]
    assert [(words, problem) for words in told if (problem := wrong_with(words))] == []


def test_no_message_needs_a_clone() -> None:
    """Neither the makefile nor scripts/ are in a wheel, and no index is known to have this project."""
    needs = re.compile(r"\bmake (caffe|demo|test|lint|proto|bench|fuzz)\b|\bscripts/\w|\bdeeprebirth-caffe\[")
    found = [(where, text) for where, text in strings() if needs.search(text)]
    assert [where for where, _ in found if not where.startswith("deeprebirth_caffe/extras.py:1")] == []


def test_pages_that_messages_name_are_in_the_package() -> None:
    named = {page for _, text in strings() for page in re.findall(r"\bdocs/([\w.-]+\.md)\b", text)}
    assert len(named) > 5
    assert [page for page in named - {"PAGE.md"} if not (PACKAGE / "docs" / page).is_file()] == []


def test_extras_that_messages_name() -> None:
    """Each `pip_install(extra)` and `need(module, extra)` names an extra that there is."""
    named = set()
    for tree in sources().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "pip_install":
                named.update(word.value for word in node.args[:1] if isinstance(word, ast.Constant))
            elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "EXTRA":
                assert isinstance(node.value, ast.Constant)
                named.add(node.value.value)
    assert named >= {"torch", "data", "run", "tucker", "onnx", "mnn", "ncnn", "opencv"}
    assert named <= set(extras())


@pytest.mark.parametrize("package, purpose, extra", PACKAGES)
def test_packages_of_doctor_are_in_their_extra(package: str, purpose: str, extra: str) -> None:
    assert re.search(rf"^{re.escape(package)}[<>=]", extras()[extra], flags=re.M), purpose
    assert package.lower() in extras()["all"].lower() or f"%({extra})s" in extras()["all"] or extra == "onnx"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_extras_in_documentation(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "deeprebirth-caffe[" not in text
    named = {extra for group in re.findall(r"'(?:\.|\S+\.whl)\[([a-z,]+)\]'", text) for extra in group.split(",")}
    assert named <= set(extras())
