"""Linux boards, through OpenSSH's `ssh`: a shared connection, with the keys and names of the user's configuration."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shlex
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.bench.targets.client import MOST_OF_A_FILE, Reply, call, transfer_seconds
from deeprebirth_caffe.bench.targets.shell import DeviceError, DeviceLostError
from deeprebirth_caffe.errors import UsageError

DIRECTORY = '"${REBIRTH_DEVICE_DIR:-$HOME/.rebirth}"'

CONNECT_SECONDS = 30
_READY = "rebirth-ready"


@dataclass(frozen=True)
class Address:
    """The address of a board.

    Attributes:
        host: a name, an address, or a name of the user's ssh configuration.
        user: None: ssh decides.
        port: None: ssh decides.
    """

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Reads "[USER@]HOST[:PORT]"; an IPv6 address before a port is in brackets.

        Raises:
            UsageError: it has another form. ssh's configuration may pass names to a shell, so they must be plain.
        """
        match = re.fullmatch(
            r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9._-]*)@)?"
            r"(?:\[(?P<six>[0-9A-Fa-f:.]+(?:%[A-Za-z0-9]+)?)\]|(?P<host>[A-Za-z0-9_][A-Za-z0-9._-]*))"
            r"(?::(?P<port>[0-9]{1,5}))?",
            text,
        )
        if match is None or not 0 < int(match["port"] or 22) < 65536:
            raise UsageError(f"ssh:{text} is not of the form ssh:[USER@]HOST[:PORT]")
        return cls(match["six"] or match["host"], match["user"], int(match["port"]) if match["port"] else None)


class SshTransport:
    """A board. All commands share the connection that is opened here."""

    def __init__(self, text: str) -> None:
        """Connects.

        Args:
            text: "[USER@]HOST[:PORT]".

        Raises:
            DeviceError: it cannot be reached, or asks for a password.
        """
        address = Address.parse(text)
        ssh = shutil.which("ssh")
        if ssh is None:
            raise DeviceError("ssh not found: install OpenSSH's client (Debian: apt install openssh-client)")
        self.name = f"ssh:{text}"
        self._stack = contextlib.ExitStack()
        try:
            # Below /tmp even if TMPDIR is elsewhere: the path of a socket has at most 107 letters.
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="rebirth-", dir="/tmp"))
            control = f"{folder}/link"
            options = ["-o", "BatchMode=yes", "-o", f"ControlPath={control}"]
            where = [
                *(["-p", str(address.port)] if address.port else []),
                *(["-l", address.user] if address.user else []),
                "--",
                address.host,
            ]
            self._words = [ssh, "-T", *options, "-o", "ControlMaster=no", *where]
            self._master = self._open([ssh, "-T", *options, *_MASTER, *where], Path(folder))
        except BaseException:
            self._stack.close()
            raise

    def _open(self, words: list[str], folder: Path) -> subprocess.Popen[bytes]:
        # It ends when its standard input closes, so it ends with this process, however that ends.
        with (folder / "log").open("wb") as log:
            master = subprocess.Popen(
                [*words, f"echo {_READY}; exec cat"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C ends this process, whose clean-up still needs the connection
            )
        self._stack.callback(_end, master)
        if not _answers(master):
            said = (folder / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            last = said[-1] if said else "it does not answer"
            hint = "; set up a key with ssh-copy-id" if "ermission denied" in last else ""
            raise DeviceError(f"{self.name} cannot be reached: {last}{hint}")
        return master

    def home(self) -> str:
        return DIRECTORY

    def execute(self, command: str, timeout: float | None) -> Reply:
        self._check()
        return call([*self._words, command], timeout=timeout)

    def push(self, local: Path, remote: str) -> Reply:
        self._check()
        command = shlex.join(["sh", "-c", 'cat >"$1"', "sh", remote])
        return call([*self._words, command], timeout=transfer_seconds(local.stat().st_size), stdin=local)

    def pull(self, remote: str, local: Path) -> Reply:
        self._check()
        reply = call([*self._words, shlex.join(["cat", "--", remote])], timeout=None, most=MOST_OF_A_FILE)
        if reply.rc == 0:
            local.write_bytes(reply.stdout)
        return reply

    def close(self) -> None:
        self._stack.close()

    def _check(self) -> None:
        # Without this, ssh would open a new connection when the shared one is gone.
        if self._master.poll() is not None:
            raise DeviceLostError(f"{self.name} went away: the connection broke; connect it and run again")


_MASTER = [
    *("-o", "ControlMaster=yes", "-o", "ControlPersist=no"),
    *("-o", f"ConnectTimeout={CONNECT_SECONDS}"),
    # A board that loses power says nothing; it counts as gone after a minute.
    *("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"),
]


def _answers(master: subprocess.Popen[bytes]) -> bool:
    """Waits for the remote shell's first words, which login scripts may precede."""
    assert master.stdout is not None
    said = b""
    deadline = time.monotonic() + 2 * CONNECT_SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(master.stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            data = os.read(master.stdout.fileno(), 4096)
            if not data:
                return False
            said = (said + data)[-65536:]
            if _READY.encode() in said:
                return True
    return False


def _end(master: subprocess.Popen[bytes]) -> None:
    for stream in (master.stdin, master.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    try:
        master.wait(5)
    except subprocess.TimeoutExpired:
        master.kill()
        master.wait()
