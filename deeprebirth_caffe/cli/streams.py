"""Standard input and output in place of files, and how much a command says: `-`, `--quiet` and `--verbose`."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from deeprebirth_caffe.wording import STANDS_FOR

DASH = Path("-")
NET_NAME = "net.prototxt"
"""What a net from standard input is called, and what is made of it."""
RESULTS = ("inspect", "diff", "doctor", "status", "test", "forward", "time", "device list", "device info")
"""Commands whose words are what they are for: --quiet leaves those."""

_SPOOLED = "deeprebirth_caffe.spooled"
_said = {"quiet": False, "verbose": False}


class PathOrDash(click.Path):
    """A path; `-` is read from standard input, or refused with the reason."""

    def __init__(self, *, why: str = "", **rest: Any) -> None:
        """Args:
        why: why `-` means nothing here; empty: it is standard input.
        rest: as for click.Path.
        """
        super().__init__(path_type=Path, **rest)
        self._why = why

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if str(value) != "-":
            return super().convert(value, param, ctx)
        if self._why:
            self.fail(f"- means nothing here: {self._why}", param, ctx)
        if ctx is None or ctx.resilient_parsing:
            return DASH
        if _SPOOLED in ctx.meta:
            self.fail("standard input can be read once", param, ctx)
        ctx.meta[_SPOOLED] = _spool(ctx)
        return ctx.meta[_SPOOLED]


def _spool(ctx: click.Context) -> Path:
    """Standard input as a file that goes away with the command: nets are read more than once."""
    folder = Path(tempfile.mkdtemp(prefix="rebirth-stdin-"))
    path = folder / NET_NAME
    STANDS_FOR[str(path)] = "<stdin>"

    def close() -> None:
        shutil.rmtree(folder, ignore_errors=True)

    ctx.find_root().call_on_close(close)
    path.write_bytes(sys.stdin.buffer.read())
    return path


def quiet() -> bool:
    """Whether only errors, and what a command is for, are to be said."""
    return _said["quiet"]


def verbose() -> bool:
    """Whether more is to be said: what is read and written, and where an error comes from."""
    return _said["verbose"]


def reset() -> None:
    """Forgets what an earlier command of this process was told."""
    _said.update(quiet=False, verbose=False)
    STANDS_FOR.clear()
    logger = logging.getLogger("deeprebirth_caffe")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)


def _set(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    _said[str(param.name)] = True
    if quiet() and verbose():
        raise click.UsageError("--quiet and --verbose exclude each other", ctx)
    if verbose():
        logger = logging.getLogger("deeprebirth_caffe")
        if not logger.handlers:
            logger.addHandler(_ToStderr())
        logger.setLevel(logging.INFO)


class _ToStderr(logging.Handler):
    """Shows what the package logs, on what is stderr then."""

    def emit(self, record: logging.LogRecord) -> None:
        from deeprebirth_caffe.cli.text import printable

        click.echo(printable(record.getMessage()), err=True)


def options() -> list[click.Option]:
    """`--quiet` and `--verbose`, for every command and for `rebirth` itself."""
    return [
        click.Option(
            ["-q", "--quiet"], is_flag=True, expose_value=False, callback=_set, help="Leave progress and notes out."
        ),
        click.Option(
            ["-v", "--verbose"],
            is_flag=True,
            expose_value=False,
            callback=_set,
            help="Say which files are read and written, and where an error comes from.",
        ),
    ]


def fitted(command: click.Command, name: str) -> click.Command:
    """A command with `--quiet` and `--verbose`, whose words keep out of the way of a result on standard output.

    Args:
        command: it; a group's commands are fitted too.
        name: as people type it.
    """
    if any(param.name == "quiet" for param in command.params):
        return command
    command.params += options()
    if isinstance(command, click.Group):
        for inner, one in command.commands.items():
            fitted(one, f"{name} {inner}")
        return command
    plain = command.invoke

    def invoke(ctx: click.Context) -> Any:
        with _words_aside(ctx, name):
            return plain(ctx)

    setattr(command, "invoke", invoke)  # noqa: B010 - mypy takes no method for a variable
    return command


@contextlib.contextmanager
def _words_aside(ctx: click.Context, name: str) -> Iterator[None]:
    """Sends a command's words to stderr where its result goes to standard output, and nowhere where it is quiet."""
    from deeprebirth_caffe.formats.outputs import standard_output

    as_json = bool(ctx.params.get("as_json"))
    dashes = sum(value == DASH for value in ctx.params.values())
    if dashes > 1 or (dashes and as_json):
        raise click.UsageError("standard output takes one result: --json, or one -", ctx)
    shown = name in RESULTS or (name == "zoo" and ctx.params.get("name") == "list")
    with contextlib.ExitStack() as stack:
        stack.enter_context(standard_output(sys.stdout))
        if quiet() and not as_json and (dashes or not shown):
            nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        elif dashes:
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield
