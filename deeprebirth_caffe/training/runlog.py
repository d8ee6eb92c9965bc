"""The log of a training run: one JSON object a line, appended as the run goes on."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import atomic_write, read_regular
from deeprebirth_caffe.formats.jsonfile import ANYTHING, COUNT, NUMBER, Each, Maybe, Number, Shape, parse_json, shaped
from deeprebirth_caffe.results import to_json

LINE_SHAPE: Shape = {
    "iteration": COUNT,
    "lr": NUMBER,
    "loss": Number(lenient=True),
    "images_per_second?": Maybe(NUMBER),
    "tests?": [{"iteration": COUNT, "net": COUNT, "outputs": Each(ANYTHING)}],
}
"""What those who read a log take from a line."""


class RunLog:
    """An open log; `close` it.

    A line is there whole or not at all: where the disk is full, lines wait until there is room.
    """

    def __init__(self, path: Path, start: int = 0, force: bool = False) -> None:
        """Opens a log, taking out what an earlier run wrote at or behind the iteration where this one begins.

        Args:
            path: the file; made if need be.
            start: the first iteration of this run.
            force: whether a run that begins anew may take the place of an older one.

        Raises:
            RebirthError: it is another file, or cannot be written, or would lose an older run.
        """
        self.path = path
        self._waiting: list[bytes] = []
        kept = self._kept(start, force)
        try:
            if kept is not None:
                atomic_write(path, kept)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            raise RebirthError(f"--log {path}: cannot write it: {error.strerror or error}") from error

    def _kept(self, start: int, force: bool) -> bytes | None:
        """The lines that stay; None where all do."""
        if not self.path.is_file():  # a terminal, say, or nothing yet
            return None
        try:
            old = read_regular(self.path)
        except OSError as error:
            raise RebirthError(f"--log {self.path}: cannot read it: {error.strerror or error}") from error
        *lines, torn = old.split(b"\n")  # behind the last line feed there is nothing, or half a line
        kept = []
        for number, line in enumerate(lines, 1):
            try:
                iteration = shaped(parse_json(line), {"iteration": COUNT})["iteration"]
                if iteration < start:
                    kept.append(line)
            except ValueError:
                raise RebirthError(
                    f"--log {self.path}: line {number} is none of a log of rebirth finetune; choose another file"
                ) from None
        if torn and not lines and not torn.startswith(b'{"iteration"'[: len(torn)]):
            raise RebirthError(f"--log {self.path}: this is no log of rebirth finetune; choose another file")
        if lines and not start and not force:
            raise RebirthError(
                f"--log {self.path}: an older run's log; choose another file, --resume that run, or add --force"
            )
        return b"".join(line + b"\n" for line in kept) if len(kept) < len(lines) or torn else None

    def write(self, line: object) -> str:
        """Appends a line.

        Returns:
            Why it has to wait; the empty string where it is written.
        """
        text = json.dumps(to_json(line), ensure_ascii=False, allow_nan=False)
        self._waiting.append(text.encode(errors="backslashreplace") + b"\n")
        return self.flush()

    def flush(self) -> str:
        """Writes the lines that wait; see `write`."""
        while self._waiting:
            size = os.fstat(self._file).st_size
            try:
                if os.write(self._file, self._waiting[0]) == len(self._waiting[0]):
                    del self._waiting[0]
                    continue
                reason = "there is no room for a whole line"
            except OSError as error:
                reason = error.strerror or str(error)
            with contextlib.suppress(OSError):  # what is no file has nothing to take back
                os.ftruncate(self._file, size)
            return f"--log {self.path}: cannot write it: {reason}; {len(self._waiting)} lines wait"
        return ""

    def close(self) -> None:
        """Closes the file; lines that still wait are lost."""
        os.close(self._file)
