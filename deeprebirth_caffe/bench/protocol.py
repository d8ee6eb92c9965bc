"""Times nets in turn, run by run; each sleeps while another runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol

from deeprebirth_caffe.bench.energy import EnergyMeter
from deeprebirth_caffe.bench.machine import cpu_seconds
from deeprebirth_caffe.options.time import Plan

SETTLE_SECONDS = 2.0
"""The wait for threads that spin after a pass; those of OpenBLAS and ONNX Runtime stop within 0.1 s."""
SETTLE_STEP = 0.02
SETTLED = 0.1
"""A process that uses less of a core than this sleeps."""
IDLE_SECONDS = 1.0


class Subject(Protocol):
    """An open net.

    Attributes:
        pid: of its process, if that is on this machine; else None.
        single: whether a run gives the time of each pass; False: only the mean.
    """

    single: bool

    @property
    def pid(self) -> int | None: ...

    def run(self, iterations: int, warmup: int) -> list[float]:
        """Milliseconds of each pass (or only their mean), after warm-up passes."""
        ...

    def layers(self, iterations: int) -> list[tuple[str, float]] | None:
        """Mean milliseconds of each layer; None if the engine does not say."""
        ...

    def describe(self) -> dict[str, object]:
        """Version, threads, and other facts that decide the speed."""
        ...

    def peak_rss_bytes(self) -> int | None:
        """The most memory that its process used."""
        ...

    def notes(self) -> list[str]:
        """Notes about its figures."""
        ...

    def close(self) -> None:
        """Ends its process."""
        ...


@dataclass
class Measured:
    """The measurements of a net.

    Attributes:
        runs: of each run the milliseconds of its passes.
        rows: of the passes after each run, each layer's name and mean milliseconds.
        joules: of each run, if there is a meter.
        cpu_ms: of each run, the processor's milliseconds for a pass.
        share: of each run, how many cores it had on average.
        peak_rss_bytes: the most memory that its process used while it ran; None if unknown.
        restless: whether it kept a core busy while others ran.
        interrupted: whether the user stopped it before all runs were done.
    """

    runs: list[list[float]] = field(default_factory=list)
    rows: list[list[tuple[str, float]]] = field(default_factory=list)
    joules: list[float | None] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    share: list[float] = field(default_factory=list)
    peak_rss_bytes: int | None = None
    restless: bool = False
    interrupted: bool = False

    def layers(self) -> list[tuple[str, float]] | None:
        """Each layer's median over the runs; None if the engine does not say."""
        if not self.rows:
            return None
        # By name and number, because names may repeat.
        times: dict[tuple[str, int], list[float]] = {}
        for row in self.rows:
            seen: Counter[str] = Counter()
            for name, ms in row:
                times.setdefault((name, seen[name]), []).append(ms)
                seen[name] += 1
        return [(name, median(values)) for (name, _), values in times.items()]


def interleave(
    subjects: Sequence[Subject],
    plan: Plan,
    *,
    meter: EnergyMeter | None = None,
    tick: Callable[[], None] = lambda: None,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Measured]:
    """Times nets in turn; every other round is reversed, so that a machine that slows down slows all alike.

    Ctrl-C after the first whole round ends it early; the rounds so far count.

    Args:
        subjects: the nets.
        plan: the runs and passes.
        meter: counts energy.
        tick: called after each turn.
        sleep: waits; tests have their own.

    Raises:
        EngineError: a net cannot run.
    """
    measured = [Measured() for _ in subjects]
    try:
        for number in range(plan.runs):
            for place in _order(len(subjects), number):
                _rest(subjects, measured, place, plan, sleep)
                _turn(subjects[place], measured[place], plan, meter)
                if number == 0:
                    # Before layers are timed, because for that some engines open the net a second time.
                    measured[place].peak_rss_bytes = subjects[place].peak_rss_bytes()
                rows = subjects[place].layers(plan.layer_iterations) if plan.layers else None
                if rows is not None:
                    measured[place].rows.append(rows)
                tick()
    except KeyboardInterrupt:
        whole = min(len(net.runs) for net in measured)
        if not whole:
            raise
        for net in measured:
            for values in (net.runs, net.rows, net.joules, net.cpu_ms, net.share):
                del values[whole:]
            net.interrupted = True
    return measured


def idle_watts(meter: EnergyMeter, sleep: Callable[[float], None] = time.sleep) -> float | None:
    """The machine's power while no net runs."""
    begin = time.monotonic()
    meter.start()
    sleep(IDLE_SECONDS)
    used = meter.joules()
    return None if used is None else used / (time.monotonic() - begin)


def _order(count: int, number: int) -> Sequence[int]:
    return range(count) if number % 2 == 0 else range(count - 1, -1, -1)


def _rest(
    subjects: Sequence[Subject], measured: Sequence[Measured], place: int, plan: Plan, sleep: Callable[[float], None]
) -> None:
    """Waits until all other nets sleep, then for the cooldown."""
    if plan.cooldown:
        sleep(plan.cooldown)
    for index, subject in enumerate(subjects):
        if index != place and subject.pid is not None and not _asleep(subject.pid, sleep):
            measured[index].restless = True


def _asleep(pid: int, sleep: Callable[[float], None]) -> bool:
    """Waits until a process uses no processor time; False if it does not stop."""
    waited = 0.0
    before = cpu_seconds(pid)
    while before is not None and waited < SETTLE_SECONDS:
        sleep(SETTLE_STEP)
        waited += SETTLE_STEP
        now = cpu_seconds(pid)
        if now is None or now - before < SETTLED * SETTLE_STEP:
            return True
        before = now
    return before is None


def _turn(subject: Subject, measured: Measured, plan: Plan, meter: EnergyMeter | None) -> None:
    pid = subject.pid
    used = cpu_seconds(pid) if pid is not None else None
    if meter is not None:
        meter.start()
    begin = time.monotonic()
    passes = subject.run(plan.iterations, plan.warmup)
    wall = time.monotonic() - begin
    joules = meter.joules() if meter is not None else None
    now = cpu_seconds(pid) if pid is not None else None
    measured.runs.append(passes)
    measured.joules.append(joules)
    if used is not None and now is not None and wall > 0:
        # The time of ended threads is lost.
        spent = max(0.0, now - used)
        measured.cpu_ms.append(1000 * spent / (plan.iterations + plan.warmup))
        measured.share.append(spent / wall)
