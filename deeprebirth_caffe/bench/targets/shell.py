"""A device at the end of a link, as a shell that runs our scripts and sends and receives files.

All scripts are constants; values are their arguments. So a transport only carries commands, and files in both
directions. On the device everything lies in a single directory:

    caffe/          the Caffe that `rebirth device install` put there, with MANIFEST, its checksums
    caffe.new/      the same on its way
    runs/ID/        the files of a run, under our own names; removed at its end
"""

from __future__ import annotations

import re
import secrets
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deeprebirth_caffe.bench.targets.client import Reply
from deeprebirth_caffe.engines.base import EngineError

QUICK = 60.0
"""The most seconds for a command that takes no time."""

_GONE = re.compile(
    r"error: closed|device offline|device '.*' not found|no devices|device still|transport|protocol fault"
    r"|connection (closed|reset|refused|timed out)|broken pipe|lost connection|no route to host"
    r"|mux_client|control socket",
    re.IGNORECASE,
)


class DeviceError(EngineError):
    """A device refused, or lacks something."""


class DeviceLostError(DeviceError):
    """The link to a device broke, or the device no longer answers."""


@dataclass(frozen=True)
class Done:
    """A script that ran to its end.

    Attributes:
        rc: the exit status.
        stdout: its output.
        stderr: its error output, and the link's.
    """

    rc: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Its output, as text."""
        return _text(self.stdout)


class Transport(Protocol):
    """A link to a device.

    Attributes:
        name: the user's name for the device: "adb:SERIAL", "ssh:HOST".
    """

    name: str

    def execute(self, command: str, timeout: float | None) -> Reply:
        """Runs a command line in the device's shell; its standard input stays open as long as the link lives."""
        ...

    def home(self) -> str:
        """The directory for our files, as an expression of the device's shell."""
        ...

    def push(self, local: Path, remote: str) -> Reply:
        """Sends a file."""
        ...

    def pull(self, remote: str, local: Path) -> Reply:
        """Fetches a file."""
        ...

    def close(self) -> None:
        """Ends the link."""
        ...


class Shell:
    """Runs scripts on a device and knows how each ended, whatever else the link and the login shell print.

    Each script runs between two lines with a random word; if the second line is missing, it did not end.
    """

    def __init__(self, link: Transport) -> None:
        self.link = link
        self._root: str | None = None

    @property
    def name(self) -> str:
        return self.link.name

    @property
    def root(self) -> str:
        """The directory of our files, created if missing."""
        if self._root is None:
            # The home is an expression of the transport, so it may be part of the script.
            directory = self.check("make a directory", f'd={self.link.home()} && mkdir -p "$d" && cd "$d" && pwd')
            self._root = directory.text.strip()
        return self._root

    def run(self, script: str, *args: str, timeout: float | None = QUICK, doing: str = "answer") -> Done:
        """Runs a script with arguments ("$1" …).

        Args:
            script: for any POSIX shell; a constant, because it is not quoted.
            *args: arrive unchanged, whatever they hold.
            timeout: seconds.
            doing: the purpose, for errors.

        Raises:
            DeviceLostError: it did not run to its end.
        """
        word = secrets.token_hex(8)
        framed = f"printf '\\nbegin-{word}\\n'; (\n{script}\n); printf '\\nend-{word}:%s\\n' \"$?\""
        reply = self.link.execute(shlex.join(["sh", "-c", framed, "sh", *args]), timeout)
        answer = re.search(rb"\nbegin-%b\r?\n(.*)\nend-%b:(\d+)\r?\n" % ((word.encode(),) * 2), reply.stdout, re.DOTALL)
        if answer is None or reply.rc is None:
            raise self._lost(reply, doing, timeout)
        return Done(int(answer[2]), answer[1], reply.stderr)

    def check(self, doing: str, script: str, *args: str, timeout: float | None = QUICK) -> Done:
        """Runs a script that must succeed; see `run`.

        Raises:
            DeviceError: it did not.
        """
        done = self.run(script, *args, timeout=timeout, doing=doing)
        if done.rc:
            raise self.failure(doing, _text(done.stderr).strip() or done.text.strip())
        return done

    def push(self, local: Path, remote: str) -> None:
        """Sends a file; the directory must exist."""
        self._moved(self.link.push(local, remote), f"send {Path(remote).name}")

    def pull(self, remote: str, local: Path) -> None:
        """Fetches a file; on failure no file is left."""
        try:
            self._moved(self.link.pull(remote, local), f"fetch {Path(remote).name}")
        except BaseException:
            local.unlink(missing_ok=True)
            raise

    def failure(self, doing: str, said: str) -> DeviceError:
        """The error for a device's complaint."""
        lines = [line.strip() for line in said.splitlines() if line.strip()] or ["no reason given"]
        last = next((line for line in lines if "error: " in line), lines[-1])
        where = self._root or "its directory for temporary files"
        if re.search(r"no space left|disk quota", said, re.IGNORECASE):
            return DeviceError(f"{self.name} is full, cannot {doing}: make room in {where} and run again")
        if re.search(r"permission denied|read-only file system|operation not permitted", said, re.IGNORECASE):
            return DeviceError(f"{self.name}: not allowed to {doing} ({last}): see docs/devices.md for the directory")
        if _GONE.search(said):
            return DeviceLostError(f"{self.name} went away, cannot {doing} ({last}): connect it and run again")
        return DeviceError(f"{self.name}: cannot {doing}: {last}")

    def _moved(self, reply: Reply, doing: str) -> None:
        if reply.rc is None:
            raise DeviceLostError(f"{self.name}: the link is too slow or dead, cannot {doing}: check it and run again")
        if reply.rc:
            raise self.failure(doing, reply.text)

    def _lost(self, reply: Reply, doing: str, timeout: float | None) -> DeviceError:
        if reply.rc is None:
            return DeviceLostError(f"{self.name} did not {doing} within {timeout:.0f} s: check the link and run again")
        if reply.stderr.strip():
            last = _text(reply.stderr).strip().splitlines()[-1]
            return DeviceLostError(f"{self.name} went away, could not {doing} ({last}): connect it and run again")
        return DeviceLostError(f"{self.name} went away, could not {doing}: connect it and run again")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace").replace("\r\n", "\n")
