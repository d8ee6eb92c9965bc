"""A runner in a process of its own: its threads, its memory and its crashes are nobody else's."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, cast

from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.engines.footprint import check_pass
from deeprebirth_caffe.engines.runners import convert, engine_module, load
from deeprebirth_caffe.errors import RefusedError, UsageError
from deeprebirth_caffe.isolation import python_words
from deeprebirth_caffe.ops import Shape

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import Array, FloatArray
    from deeprebirth_caffe.engines.inference.caffe_runner import CaffeRunner

TAIL_LINES = 40


class HostedRunner:
    """One net in one engine, in a process of its own; use it with `with`, so that the process ends in any case.

    Real Caffe runs in the process that it always runs in. Converting a net for an engine is left to another process, so
    that peak memory is that of running it.

    Attributes:
        engine: the engine's name.
        inputs: shape of each input blob, batch included.
        outputs: names of the output blobs.
    """

    def __init__(
        self,
        name: str,
        net: Path,
        weights: Path | None = None,
        *,
        threads: int | None = None,
        batch: int | None = None,
        cpus: Sequence[int] | None = None,
        timeout: float | None = None,
        caffe: str | None = None,
    ) -> None:
        """Reads the net, converts it, and starts the process.

        Args:
            name: one of RUNNERS.
            net: as for `open_runner`.
            weights: likewise.
            threads: likewise.
            batch: likewise.
            cpus: the processors that it may run on; None: any.
            timeout: seconds that a call may take.
            caffe: what `--caffe` names, for "caffe".

        Raises:
            EngineError: the engine is missing, or cannot read the net.
            UsageError: a processor is not there.
        """
        from deeprebirth_caffe.engines.prepare import prepare

        engine_module(name)
        self.engine = name
        self.cpus = None if cpus is None else sorted(set(cpus))
        self.timeout = timeout
        _check_cpus(self.cpus)
        ready = prepare(net, weights, batch=batch)
        self._real: CaffeRunner | None = None
        self._host: _Host | None = None
        with tempfile.TemporaryDirectory(prefix=f"rebirth-{name}-") as text:
            folder = Path(text)
            if name == "caffe":
                check_pass(ready.view, ready.net.header.name or net.name, keeps=True)
                convert(name, ready, folder)
                with bound(self.cpus):
                    runner = load(folder, threads, caffe=caffe, timeout=timeout)
                self._real = cast("CaffeRunner", runner)
                self.inputs, self.outputs = runner.inputs, runner.outputs
                return
            ready.write(folder)
            del ready
            with contextlib.closing(_Host("convert", name, folder, threads, None)) as converter:
                converter.answer("convert", timeout)
            self._host = _Host("load", name, folder, threads, self.cpus)
            try:
                facts = self._host.answer("load", timeout)
            except BaseException:
                self._host.close()
                raise
        self.inputs = cast("dict[str, Shape]", facts["inputs"])
        self.outputs = cast("list[str]", facts["outputs"])

    def __enter__(self) -> HostedRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The process; None when it is closed."""
        if self._real is not None:
            return self._real.pid
        return self._host.pid if self._host is not None else None

    def forward(self, inputs: Mapping[str, Array]) -> dict[str, FloatArray]:
        """Runs the net once."""
        if self._real is not None:
            return self._real.forward(inputs)
        return cast("dict[str, FloatArray]", self._ask("forward", dict(inputs)))

    def time(self, iterations: int, warmup: int = 2) -> list[float]:
        """Milliseconds of each forward pass on seeded random input, after passes that do not count."""
        if self._real is not None:
            return self._real.time(iterations, warmup)
        return cast("list[float]", self._ask("time", iterations, warmup))

    def layers(self, iterations: int) -> list[tuple[str, float]] | None:
        """Mean milliseconds of each layer, where the engine can say."""
        if self._real is not None:
            return self._real.layers(iterations)
        return cast("list[tuple[str, float]] | None", self._ask("layers", iterations))

    def describe(self) -> dict[str, object]:
        """Version, threads, and whatever else decides its speed."""
        if self._real is not None:
            return self._real.describe()
        return cast("dict[str, object]", self._ask("describe"))

    @property
    def peak_rss_bytes(self) -> int | None:
        """The most memory that the process ever had in use; None where the system does not say, or it is closed."""
        if self.pid is None:
            return None
        try:
            text = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii", errors="replace")
        except OSError:
            return None
        lines = (line.split() for line in text.splitlines() if line.startswith("VmHWM:"))
        return next((int(words[1]) * 1024 for words in lines), None)

    def close(self) -> None:
        """Ends the process. Never fails, and never leaves a zombie."""
        if self._real is not None:
            self._real.close()
        if self._host is not None:
            self._host.close()
        self._host = None

    def _ask(self, operation: str, *values: Any) -> Any:
        if self._host is None:
            raise EngineError(f"{self.engine}: its process is closed", fatal=True)
        return self._host.ask(operation, values, self.timeout)


