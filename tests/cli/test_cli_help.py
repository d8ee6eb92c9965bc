"""Help pages: groups, examples that are right, suggestions; and what a narrow terminal shows."""

from __future__ import annotations

import os
import pty
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from cli_tools import run_here

from deeprebirth_caffe.cli import COMMANDS, rebirth
from deeprebirth_caffe.cli.examples import EXAMPLES
from deeprebirth_caffe.cli.layout import cut
from deeprebirth_caffe.options.fields import TITLES

WIDTH = 80


def commands() -> Iterator[tuple[str, click.Command]]:
    """All commands that do something, with the words that call them."""
    context = click.Context(rebirth)
    for name in COMMANDS:
        command = rebirth.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((f"{name} {part}", child) for part, child in command.commands.items())
        else:
            yield name, command


def in_terminal(*arguments: str, width: int = WIDTH, **environment: str) -> list[str]:
    """Runs rebirth in a terminal; gives the lines it prints."""
    leader, follower = pty.openpty()
    env = {**os.environ, "COLUMNS": str(width), "TERM": "xterm", **environment}
    command = [sys.executable, "-m", "deeprebirth_caffe", *arguments]
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=subprocess.PIPE, env=env)
    os.close(follower)
    output = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # so Linux says that the other side is closed
            part = b""
        if not part:
            break
        output += part
    process.communicate()
    os.close(leader)
    return output.decode().replace("\r\n", "\n").splitlines()


def test_every_command_has_examples_and_no_others_are_there() -> None:
    assert set(EXAMPLES) == {name for name, _ in commands()}


@pytest.mark.parametrize("example", [example for examples in EXAMPLES.values() for example in examples])
def test_examples_parse(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(example, comments=True)
    for word in words:
        if "/" in word:
            Path(word).parent.mkdir(parents=True, exist_ok=True)
        if "." in word or word == "out/caffe":
            Path(word).touch()
        elif word in ("photos", "run", "pictures", "out/lib", "train_val-rebirth"):
            Path(word).mkdir()
    known = dict(commands())
    name = next(name for name in sorted(known, key=len, reverse=True) if words[: len(name.split())] == name.split())
    # click remembers what the first context says of a command: it has to be that of the program.
    parent = rebirth.make_context("rebirth", words)
    known[name].make_context(name, words[len(name.split()) :], parent=parent)


def test_every_option_has_help() -> None:
    bare = [
        f"{name} {param.opts[0]}"
        for name, command in commands()
        for param in command.params
        if isinstance(param, click.Option) and not (param.help or "").strip()
    ]
    assert bare == []


def test_long_pages_have_groups() -> None:
    titles = {getattr(param, "title", "") for _, command in commands() for param in command.params}
    assert titles == {"", *TITLES}
    page = run_here("convert", "--help").out
    for title in ("Options", "What to merge", "How new layers start", "Engine", "Output", "Examples"):
        assert f"\n{title}:\n" in page
    assert "What to merge" not in run_here("inspect", "--help").out
    folder = run_here("data", "folder", "--help").out
    for title in ("Options", "Output"):
        assert f"\n{title}:\n" in folder
    for title in set(TITLES) - {"Output"}:
        assert title not in folder


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("conver",), "there is no command 'conver' (did you mean convert?); see rebirth --help"),
        (("device", "instal"), "'instal' (did you mean install"),
        (("xyz",), "there is no command 'xyz'; see rebirth --help"),
    ],
)
def test_a_mistyped_command(words: tuple[str, ...], said: str) -> None:
    result = run_here(*words)
    assert result.code == 2
    assert said in result.err


@pytest.mark.parametrize("width", [8, 13, 14, 40])
def test_names_are_cut_in_the_middle(width: int) -> None:
    name = "inception_3a/3x3_reduce"
    short = cut(name, width)
    assert len(short) == min(width, len(name))
    assert short == name or (short.startswith(name[:3]) and short.endswith(name[-4:]) and "…" in short)


def test_tables_fit_a_terminal_and_keep_numbers_whole(googlenet: Path) -> None:
    lines = in_terminal("inspect", str(googlenet), NO_COLOR="1")
    assert all(len(line) <= WIDTH for line in lines)
    assert any(line.split()[:2] == ["conv1/7x7_s2", "Convolution"] and line.endswith("118,013,952") for line in lines)
    wide = in_terminal("inspect", str(googlenet), width=140)
    assert wide[0].startswith("stage")


def test_lines_break_between_words(googlenet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(googlenet.parent)  # a path is one word, which may be longer than a line
    lines = in_terminal("convert", googlenet.name, "--dry-run", NO_COLOR="1")
    assert all(len(line) <= WIDTH for line in lines)
    assert all(line.startswith("        ") for line in lines if "3x3_reduce_merge (1." in line)


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_can_be_switched_off(variable: str, value: str, googlenet: Path) -> None:
    arguments = ("diff", str(googlenet), str(googlenet.with_name("train_val.prototxt")))
    assert any("\x1b[" in line for line in in_terminal(*arguments))
    assert not any("\x1b[" in line for line in in_terminal(*arguments, **{variable: value}))


@pytest.fixture(scope="module")
def googlenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from deeprebirth_caffe import zoo

    folder = tmp_path_factory.mktemp("zoo")
    zoo.write("googlenet", folder / "googlenet")
    deploy = folder / "googlenet" / "deploy.prototxt"
    text = deploy.read_text().replace("dim: 10 dim: 3", "dim: 1 dim: 3")
    deploy.write_text(text)
    return deploy
