"""Timing on a device: sends the net, runs `caffe time`, fetches the log, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType

from deeprebirth_caffe.bench.caffe_time import CaffeTimeSubject
from deeprebirth_caffe.bench.energy import EnergyMeter, rapl
from deeprebirth_caffe.bench.protocol import Subject
from deeprebirth_caffe.bench.targets.base import Completed, Job, RemoteFacts
from deeprebirth_caffe.bench.targets.battery import battery
from deeprebirth_caffe.bench.targets.facts import THERMAL, describe, hottest, read_files
from deeprebirth_caffe.bench.targets.install import Installed, installed
from deeprebirth_caffe.bench.targets.shell import DeviceError, DeviceLostError, Shell, Transport
from deeprebirth_caffe.errors import spelled_command

COOL_DEGREES = 5.0
"""A run starts when the processor is at most this much hotter than before the first run."""
COOL_SECONDS = 120.0
"""The longest wait for that."""
COOL_STEP = 3.0

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")

_OPEN = """
cd "$1" && mkdir -p runs || exit
# Runs whose link broke while nothing ran that could notice: nobody has touched them for an hour.
for old in runs/*; do
    [ -d "$old" ] || continue
    pid=
    if [ -r "$old/pid" ]; then read -r pid <"$old/pid"; fi
    if [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null; then continue; fi
    if [ -n "$(find "$old" -maxdepth 0 -mmin +60 2>/dev/null)" ]; then rm -rf "$old"; fi
done
mkdir "runs/$2"
"""

_RUN = """
exec 3<&0
cd "$1" || exit 125
run=$2
shift 2
"$@" >"$run/out" 2>"$run/err" </dev/null 3<&- &
pid=$!
echo "$pid" >"$run/pid"
(
    # The other end holds this open while it is there.
    while read -r _ <&3; do :; done
    # In this order: when Caffe has ended, this is ended too.
    rm -rf "$run"
    kill -9 "$pid"
) >/dev/null 2>&1 &
guard=$!
(
    # The peak so far, once the net has run: by then Caffe has allocated everything.
    begun=
    while sleep 1 && kill -0 "$pid"; do
        if [ -z "$begun" ] && grep -q "Benchmark begins" "$run/err"; then begun=yes; fi
        while [ -n "$begun" ] && read -r key value _; do
            if [ "$key" = VmHWM: ]; then echo "$value" >"$run/peak"; fi
        done <"/proc/$pid/status"
    done
) >/dev/null 2>&1 3<&- &
meter=$!
wait "$pid"
rc=$?
kill "$guard" "$meter"
rm -f "$run/pid"
exit "$rc"
"""


class RemoteTarget:
    """A device; see `Target`."""

    def __init__(
        self,
        name: str,
        connect: Callable[[], Transport],
        timeout: float | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Connects to nothing yet.

        Args:
            name: as in `--on`.
            connect: opens the link.
            timeout: the most seconds of a run of Caffe.
            sleep: waits; tests have their own.
        """
        self.name = name
        self._connect = connect
        self._timeout = timeout
        self._sleep = sleep
        self._shell: Shell | None = None
        self._installed: Installed | None = None
        self._folder = ""
        self._pushed = 0
        self._cool: float | None = None

    def __enter__(self) -> RemoteTarget:
        self._shell = Shell(self._connect())
        try:
            self.name = self._shell.name
            self._installed = installed(self._shell)
            if self._installed is None:
                hint = spelled_command("device", "install", self.name)
                raise DeviceError(f"{self.name} has no Caffe: run `{hint}`")
            run = secrets.token_hex(6)
            self._shell.check("make a directory", _OPEN, self._shell.root, run)
            self._folder = f"{self._shell.root}/runs/{run}"
            self._cool = hottest(read_files(self._shell, THERMAL))
        except BaseException:
            self._shell.link.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A device that is gone cleans up by itself.
        with contextlib.suppress(DeviceLostError):
            if not isinstance(error, DeviceLostError):
                self._link.run('rm -rf "$1"', self._folder)
        self._link.link.close()

    @property
    def _link(self) -> Shell:
        if self._shell is None:
            raise RuntimeError("use the target with `with`")
        return self._shell

    @property
    def _caffe(self) -> Installed:
        if self._installed is None:
            raise RuntimeError("use the target with `with`")
        return self._installed

    def describe(self) -> RemoteFacts:
        return RemoteFacts(caffe=self._caffe, **vars(describe(self._link)))

    def read_files(self, patterns: Iterable[str]) -> Mapping[str, str]:
        return read_files(self._link, patterns)

    def meter(self) -> EnergyMeter | str:
        """RAPL if the device has it, else power rails or the battery."""
        counters = rapl(self.read_files)
        return counters if not isinstance(counters, str) else battery(self.read_files)

    def open(self, job: Job) -> Subject:
        """Opens a net for `caffe time`, because the device has no Python."""
        return _DeviceSubject(self, job, self._caffe)

    def push(self, files: Mapping[str, Path]) -> Path:
        """Copies files into a new folder; raises DeviceError if they do not arrive whole.

        Args:
            files: by our own plain names; text from a net never names a file on the device.
        """
        folder = f"{self._folder}/{self._pushed}"
        self._pushed += 1
        self._link.check("make a directory", 'mkdir "$1"', folder)
        for name, path in files.items():
            if not _PLAIN.fullmatch(name):
                raise ValueError(f"not a plain name: {name!r}")
            # A busy device may cut a file short; a second try costs little.
            if not self._arrives(path, f"{folder}/{name}") and not self._arrives(path, f"{folder}/{name}"):
                raise DeviceError(f"{self.name}: {name} did not arrive whole: check the link and run again")
        return Path(folder)

    def _arrives(self, path: Path, place: str) -> bool:
        self._link.push(path, place)
        digest = self._link.check(f"read {place}", 'sha256sum "$1"', place).text.split()
        return digest[:1] == [hashlib.sha256(path.read_bytes()).hexdigest()]

    def run_caffe(
        self,
        args: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        cpus: Sequence[int] | None = None,
    ) -> Completed:
        """Runs Caffe after the device has cooled down from the last run.

        Raises:
            DeviceLostError: the device went away; its processes then end and clean up by themselves.
        """
        variables = {"GLOG_logtostderr": "1", **(env or {})}
        words = ["env", *(f"{key}={value}" for key, value in variables.items()), *self._caffe.words, *args]
        if cpus is not None:
            # Every taskset takes a mask in hexadecimal.
            words = [*self._taskset(), f"{sum(1 << cpu for cpu in set(cpus)):x}", *words]
        self.cool_down()
        limit = timeout if timeout is not None else self._timeout
        folder = PurePosixPath(cwd).as_posix() if cwd is not None else self._folder
        done = self._link.run(_RUN, folder, self._folder, *words, timeout=limit, doing="run Caffe to its end")
        out, err, peak = (self._content(name) for name in ("out", "err", "peak"))
        known = peak.strip().isdigit() and not self._caffe.emulator
        # A shell reports 128 plus the number of the signal.
        rc = done.rc if done.rc <= 128 else 128 - done.rc
        return Completed(rc, out, err or done.stderr, int(peak) * 1024 if known else None)

    def cool_down(self) -> float | None:
        """Waits until the processor is about as cool as before the first run.

        Returns:
            The hottest sensor's degrees at the end; None, without a wait, if the device has no sensor.
        """
        waited = 0.0
        while True:
            now = hottest(read_files(self._link, THERMAL))
            if now is None or self._cool is None or now <= self._cool + COOL_DEGREES or waited >= COOL_SECONDS:
                return now
            self._sleep(COOL_STEP)
            waited += COOL_STEP

    def _taskset(self) -> list[str]:
        if self._link.run("command -v taskset").rc:
            raise DeviceError(f"{self.name} has no program taskset, which --cpus needs: leave --cpus out")
        return ["taskset"]

    def _content(self, name: str) -> bytes:
        done = self._link.run('cat "$1" && rm -f "$1"', f"{self._folder}/{name}", timeout=None)
        return b"" if done.rc else done.stdout


class _DeviceSubject(CaffeTimeSubject):
    """A net on a device."""

    def __init__(self, target: RemoteTarget, job: Job, caffe: Installed) -> None:
        self._program = caffe
        super().__init__(target, job)

    def describe(self) -> dict[str, object]:
        return {**super().describe(), "version": self._program.version}

    def notes(self) -> list[str]:
        emulator = self._program.emulator
        emulated = [] if emulator is None else [f"run by an emulator ({emulator}): the times mean nothing"]
        return [*emulated, *super().notes()]