class _Host:
    """A process of host.py and the pipes to it."""

    def __init__(self, job: str, engine: str, folder: Path, threads: int | None, cpus: Sequence[int] | None) -> None:
        self.engine = engine
        self._log: IO[bytes] = tempfile.TemporaryFile(prefix="rebirth-host-")  # noqa: SIM115 - lives as long as we
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        theirs_life, self._life = os.pipe()
        theirs = (theirs_in, theirs_out, theirs_life)
        self._out, self._in = Connection(ours_out, readable=False), Connection(ours_in, writable=False)
        places = [job, engine, str(folder), "" if threads is None else str(threads), ",".join(map(str, cpus or ()))]
        try:
            self._process = subprocess.Popen(
                python_words("deeprebirth_caffe.engines.host", [*places, *map(str, theirs)]),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env=_environment(threads),
                pass_fds=theirs,
                # Ctrl-C is for us; we then end it.
                start_new_session=True,
            )
        except OSError as error:
            self._close_pipes()
            raise EngineError(f"cannot start {sys.executable}: {error.strerror or error}", fatal=True) from error
        finally:
            for descriptor in theirs:
                os.close(descriptor)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, operation: str, values: tuple[Any, ...], timeout: float | None) -> Any:
        try:
            self._out.send((operation, values))
        except OSError:
            raise self._death(operation) from None
        return self.answer(operation, timeout)

    def answer(self, operation: str, timeout: float | None) -> Any:
        """Waits for what the process says; whatever else comes ends it, for questions and answers no longer match."""
        try:
            if not self._in.poll(timeout):
                tail = self._tail()
                self.close()
                raise EngineError(
                    f"{self.engine}, {operation}: no answer in time, so its process was ended",
                    stderr_tail=tail,
                    fatal=True,
                )
            good, value = self._in.recv()
        except (EOFError, OSError):
            raise self._death(operation) from None
        except EngineError:
            raise
        except BaseException:
            self.close()
            raise
        if not good:
            kind, text = value
            if kind == "RefusedError":
                raise RefusedError(text)
            raise EngineError(text, stderr_tail=self._tail())
        return value

    def _death(self, operation: str) -> EngineError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        tail = self._tail()
        self.close()
        code = self._process.returncode
        if code is not None and code < 0:
            try:
                cause = f"was ended by {signal.Signals(-code).name}"
            except ValueError:
                cause = f"was ended by signal {-code}"
        else:
            cause = f"ended with status {code}"
        last = next((line for line in reversed(tail.splitlines()) if line.strip()), "it printed nothing")
        text = f"{self.engine}, {operation}: its process {cause}: {' '.join(last.split())}"
        return EngineError(text, stderr_tail=tail, fatal=True)

    def _tail(self) -> str:
        if self._log.closed:
            return ""
        size = os.fstat(self._log.fileno()).st_size
        text = os.pread(self._log.fileno(), 1 << 16, max(0, size - (1 << 16))).decode("utf-8", "replace")
        return "\n".join(text.splitlines()[-TAIL_LINES:])

    def close(self) -> None:
        """Lets the process end by itself, and ends it where it does not."""
        if self._log.closed:
            return
        self._out.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            # With whatever it has started: it leads a session of its own.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._close_pipes()

    def _close_pipes(self) -> None:
        self._out.close()
        self._in.close()
        if self._life >= 0:
            os.close(self._life)
            self._life = -1
        self._log.close()


def _environment(threads: int | None) -> dict[str, str]:
    env = dict(os.environ)
    # NumPy's own matrix library, which no engine uses, shall not keep threads beside theirs.
    env["OPENBLAS_NUM_THREADS"] = "1"
    if threads is not None:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            env[name] = str(threads)
    return env


def _check_cpus(cpus: Sequence[int] | None) -> None:
    if cpus is None:
        return
    if not hasattr(os, "sched_setaffinity"):
        raise UsageError("this system does not bind processes to processors; leave --cpus out")
    here = os.sched_getaffinity(0)
    if not cpus or not here.issuperset(cpus):
        raise UsageError(f"--cpus {','.join(map(str, cpus))}: there are {','.join(map(str, sorted(here)))} here")


@contextlib.contextmanager
def bound(cpus: Sequence[int] | None) -> Iterator[None]:
    """What is started meanwhile, with all its threads, stays on these processors; None: on any.

    Raises:
        EngineError: there is none of them.
    """
    if cpus is None:
        yield
        return
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        raise EngineError(f"cannot use the processors {','.join(map(str, cpus))}: {error.strerror}") from error
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
