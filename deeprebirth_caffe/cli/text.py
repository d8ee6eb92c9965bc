"""Text from files, made fit for a terminal: what every command passes its words through."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO

import click

from deeprebirth_caffe.wording import clipped, escaped, json_bytes, printable

__all__ = ["error_line", "guarded", "print_json", "printable"]

_OURS = re.compile(r"(\n|\t|\r|\x1b\[[0-9;]*m|\x1b\[\d*[ABCDGJK]|\x1b\[\?25[hl])")
"""What our own output moves and colours a terminal with."""


def error_line(text: str) -> str:
    """An error as one line that can be read: nothing in it moves the cursor, and what is too long is cut."""
    return str(printable(clipped(text)))


def print_json(data: Any) -> None:
    """JSON on stdout."""
    # Bytes: JSON is UTF-8, whatever the terminal's encoding is.
    click.echo(json_bytes(data), nl=False)


class Guarded:
    """A text stream that escapes whatever would make a terminal do more than show text, move or colour.

    Commands make names from files printable themselves; this holds for what one of them forgets.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes a text."""
        if not text.isprintable():
            parts = _OURS.split(text)
            text = "".join(part if index % 2 else "".join(map(escaped, part)) for index, part in enumerate(parts))
        return self._stream.write(text)

    def writelines(self, lines: list[str]) -> None:
        """Writes several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Guards stdout and stderr while it lasts."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and Guarded(stream) for stream in streams)  # one that is closed is None
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
