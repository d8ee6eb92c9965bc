"""The process that runs `worker.py`: started, spoken with in frames, and always reaped.

A failed CHECK in Caffe, a crash, a kill or a time-out ends that process and nothing else: the caller gets one
EngineError with the line that decided it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np

from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.engines.caffe.kernels import VARIABLE, Kernels, choose_kernels
from deeprebirth_caffe.engines.caffe.locate import CaffeInstall, find_caffe
from deeprebirth_caffe.formats.pictures import OPENCVS_VARIABLE, most_pixels

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import Array

WORKER = Path(__file__).with_name("worker.py")
PROTOCOL = 2
_LOG_LIMIT = 4 << 20
_TAIL = 64 << 10
_MESSAGE_LIMIT = 400

Process = TypeVar("Process", bound="WorkerProcess")


class WorkerProcess:
    """A running pycaffe process; use it with `with`, so that it ends in any case.

    One call at a time: it is not for several threads at once.
    """

    script = WORKER
    """What that process runs."""

    def __init__(
        self,
        caffe: CaffeInstall | str | Path | None = None,
        *,
        threads: int | None = None,
        kernels: Kernels | None = None,
        timeout: float | None = None,
    ) -> None:
        """Prepares a worker; the process starts with `start()` or `with`.

        Args:
            caffe: An installation, or what `--caffe` names; None: whatever is found.
            threads: Threads of the matrix library; None leaves it to the environment.
            kernels: Those that OpenBLAS shall use, whatever the environment says; None: `choose_kernels` finds them.
            timeout: Seconds that a call may take; None: as long as it likes.
        """
        self.install = caffe if isinstance(caffe, CaffeInstall) else find_caffe(caffe)
        self.threads = threads
        self._kernels = kernels
        self.timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._lifeline: int | None = None
        self._starts = 0

    # ------------------------------------------------------------ the process

    def __enter__(self: Process) -> Process:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __del__(self) -> None:
        # Only for those who forgot `with`: a process must not outlive its owner.
        if getattr(self, "_process", None) is not None:
            self._kill()

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The process's number; None where there is none."""
        return self._process.pid if self._process is not None else None

    @property
    def kernels(self) -> Kernels:
        """The kernels of the matrix library, and who chose them; may start Caffe to find out."""
        return choose_kernels(self.install) if self._kernels is None else self._kernels

    def environment(self) -> dict[str, str]:
        """Gives the environment of the process."""
        env = dict(os.environ)
        # Errors are told out of the log, so nothing of it may be switched off.
        for name in [n for n in env if n.startswith("GLOG_")]:
            del env[name]
        env["GLOG_minloglevel"] = "0"
        if self.threads is not None:
            for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
                env[name] = str(self.threads)
        if self._kernels is not None:
            env.pop(VARIABLE, None)
        env.update(self.kernels.environment())
        # Its own limit is ten times as high.
        env[OPENCVS_VARIABLE] = str(most_pixels())
        # Without its empty parts, which mean the current folder.
        path = [*map(str, self.install.pythonpath), *filter(None, env.pop("PYTHONPATH", "").split(os.pathsep))]
        if path:
            env["PYTHONPATH"] = os.pathsep.join(path)
        return env

    def start(self) -> None:
        """Starts the process and waits until pycaffe is imported; does nothing where it runs already."""
        if self.running:
            return
        self._forget()
        python = self.install.need_python()
        # A file rather than a pipe: nobody has to drain it, it outlives the process, the worker reads it too.
        self._log = _append_only_file()
        # Handles of a process that died must not mean nets of the next one.
        first_handle = self._starts * 1_000_000 + 1
        self._starts += 1
        # Nothing is ever written there; that it closes tells the process that we are gone.
        theirs, self._lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(
                [str(python), str(self.script), str(first_handle), str(theirs)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=self.environment(),
                # Ctrl-C is for us; we then end the worker, which would else die in the middle of a frame.
                start_new_session=True,
                pass_fds=(theirs,),
            )
        except OSError as error:
            self._forget()
            raise EngineError(f"cannot start {python}: {error.strerror or error}", fatal=True) from error
        finally:
            os.close(theirs)
        try:
            hello, _ = self._receive("start", self._deadline(self.timeout))
        except EngineError as error:
            self._kill()
            raise EngineError(
                f"pycaffe does not start in {python}: {error}", stderr_tail=error.stderr_tail, fatal=True
            ) from None
        except BaseException:
            self._kill()
            raise
        if hello.get("protocol") != PROTOCOL:
            self._kill()
            raise EngineError(f"{python} did not start our worker: {hello}", fatal=True)

    def stop(self) -> None:
        """Ends the process; its nets are gone. Never fails and never leaves a zombie."""
        process = self._process
        if process is not None and process.poll() is None and process.stdin is not None:
            try:
                process.stdin.close()  # the worker's loop ends where its requests end
                process.wait(timeout=2)
            except (OSError, subprocess.TimeoutExpired):
                pass
        self._kill()

    def stderr_tail(self, lines: int = 40) -> str:
        """Gives the last lines of what the process printed."""
        return "\n".join(self._log_text().splitlines()[-lines:])

    def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.kill()
            self._process.wait()
        self._forget()

    def _forget(self) -> None:
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            self._process.wait()
        if self._log is not None:
            self._log.close()
        # Only now that the process is reaped: a status of its own says more than that we ended it.
        if self._lifeline is not None:
            os.close(self._lifeline)
        self._process = None
        self._log = None
        self._lifeline = None

    def _log_text(self) -> str:
        if self._log is None:
            return ""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), _TAIL, max(0, size - _TAIL)).decode("utf-8", "replace")

    # ------------------------------------------------------------ frames

    def call(
        self,
        op: str,
        arrays: Iterable[tuple[Any, Array]] = (),
        *,
        timeout: float | None = None,
        **kw: Any,
    ) -> tuple[dict[str, Any], list[tuple[Any, Array]]]:
        """Runs an operation of the worker; callers want the typed methods of CaffeWorker.

        Args:
            op: The operation's name.
            arrays: Named arrays; a name is a string or a tuple of strings and numbers.
            timeout: Seconds for this call; None: the worker's own limit.
            **kw: The operation's arguments, which JSON can hold.

        Returns:
            The result and the arrays that came with it.

        Raises:
            EngineError: The operation was refused (the process goes on) or killed the process (`fatal`).
        """
        if not self.running:
            if self._process is not None:
                raise self._death(f"before {op}")
            raise EngineError("the Caffe process is not running", fatal=True)
        self._trim_log()
        try:
            self._send(op, kw, list(arrays))
            return self._receive(op, self._deadline(timeout if timeout is not None else self.timeout))
        except EngineError:
            raise
        except BaseException:
            # Ctrl-C, or an answer half read: frames can no longer be told apart.
            self._kill()
            raise

    def _send(self, op: str, kw: dict[str, Any], arrays: list[tuple[Any, Array]]) -> None:
        process = self._process
        assert process is not None and process.stdin is not None
        specs = [{"name": n, "dtype": a.dtype.str, "shape": list(a.shape)} for n, a in arrays]
        for name, array in arrays:
            if array.dtype.hasobject:
                raise EngineError(f"{op}: array {name!r} holds Python objects, not numbers")
        header = json.dumps({"op": op, "kw": kw, "arrays": specs}).encode("utf-8")
        try:
            process.stdin.write(struct.pack("<I", len(header)) + header)
            for _, array in arrays:
                if array.size:
                    process.stdin.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            process.stdin.flush()
        except BrokenPipeError:
            raise self._death(op) from None

    def _receive(self, op: str, deadline: float | None) -> tuple[dict[str, Any], list[tuple[Any, Array]]]:
        size = struct.unpack("<I", self._read(4, op, deadline))[0]
        header: dict[str, Any] = json.loads(self._read(size, op, deadline).decode("utf-8"))
        arrays: list[tuple[Any, Array]] = []
        for spec in header["arrays"]:
            dtype = np.dtype(spec["dtype"])
            count = int(np.prod(spec["shape"], dtype=np.int64))
            data = self._read(count * dtype.itemsize, op, deadline)
            name = tuple(spec["name"]) if isinstance(spec["name"], list) else spec["name"]
            arrays.append((name, np.frombuffer(data, dtype=dtype).reshape(spec["shape"])))
        if not header["ok"]:
            raise EngineError(f"Caffe, {op}: {_short(header['error'])}", stderr_tail=self.stderr_tail())
        return header["result"], arrays

    def _read(self, size: int, op: str, deadline: float | None) -> bytearray:
        process = self._process
        assert process is not None and process.stdout is not None
        descriptor = process.stdout.fileno()
        data = bytearray(size)
        view, done = memoryview(data), 0
        while done < size:
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                    tail = self.stderr_tail()
                    self._kill()
                    text = f"Caffe, {op}: no answer in time, so it was ended"
                    raise EngineError(text, stderr_tail=tail, fatal=True)
            count = os.readv(descriptor, [view[done:]])
            if not count:
                raise self._death(op)
            done += count
        return data

    def _death(self, op: str) -> EngineError:
        """Reaps the process and says in one line why it died."""
        process = self._process
        assert process is not None
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # it closed its end but lives on
            process.kill()
        status, text, tail = process.wait(), self._log_text(), self.stderr_tail()
        self._kill()
        return EngineError(f"Caffe, {op}: {_cause(status, text)}", stderr_tail=tail, fatal=True)

    def _trim_log(self) -> None:
        if self._log is not None and os.fstat(self._log.fileno()).st_size > _LOG_LIMIT:
            os.ftruncate(self._log.fileno(), 0)

    @staticmethod
    def _deadline(timeout: float | None) -> float | None:
        return None if timeout is None else time.monotonic() + timeout


