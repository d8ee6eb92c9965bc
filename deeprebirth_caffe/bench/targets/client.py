"""Runs the programs that reach a device (`adb`, `ssh`): always as a list of words, never through a shell here."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Reply:
    """What a client gave back.

    Attributes:
        rc: its exit status; None where it was ended because it took too long.
        stdout: what it printed.
        stderr: likewise.
    """

    rc: int | None
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """What it complained about: stderr, or stdout where that is empty."""
        return (self.stderr.strip() or self.stdout.strip()).decode("utf-8", "replace")


def call(words: Sequence[str], *, timeout: float | None, stdin: Path | None = None) -> Reply:
    """Runs a client to its end.

    Args:
        words: the program and its arguments.
        timeout: seconds; then it is ended.
        stdin: a file to send; None keeps the standard input open and silent until the client ends. What runs on the
            device sees it close when the client, the link or this process is gone, and can give up.
    """
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
                start_new_session=True,  # Ctrl-C is for us; we end it below
            )
        finally:
            os.close(source)
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            stack.close()
            return Reply(None, *_rest(process))
        except BaseException:
            process.kill()
            process.wait()
            raise
    return Reply(process.returncode, stdout, stderr)


def _rest(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """What a client that was ended had printed; not waited for, should somebody else hold its pipes."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.communicate(timeout=5)
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    return b"", b""


def _close(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        os.close(descriptor)


def transfer_seconds(size: int) -> float:
    """How long sending a file may take before the link counts as dead: 20 kB/s, which is very slow, and a minute."""
    return 60 + size / 20_000
