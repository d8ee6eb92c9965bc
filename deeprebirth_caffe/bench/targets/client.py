"""Runs the programs that reach a device (`adb`, `ssh`): always as a list of words, never through a local shell."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from deeprebirth_caffe.engines.base import EngineError


@dataclass(frozen=True)
class Reply:
    """The result of a client.

    Attributes:
        rc: the exit status; None if it took too long and was ended.
        stdout: its output.
        stderr: its error output.
    """

    rc: int | None
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Its complaint: stderr, or stdout if that is empty."""
        return (self.stderr.strip() or self.stdout.strip()).decode("utf-8", "replace")


MOST_BYTES = 64 << 20
"""The most bytes of a client's output, because a device that prints without end must not fill our memory."""

MOST_OF_A_FILE = 2 << 30
"""The most bytes of a client's output if it prints a file."""


def call(words: Sequence[str], *, timeout: float | None, stdin: Path | None = None, most: int = MOST_BYTES) -> Reply:
    """Runs a client to its end.

    Args:
        words: the program and its arguments.
        timeout: seconds; then it is ended.
        stdin: a file to send; None keeps the standard input open and silent until the client ends. A program on the
            device sees it close when the client, the link or this process is gone, and can stop.
        most: the most bytes of output.

    Raises:
        EngineError: it prints more.
    """
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        if stdin is None:
            source, hold = os.pipe()
            stack.callback(_close, hold)
        else:
            source = os.open(stdin, os.O_RDONLY)
        try:
            process = subprocess.Popen(
                words,
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for this process, which ends the client below
            )
        finally:
            os.close(source)
        said = _Said(words[0], process, most)
        try:
            if not said.read(None if timeout is None else begin + timeout):
                process.kill()
                stack.close()
                # No longer wait: somebody else may hold its pipes.
                said.read(time.monotonic() + 5)
                process.wait()
                return Reply(None, *said.texts)
            process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            said.close()
    return Reply(process.returncode, *said.texts)


class _Said:
    """The output of a client."""

    def __init__(self, program: str, process: subprocess.Popen[bytes], most: int) -> None:
        assert process.stdout is not None and process.stderr is not None
        self._streams = {process.stdout: bytearray(), process.stderr: bytearray()}
        self._most = most
        self._program = program
        self._selector = selectors.DefaultSelector()
        for stream in self._streams:
            self._selector.register(stream, selectors.EVENT_READ)

    @property
    def texts(self) -> tuple[bytes, bytes]:
        """The bytes of stdout and stderr."""
        stdout, stderr = self._streams.values()
        return bytes(stdout), bytes(stderr)

    def read(self, deadline: float | None) -> bool:
        """Reads until the client closes both; False if that takes too long.

        Raises:
            EngineError: it prints without end.
        """
        while self._selector.get_map():
            left = None if deadline is None else deadline - time.monotonic()
            ready = self._selector.select(left) if left is None or left > 0 else []
            if not ready:
                return False
            for key, _ in ready:
                data = os.read(key.fd, 1 << 16)
                if data:
                    self._streams[cast("IO[bytes]", key.fileobj)] += data
                else:
                    self._selector.unregister(key.fileobj)
            if sum(map(len, self._streams.values())) > self._most:
                raise EngineError(
                    f"{self._program} printed more than {self._most >> 20} MiB, so it was ended; look at the device"
                )
        return True

    def close(self) -> None:
        """Closes the pipes."""
        self._selector.close()
        for stream in self._streams:
            stream.close()


def _close(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        os.close(descriptor)


def transfer_seconds(size: int) -> float:
    """The most seconds of sending a file before the link counts as dead: 20 kB/s, which is very slow, and a minute."""
    return 60 + size / 20_000
