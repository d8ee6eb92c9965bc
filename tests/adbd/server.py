"""Speaks adbd's protocol over TCP to the real adb client: connect, shell (v2), sync.

Commands run on this machine in a sandbox directory: what they call /data/local/tmp and /sys lies below it, and
programs in its bin/ come first, `getprop` among them. Faults can be switched on: a device that goes away, a full disk,
files that may not be written, a slow link.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

VERSION, LARGEST = 0x01000001, 256 * 1024
_HEADER = struct.Struct("<4s5I")
_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE = range(5)
MAPPED = ("/data/local/tmp", "/sys")


class Adbd:
    """One device.

    Attributes:
        folder: the sandbox.
        lose: given each command before it starts; where it says so, the device goes away after `lose_after` seconds.
        full_after: bytes that fit into all files together; None: any number.
        denied: part of the paths that may not be written; None: none.
        bytes_per_second: of the link; None: as fast as it goes.
        sent: (path, bytes) of each file that was sent whole.
        commands: what the shell was told.
        shell_v2: whether it has the newer shell, which tells exit codes.
    """

    def __init__(self, folder: Path, *, properties: dict[str, str] | None = None, shell_v2: bool = True) -> None:
        self.folder = folder.resolve()
        self.lose: Callable[[str], bool] = lambda command: False
        self.lose_after = 0.5
        self.full_after: int | None = None
        self.denied: str | None = None
        self.bytes_per_second: int | None = None
        self.sent: list[tuple[str, int]] = []
        self.commands: list[str] = []
        self.shell_v2 = shell_v2
        for name in ("bin", "data/local/tmp", "sys"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        known = {"ro.product.cpu.abilist": "x86_64", "ro.product.model": "Double", **(properties or {})}
        cases = "".join(f"    {name}) echo '{value}' ;;\n" for name, value in known.items())
        self.program("getprop", f'case "$1" in\n{cases}    *) echo ;;\nesac\n')
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._connections: list[_Connection] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def serial(self) -> str:
        return f"127.0.0.1:{self.port}"

    def program(self, name: str, script: str) -> None:
        """Puts a program on the device."""
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}")
        path.chmod(0o755)

    def file(self, path: str, text: str) -> None:
        """Puts a file on the device."""
        place = self.inside(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def inside(self, path: str) -> Path:
        """Where a path of the device lies here."""
        return self.folder / path.lstrip("/")

    def vanish(self) -> None:
        """The cable comes out."""
        for connection in self._connections:
            connection.drop()

    def close(self) -> None:
        """Ends it and all that runs on it."""
        self._listener.close()
        self.vanish()

    def outward(self, data: bytes) -> bytes:
        for path in MAPPED:
            data = data.replace(os.fsencode(f"{self.folder}{path}"), path.encode())
        return data

    def _accept(self) -> None:
        while True:
            try:
                connected, _ = self._listener.accept()
            except OSError:
                return
            connection = _Connection(self, connected)
            self._connections.append(connection)
            threading.Thread(target=connection.serve, daemon=True).start()


class _Connection:
    def __init__(self, device: Adbd, connected: socket.socket) -> None:
        self.device = device
        self._socket = connected
        self._lock = threading.Lock()
        self._streams: dict[int, _Stream] = {}
        self._next = 1

    def drop(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def send(self, command: bytes, first: int, second: int, data: bytes = b"") -> None:
        magic = int.from_bytes(command, "little") ^ 0xFFFFFFFF
        with self._lock:
            self._socket.sendall(_HEADER.pack(command, first, second, len(data), sum(data) & 0xFFFFFFFF, magic) + data)

    def serve(self) -> None:
        try:
            while True:
                command, first, second, length, _, _ = _HEADER.unpack(self._exactly(_HEADER.size))
                self._take(command, first, second, self._exactly(length))
        except (OSError, EOFError):
            pass
        finally:
            for stream in list(self._streams.values()):
                stream.end()
            self.drop()

    def _take(self, command: bytes, first: int, second: int, data: bytes) -> None:
        if command == b"CNXN":
            features = "shell_v2,cmd" if self.device.shell_v2 else "cmd"
            banner = (
                f"device::ro.product.name=double;ro.product.model=Test Double;ro.product.device=d;features={features}"
            )
            self.send(b"CNXN", VERSION, LARGEST, banner.encode())
        elif command == b"OPEN":
            number, self._next = self._next, self._next + 1
            stream = _Stream(self, number, first)
            self._streams[number] = stream
            self.send(b"OKAY", number, first)
            service = data.rstrip(b"\0").decode()
            threading.Thread(target=stream.run, args=(service,), daemon=True).start()
        elif command == b"WRTE":
            if self.device.bytes_per_second:
                time.sleep(len(data) / self.device.bytes_per_second)
            if second in self._streams:
                self._streams[second].feed(data)
                self.send(b"OKAY", second, first)
        elif command == b"OKAY":
            if second in self._streams:
                self._streams[second].ready.set()
        elif command == b"CLSE" and second in self._streams:
            self._streams.pop(second).end()

    def forget(self, number: int) -> None:
        self._streams.pop(number, None)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data


class _Stream:
    """One service that the client opened."""

    def __init__(self, connection: _Connection, number: int, other: int) -> None:
        self._connection = connection
        self._device = connection.device
        self._number, self._other = number, other
        self._read, self._write = os.pipe()
        self._closing = threading.Lock()
        self._open = True
        self.ready = threading.Event()

    def feed(self, data: bytes) -> None:
        with self._closing:
            if self._open:
                os.write(self._write, data)

    def end(self) -> None:
        """The other side is gone: who reads here reads the end."""
        with self._closing:
            if self._open:
                self._open = False
                os.close(self._write)
        self.ready.set()

    def run(self, service: str) -> None:
        try:
            if service.startswith("sync:"):
                self._sync()
            else:
                kind, _, command = service.partition(":")
                self._shell(command, framed=",v2" in kind)
            self._connection.forget(self._number)
            self._connection.send(b"CLSE", self._number, self._other)
        except (OSError, EOFError):
            pass
        finally:
            self.end()
            os.close(self._read)

    def _reply(self, data: bytes) -> None:
        for at in range(0, len(data), LARGEST // 2):
            self.ready.clear()
            self._connection.send(b"WRTE", self._number, self._other, data[at : at + LARGEST // 2])
            if not self.ready.wait(60) or not self._open:
                raise EOFError

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = os.read(self._read, size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    # ---------------------------------------------------------------- shell

    def _shell(self, command: str, *, framed: bool) -> None:
        device = self._device
        device.commands.append(command)
        for path in MAPPED:
            command = command.replace(path, f"{device.folder}{path}")
        process = subprocess.Popen(
            ["sh", "-c", command],
            cwd=device.folder,
            env={"PATH": f"{device.folder}/bin:/usr/bin:/bin"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if framed else subprocess.STDOUT,
            start_new_session=True,
        )
        if device.lose(command):
            threading.Timer(device.lose_after, device.vanish).start()
        threading.Thread(target=self._input, args=(process, framed), daemon=True).start()
        out, err = _drained(process)
        if framed:
            for kind, data in ((_STDOUT, device.outward(out)), (_STDERR, device.outward(err))):
                for at in range(0, len(data), LARGEST // 4):
                    self._packet(kind, data[at : at + LARGEST // 4])
            self._packet(_EXIT, bytes([process.returncode & 255]))
        else:
            self._reply(device.outward(out))

    def _packet(self, kind: int, data: bytes) -> None:
        self._reply(struct.pack("<BI", kind, len(data)) + data)

    def _input(self, process: subprocess.Popen[bytes], framed: bool) -> None:
        """Hands the client's input on; closes it when the client closes it, or is gone."""
        assert process.stdin is not None
        try:
            while process.poll() is None:
                readable, _, _ = select.select([self._read], [], [], 0.2)
                if not readable:
                    continue
                if not framed:
                    data = os.read(self._read, 65536)
                    if not data:
                        break
                    process.stdin.write(data)
                else:
                    kind, length = struct.unpack("<BI", self._exactly(5))
                    data = self._exactly(length)
                    if kind == _CLOSE:
                        break
                    if kind == _STDIN:
                        process.stdin.write(data)
                process.stdin.flush()
        except (OSError, EOFError, ValueError):
            pass
        with contextlib.suppress(OSError):
            process.stdin.close()

    # ---------------------------------------------------------------- sync

    def _sync(self) -> None:
        while True:
            kind, length = struct.unpack("<4sI", self._exactly(8))
            if kind == b"QUIT":
                return
            path = self._exactly(length).decode()
            if kind == b"STAT":
                self._reply(b"STAT" + _status(self._device.inside(path)))
            elif kind == b"LIST":
                self._list(self._device.inside(path))
            elif kind == b"RECV":
                self._send_file(self._device.inside(path))
            elif kind == b"SEND":
                self._receive_file(*path.rsplit(",", 1))
            else:
                self._fail(f"unknown request {kind!r}")
                return

    def _fail(self, why: str) -> None:
        self._reply(b"FAIL" + struct.pack("<I", len(why)) + why.encode())

    def _list(self, folder: Path) -> None:
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            name = path.name.encode()
            self._reply(b"DENT" + _status(path) + struct.pack("<I", len(name)) + name)
        self._reply(b"DONE" + bytes(16))

    def _send_file(self, path: Path) -> None:
        try:
            data = path.read_bytes()
        except OSError as error:
            self._fail(error.strerror or "cannot read")
            return
        for at in range(0, len(data), 65536):
            part = data[at : at + 65536]
            self._reply(b"DATA" + struct.pack("<I", len(part)) + part)
        self._reply(b"DONE" + struct.pack("<I", 0))

    def _receive_file(self, path: str, mode: str) -> None:
        device, place = self._device, self._device.inside(path)
        problem = "Permission denied" if device.denied and device.denied in path else ""
        size = 0
        try:
            handle = None if problem else place.open("wb")
        except OSError as error:
            handle, problem = None, error.strerror or "cannot write"
        try:
            while True:
                kind, length = struct.unpack("<4sI", self._exactly(8))
                if kind == b"DONE":
                    break
                data = self._exactly(length)
                size += len(data)
                before = sum(sent for _, sent in device.sent)
                if not problem and device.full_after is not None and before + size > device.full_after:
                    problem = "No space left on device"
                if not problem and handle is not None:
                    handle.write(data)
        finally:
            if handle is not None:
                handle.close()
        if problem:
            self._fail(f"couldn't create file: {problem}")
            return
        place.chmod(int(mode) & 0o777)
        device.sent.append((path, size))
        self._reply(b"OKAY" + struct.pack("<I", 0))


def _drained(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """All output until the command itself ends: what it left running may keep the pipes open."""
    parts: dict[int, bytes] = {}
    streams = [one for one in (process.stdout, process.stderr) if one is not None]
    while True:
        ended = process.poll() is not None
        readable, _, _ = select.select(streams, [], [], 0 if ended else 0.05)
        for stream in readable:
            data = os.read(stream.fileno(), 65536)
            if data:
                parts[stream.fileno()] = parts.get(stream.fileno(), b"") + data
            else:
                streams.remove(stream)
        if ended and not readable:
            break
    out = parts.get(process.stdout.fileno(), b"") if process.stdout else b""
    err = parts.get(process.stderr.fileno(), b"") if process.stderr else b""
    for one in (process.stdout, process.stderr):
        if one is not None:
            one.close()
    return out, err


def _status(path: Path) -> bytes:
    try:
        found = path.stat()
    except OSError:
        return bytes(12)
    return struct.pack("<III", found.st_mode, found.st_size if stat.S_ISREG(found.st_mode) else 0, int(found.st_mtime))
