"""Targets: the machines on which nets are timed, this machine or a device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from deeprebirth_caffe.bench.energy import EnergyMeter
from deeprebirth_caffe.bench.machine import Facts
from deeprebirth_caffe.bench.protocol import Subject
from deeprebirth_caffe.bench.targets.facts import Device
from deeprebirth_caffe.bench.targets.install import Installed


@dataclass(frozen=True)
class Job:
    """A net to open on a target.

    Attributes:
        engine: one of `engines.runners.RUNNERS`.
        net: a deploy net of plain Caffe, with Input layers of the batch to time.
        weights: its caffemodel.
        threads: of the engine; None: the engine decides.
        cpus: the processors to run on; None: any.
    """

    engine: str
    net: Path
    weights: Path
    threads: int | None = None
    cpus: Sequence[int] | None = None


@dataclass(frozen=True)
class Completed:
    """An ended program.

    Attributes:
        rc: the exit status; negative if a signal ended it.
        stdout: its output.
        stderr: its error output.
        peak_rss_bytes: the most memory it used; None if the target does not say.
    """

    rc: int
    stdout: bytes
    stderr: bytes
    peak_rss_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class TimedDevice(Device):
    """A device on which nets were timed.

    Attributes:
        caffe: the Caffe there.
    """

    caffe: Installed


@dataclass(frozen=True, kw_only=True)
class RemoteFacts(TimedDevice, Facts):
    """What a device is, and the Caffe there."""


class Target(Protocol):
    """A machine where nets run; use it with `with`, so that it is cleaned up.

    Attributes:
        name: as in `--on`.
    """

    name: str

    def __enter__(self) -> Target: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def describe(self) -> Facts:
        """What it is."""
        ...

    def read_files(self, patterns: Iterable[str]) -> Mapping[str, str]:
        """The texts of its files that match glob patterns, by path; unreadable files are left out."""
        ...

    def meter(self) -> EnergyMeter | str:
        """A meter of its energy, or the reason why there is none."""
        ...

    def open(self, job: Job) -> Subject:
        """Opens a net in a process of its own.

        Raises:
            EngineError: the engine is missing, or cannot read or run the net.
        """
        ...

    def run_caffe(
        self,
        args: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        cpus: Sequence[int] | None = None,
    ) -> Completed:
        """Runs the target's `caffe` program.

        Args:
            args: its arguments; no shell reads them.
            cwd: the folder that `push` filled, where it starts. None: anywhere.
            env: what to add to its environment.
            timeout: seconds.
            cpus: the processors that it may run on.

        Raises:
            EngineError: it is missing, does not start, or takes too long.
        """
        ...

    def push(self, files: Mapping[str, Path]) -> Path:
        """Copies files, by their new names, into a new folder on the target, and returns that folder."""
        ...
