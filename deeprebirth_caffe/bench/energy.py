"""Energy of forward passes, from the counters of the machine.

On Linux with an x86 processor these are RAPL's, through powercap. They count the whole package, whatever runs on it,
so the machine's power at rest is measured and reported too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

ZONES = "/sys/class/powercap/*-rapl:[0-9]*/"
RAPL = (ZONES + "name", ZONES + "energy_uj", ZONES + "max_energy_range_uj")
"""Glob patterns of the counters' files."""

ReadFiles = Callable[[Iterable[str]], Mapping[str, str]]


class EnergyMeter(Protocol):
    """Counts energy; see `Target.meter`.

    Attributes:
        method: for people: what it counts, and how.
    """

    method: str

    def start(self) -> None:
        """Starts to count."""
        ...

    def joules(self) -> float | None:
        """The energy since `start`; None if the counter failed."""
        ...


class RaplMeter:
    """All package counters of RAPL together."""

    def __init__(self, read: ReadFiles, zones: Sequence[str]) -> None:
        self.method = f"RAPL by powercap: whole package, {len(zones)} of them, idle power included"
        self._read = read
        self._zones = zones
        self._before: dict[str, int] = {}

    def start(self) -> None:
        self._before = self._counts()

    def joules(self) -> float | None:
        now = self._counts()
        if not self._before or set(now) != set(self._before):
            return None
        limits = self._read([f"{zone}/max_energy_range_uj" for zone in self._zones])
        total = 0
        for zone, count in now.items():
            used = count - self._before[zone]
            if used < 0:  # the counter wrapped around
                limit = limits.get(f"{zone}/max_energy_range_uj", "")
                if not limit.strip().isdecimal():
                    return None
                used += int(limit) + 1
            total += used
        return total / 1e6

    def _counts(self) -> dict[str, int]:
        texts = self._read([f"{zone}/energy_uj" for zone in self._zones])
        counters = {path.rpartition("/")[0]: text.strip() for path, text in texts.items()}
        return {zone: int(text) for zone, text in counters.items() if text.isdecimal()}


def rapl(read: ReadFiles) -> RaplMeter | str:
    """A meter, or the reason why there is none.

    Args:
        read: gives the texts of the files that match glob patterns.
    """
    files = read(RAPL)
    packages = [
        path.removesuffix("/name")
        for path, text in files.items()
        if path.endswith("/name") and re.fullmatch(r"package(-\d+)?", text.strip())
    ]
    if not packages:
        return "not available here: no RAPL package below /sys/class/powercap"
    readable = [zone for zone in packages if files.get(f"{zone}/energy_uj", "").strip().isdecimal()]
    if len(readable) < len(packages):
        return f"not available here: {packages[0]}/energy_uj is there, but may not be read; root may"
    return RaplMeter(read, packages)


@dataclass(frozen=True)
class Energy:
    """The energy of a pass.

    Attributes:
        millijoules: the median over the runs.
        low: the lowest run.
        high: the highest run.
        idle_watts: the machine's power at rest, part of `millijoules`; None if it was not measured.
    """

    millijoules: float
    low: float
    high: float
    idle_watts: float | None


def per_pass(joules: Sequence[float | None], passes: int, idle_watts: float | None) -> Energy | None:
    """Computes the energy of a pass from that of whole runs.

    Args:
        joules: of each run; None if the counter failed.
        passes: in each run, warm-up included.
        idle_watts: of the machine at rest.
    """
    known = [1000 * value / passes for value in joules if value is not None]
    return Energy(median(known), min(known), max(known), idle_watts) if known else None