def _append_only_file() -> IO[bytes]:
    """A nameless file that grows at its end, so that cutting it back leaves no hole."""
    descriptor, name = tempfile.mkstemp(prefix="rebirth-caffe-", suffix=".log")
    Path(name).unlink()
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_APPEND)
    return os.fdopen(descriptor, "r+b", buffering=0)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MESSAGE_LIMIT else text[: _MESSAGE_LIMIT - 4] + " ..."


def _fatal_lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        match = re.match(r"F\d{4} \S+ +\d+ ([^\]]+)\] (.*)", line)
        if match:
            # The list of all layer types that follows an unknown one would bury the rest.
            text = re.sub(r" \(known types: .*\)", "", match.group(2)).strip()
            yield f"{text} ({match.group(1)})"


def _foreign(parse: list[str], fatal: list[str], text: str) -> str:
    """What to say of a net with what this Caffe does not know, as nets of forks have; empty where that is not it."""
    if not fatal:
        return ""
    what = ""
    kind = re.search(r"Unknown layer type: (\S+)", fatal[-1])
    field = re.search(r'(\d+):\d+: Message type "caffe\.(\w+)" has no field named "(\w+)"', parse[-1] if parse else "")
    file = re.search(r"Failed to parse \w+ file: (.*) \(", fatal[-1])
    if kind:
        made = re.findall(r"\] Creating layer (.*)", text)
        what = f'layer "{made[-1] if made else "?"}" has type {kind.group(1)}, which this Caffe does not have'
    elif field and file:
        line, message, name = field.groups()
        what = f'{file.group(1)}:{line}: this Caffe knows no field "{name}" ({message})'
    if not what:
        return ""
    return f"{what}; rebirth doctor NET says whose it is, and rebirth convert NET --portable may help (docs/forks.md)"


def _cause(status: int, text: str) -> str:
    """What the log and the exit status say, in one line."""
    parse = re.findall(r"\[libprotobuf ERROR [^\]]*\] (.*)", text)
    fatal = list(_fatal_lines(text))
    foreign = _foreign(parse, fatal, text)
    if foreign:
        return _short(foreign)
    if fatal:
        # A CHECK on a file that protobuf could not read: protobuf's own line has the place.
        where = f"{parse[-1]} - " if parse and "Failed to parse" in fatal[-1] else ""
        return _short(where + fatal[-1])
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        hint = " (out of memory, or ended by somebody)" if name == "SIGKILL" else ""
        return f"the process was ended by {name}{hint}"
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "it printed nothing")
    return f"the process ended with status {status}: {_short(last)}"
