"""This machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO

from deeprebirth_caffe.bench import machine
from deeprebirth_caffe.bench.caffe_time import CaffeTimeSubject
from deeprebirth_caffe.bench.energy import EnergyMeter, rapl
from deeprebirth_caffe.bench.protocol import Subject
from deeprebirth_caffe.bench.targets.base import Completed, Job
from deeprebirth_caffe.bench.targets.client import MOST_BYTES
from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.engines.caffe.kernels import choose_kernels
from deeprebirth_caffe.engines.caffe.locate import find_caffe
from deeprebirth_caffe.engines.hosted import HostedRunner, bound

POLL_SECONDS = 0.02


class HostedSubject:
    """A net in the process of an engine on this machine."""

    single = True

    def __init__(self, runner: HostedRunner) -> None:
        self._runner = runner

    @property
    def pid(self) -> int | None:
        return self._runner.pid

    def run(self, iterations: int, warmup: int) -> list[float]:
        return self._runner.time(iterations, warmup)

    def layers(self, iterations: int) -> list[tuple[str, float]] | None:
        return self._runner.layers(iterations)

    def describe(self) -> dict[str, object]:
        return self._runner.describe()

    def peak_rss_bytes(self) -> int | None:
        return self._runner.peak_rss_bytes

    def notes(self) -> list[str]:
        return []

    def close(self) -> None:
        self._runner.close()


class LocalTarget:
    """This machine; see `Target`."""

    name = "local"

    def __init__(self, caffe: str | None = None, timeout: float | None = None) -> None:
        """Searches nothing yet.

        Args:
            caffe: the value of `--caffe`.
            timeout: the most seconds of an engine's call.
        """
        self._caffe = caffe
        self._timeout = timeout
        self._stack = ExitStack()

    def __enter__(self) -> LocalTarget:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def describe(self) -> machine.Facts:
        return machine.facts(self.read_files(machine.FACTS))

    def read_files(self, patterns: Iterable[str]) -> Mapping[str, str]:
        return machine.read_files(patterns)

    def meter(self) -> EnergyMeter | str:
        return rapl(machine.read_files)

    def open(self, job: Job) -> Subject:
        """Opens a net; a Caffe without Python is timed with `caffe time`."""
        if job.engine == "caffe" and find_caffe(self._caffe).python is None:
            return CaffeTimeSubject(self, job)
        return HostedSubject(
            HostedRunner(
                job.engine,
                job.net,
                job.weights,
                threads=job.threads,
                cpus=job.cpus,
                timeout=self._timeout,
                caffe=self._caffe,
            )
        )

    def push(self, files: Mapping[str, Path]) -> Path:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="rebirth-time-")))
        for name, path in files.items():
            shutil.copyfile(path, folder / name)
        return folder

    def run_caffe(
        self,
        args: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        cpus: Sequence[int] | None = None,
    ) -> Completed:
        install = find_caffe(self._caffe)
        binary = install.need_binary()
        kernels = choose_kernels(install).environment()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as log:
            try:
                with bound(cpus):
                    process = subprocess.Popen(
                        [str(binary), *args],
                        cwd=cwd,
                        env={**os.environ, "GLOG_logtostderr": "1", **kernels, **(env or {})},
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=log,
                        start_new_session=True,
                    )
            except OSError as error:
                raise EngineError(f"cannot start {binary}: {error.strerror or error}") from error
            peak = _wait(process, timeout if timeout is not None else self._timeout, (out, log))
            return Completed(process.returncode, _content(out), _content(log), peak)


def _wait(process: subprocess.Popen[bytes], timeout: float | None, printed: Sequence[IO[bytes]]) -> int | None:
    """Waits for a process and returns the most memory it used.

    The process is ended if it takes too long, prints without end, or we are interrupted.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                return usage.ru_maxrss * 1024  # kibibytes on Linux
            if deadline is not None and time.monotonic() > deadline:
                raise EngineError(f"caffe took longer than {timeout:g} s, so it was ended")
            if any(os.fstat(file.fileno()).st_size > MOST_BYTES for file in printed):
                raise EngineError(f"caffe printed more than {MOST_BYTES >> 20} MiB, so it was ended")
            time.sleep(POLL_SECONDS)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read(MOST_BYTES)
