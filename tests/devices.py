"""Devices for tests: this machine's shell in a sandbox, Android by the real adb client, a board by a real sshd."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from adbd.server import Adbd

from deeprebirth_caffe.bench.targets.bundle import Bundle
from deeprebirth_caffe.bench.targets.client import Reply, call
from deeprebirth_caffe.bench.targets.facts import about
from deeprebirth_caffe.bench.targets.shell import Shell

CAFFE = """#!/bin/sh
# Stands for Caffe where its figures do not matter.
case $1 in
    --version) echo "caffe version 1.0.0" ;;
    echo) shift; printf '<%s>' "$@"; echo "env $NAME" >&2 ;;
    nap) echo "Benchmark begins" >&2; exec sleep "$2" ;;
    fail) echo "F1121 10:00:00.000000     1 net.cpp:1] no such thing" >&2; exit 3 ;;
    read) cat net.prototxt ;;
esac
"""

LONG = str(100_000 + os.getpid())
"""Seconds that nothing here lasts; other tests on this machine have another number."""


class Here:
    """A transport to this machine's shell: /sys lies in the sandbox, and programs in its bin/ come first.

    Attributes:
        folder: the sandbox.
        pushed: what was sent, by name.
        noise: what a login script runs first.
        path: where programs are looked for after the sandbox.
        push_hook: given (local, remote) before a file is sent; what it returns is the reply instead.
    """

    def __init__(self, folder: Path) -> None:
        self.name = "here"
        self.folder = folder.resolve()
        self.pushed: list[str] = []
        self.push_hook: Callable[[Path, Path], Reply | None] = lambda local, remote: None
        self.noise = ""
        self.path = "$PATH"
        for name in ("bin", "home", "sys"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def home(self) -> str:
        return shlex.quote(f"{self.folder}/home/rebirth")

    @property
    def root(self) -> Path:
        return self.folder / "home" / "rebirth"

    def execute(self, command: str, timeout: float | None) -> Reply:
        mapped = command.replace("/sys/", f"{self.folder}/sys/")
        path = f"PATH={self.folder}/bin:{self.path}; export PATH; {self.noise}"
        reply = call(["/bin/sh", "-c", f"{path}\n{mapped}"], timeout=timeout)
        return Reply(reply.rc, reply.stdout.replace(f"{self.folder}/sys/".encode(), b"/sys/"), reply.stderr)

    def push(self, local: Path, remote: str) -> Reply:
        special = self.push_hook(local, Path(remote))
        if special is not None:
            return special
        shutil.copyfile(local, remote)
        self.pushed.append(Path(remote).name)
        return Reply(0, b"", b"")

    def pull(self, remote: str, local: Path) -> Reply:
        shutil.copyfile(remote, local)
        return Reply(0, b"", b"")

    def close(self) -> None:
        self.noise = "exit 1; "

    def program(self, name: str, script: str) -> None:
        """Puts a program on the device."""
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}")
        path.chmod(0o755)

    def file(self, path: str, text: str) -> None:
        """Puts a file on the device, below /sys."""
        place = self.folder / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)


def false_caffe(folder: Path, shell: Shell | None = None, *, machine: str = "", libraries: int = 2) -> Bundle:
    """A bundle whose program is a shell script.

    Args:
        folder: where to write it.
        shell: a device that it is right for.
        machine: or the processor it is for.
        libraries: how many files lie beside it.
    """
    folder.mkdir(exist_ok=True)
    files = {"bin/caffe": folder / "caffe"}
    files["bin/caffe"].write_text(CAFFE)
    for number in range(libraries):
        files[f"lib/libpart{number}.so.1"] = folder / f"part{number}"
        files[f"lib/libpart{number}.so.1"].write_bytes(bytes([number]) * 1000)
    if shell is not None:
        machine = about(shell).machines[0]
    return Bundle(machine, files, None, (), "a test")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def tool(name: str) -> str:
    """The path of a program, or the test is skipped; $REBIRTH_TEST_SSHD and the like name one elsewhere."""
    found = os.environ.get(f"REBIRTH_TEST_{name.upper()}") or shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if not found:
        pytest.skip(f"no {name} on this machine")
    return found


@contextmanager
def adb_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The real adb client with a server of its own, which sees nothing but what is connected to it."""
    adb = tool("adb")
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{Path(adb).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
    monkeypatch.setenv("ADB_LOCAL_TRANSPORT_MAX_PORT", "5554")
    monkeypatch.setenv("ADB_MDNS", "0")
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    try:
        yield adb
    finally:
        subprocess.run([adb, "kill-server"], capture_output=True, check=False)


def connect(adb: str, device: Adbd) -> None:
    done = subprocess.run([adb, "connect", device.serial], capture_output=True, text=True, check=True)
    assert "connected" in done.stdout, done.stdout + done.stderr


@contextmanager
def ssh_board(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A real sshd on loopback, which `ssh:board` means; gives the home directory there."""
    sshd, keygen, ssh = tool("sshd"), tool("ssh-keygen"), tool("ssh")
    folder = folder.resolve()
    home = folder / "far home"
    home.mkdir(parents=True)
    for name in ("host", "key"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    port = free_port()
    settings = [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {folder}/host",
        f"AuthorizedKeysFile {folder}/key.pub",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PermitRootLogin prohibit-password",
        "StrictModes no",
        "PidFile none",
        f'SetEnv "HOME={home}"',
    ]
    (folder / "sshd_config").write_text("\n".join(settings) + "\n")
    client = [
        "Host board locked",
        "  HostName 127.0.0.1",
        f"  Port {port}",
        f"  UserKnownHostsFile {folder}/known",
        "  StrictHostKeyChecking accept-new",
        "  IdentitiesOnly yes",
        "Host board",
        f"  IdentityFile {folder}/key",
        "Host locked",
        f"  IdentityFile {folder}/host",
    ]
    (folder / "ssh_config").write_text("\n".join(client) + "\n")
    programs = folder / "bin"
    programs.mkdir()
    (programs / "ssh").write_text(f'#!/bin/sh\nexec {shlex.quote(ssh)} -F {shlex.quote(f"{folder}/ssh_config")} "$@"\n')
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    with (folder / "sshd.log").open("wb") as log:
        server = subprocess.Popen([sshd, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
    try:
        _listening(server, port, folder / "sshd.log")
        yield home
    finally:
        server.terminate()
        server.wait()


def _listening(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(200):
        if server.poll() is not None:
            pytest.skip(f"sshd does not start here: {log.read_text().strip()}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    pytest.fail(f"sshd does not listen: {log.read_text()}")


def vanished(path: Path, seconds: float = 20) -> bool:
    """Whether a file goes away in time."""
    return eventually(lambda: not path.exists(), seconds)


def eventually(holds: Callable[[], bool], seconds: float = 20) -> bool:
    """Whether something becomes true in time."""
    for _ in range(int(seconds / 0.05)):
        if holds():
            return True
        time.sleep(0.05)
    return holds()


def sleeping(seconds: str) -> bool:
    """Whether a program sleeps so long."""
    words = f"sleep\0{seconds}\0".encode()
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if place.read_bytes() == words:
                return True
        except OSError:
            continue
    return False
