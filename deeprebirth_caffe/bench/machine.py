"""The facts of a machine, its heat and load, from the files of a Linux system: this machine or a device.

Everything here works on texts by path, so a single command can fetch them from a device.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.options.kinds import parse_cpus

FACTS = (
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/arch",
    "/proc/device-tree/model",
    "/sys/devices/system/cpu/online",
    "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor",
    "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq",
    "/sys/fs/cgroup/cpu.max",
)
"""Glob patterns of the files with the facts of a machine."""

STATE = (
    "/proc/loadavg",
    "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq",
    "/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count",
    "/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/package_throttle_count",
    "/sys/class/thermal/thermal_zone[0-9]*/type",
    "/sys/class/thermal/thermal_zone[0-9]*/temp",
    "/sys/class/hwmon/hwmon[0-9]*/name",
    "/sys/class/hwmon/hwmon[0-9]*/temp[0-9]*_input",
    "/sys/fs/cgroup/cpu.stat",
)
"""Glob patterns of the files with its state."""

BUSY = 0.5
"""A load average above this, before any of our runs, means that the machine is busy."""
HOTTER = 10.0
"""A rise of this many degrees gives a warning."""

Files = Mapping[str, str]


def read_files(patterns: Iterable[str]) -> dict[str, str]:
    """The texts of this machine's matching files; unreadable files are left out."""
    contents: dict[str, str] = {}
    for pattern in patterns:
        fixed = pattern.lstrip("/")
        paths = sorted(Path("/").glob(fixed)) if any(sign in fixed for sign in "*?[") else [Path(pattern)]
        for path in paths:
            try:
                contents[str(path)] = path.read_bytes()[: 1 << 20].decode("utf-8", "replace")
            except OSError:
                continue
    return contents


@dataclass(frozen=True)
class State:
    """The state of a machine at a moment.

    Attributes:
        load: runnable processes, averaged over the last minute; null where it does not say.
        mhz: the present frequency of each core that says it, by its number.
        celsius: temperatures by sensor.
        throttled: how often heat or a quota slowed it down since it started; null where it does not say.
    """

    load: float | None
    mhz: dict[str, float]
    celsius: dict[str, float]
    throttled: int | None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a machine is; null for what it does not say.

    Attributes:
        cpu: its processor.
        cores: how many are online.
        cpu_limit: cores that the container may use, where it is limited.
        arch: `x86_64`, `aarch64`, …, as the kernel calls it.
        system: the kernel's release.
        memory_bytes: main memory.
        governors: frequency governors in use.
        max_mhz: of the fastest core.
    """

    cpu: str | None
    cores: int | None
    cpu_limit: float | None
    arch: str | None
    system: str | None
    memory_bytes: int | None
    governors: Sequence[str]
    max_mhz: float | None


def facts(files: Files) -> Facts:
    """What a machine is, from the texts of FACTS."""
    maximum = [_number(text) for path, text in files.items() if path.endswith("/cpuinfo_max_freq")]
    known = [value / 1000 for value in maximum if value is not None]
    memory = re.search(r"^MemTotal:\s+(\d+) kB", files.get("/proc/meminfo", ""), re.M)
    governors = {_line(text) for path, text in files.items() if path.endswith("/scaling_governor")}
    return Facts(
        cpu=_cpu(files),
        cores=_cores(files),
        cpu_limit=_quota(files.get("/sys/fs/cgroup/cpu.max", "")),
        arch=_line(files.get("/proc/sys/kernel/arch", "")) or None,
        system=_line(files.get("/proc/sys/kernel/osrelease", "")) or None,
        memory_bytes=1024 * int(memory[1]) if memory else None,
        governors=sorted(governor for governor in governors if governor),
        max_mhz=max(known) if known else None,
    )


def state(files: Files) -> State:
    """The state of a machine, from the texts of STATE."""
    load = re.match(r"\s*(\d+(?:\.\d+)?)\s", files.get("/proc/loadavg", ""))
    mhz: dict[str, float] = {}
    for path, text in files.items():
        core = re.fullmatch(r".*/cpu(\d+)/cpufreq/scaling_cur_freq", path)
        value = _number(text)
        if core and value is not None:
            mhz[core[1]] = value / 1000
    return State(float(load[1]) if load else None, mhz, _temperatures(files), _throttled(files))


def warnings(machine: Facts, before: State, after: State) -> list[str]:
    """Warnings about reasons that make figures less reliable."""
    lines = []
    if before.load is not None and before.load > BUSY:
        cores = f" on {machine.cores} cores" if machine.cores else ""
        lines.append(f"the machine was busy in the minute before: load average {before.load:g}{cores}")
    slow = [name for name in machine.governors if name not in ("performance", "schedutil")]
    if slow:
        lines.append(f"the frequency governor is {', '.join(slow)}: the cores may not run at their full speed")
    if before.throttled is not None and after.throttled is not None and after.throttled > before.throttled:
        lines.append(f"the processor was slowed down {after.throttled - before.throttled} times meanwhile")
    for sensor, degrees in after.celsius.items():
        rise = degrees - before.celsius.get(sensor, degrees)
        if rise >= HOTTER:
            lines.append(f"{sensor} went up by {rise:.0f} to {degrees:.0f} degrees: give it rests with --cooldown")
    return lines


def _line(text: str) -> str:
    return text.replace("\0", "").strip()


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\s*-?\d{1,15}\s*", text) else None


def _cpu(files: Files) -> str | None:
    text = files.get("/proc/cpuinfo", "")
    for key in ("model name", "Hardware", "cpu model", "uarch", "cpu"):
        named = re.search(rf"^{key}\s*:\s*(\S.*)$", text, re.M)
        if named and key != "cpu":
            return _line(named[1])
        if named:
            return f"{key} {_line(named[1])}"
    kinds = ", ".join(dict.fromkeys(_arm_parts(text)))
    board = _line(files.get("/proc/device-tree/model", ""))
    return "; ".join(filter(None, [board, kinds])) or None


def _arm_parts(text: str) -> Iterator[str]:
    """The names of an ARM processor's cores, from lines with the maker and the part."""
    maker = ""
    for line in text.splitlines():
        key, _, value = (word.strip() for word in line.partition(":"))
        if key == "CPU implementer" and not maker:
            maker = value
        elif key == "CPU part" and maker and value:
            yield f"implementer {maker} part {value}"
            maker = ""


def _cores(files: Files) -> int | None:
    ranges = _line(files.get("/sys/devices/system/cpu/online", ""))
    if re.fullmatch(r"\d{1,6}(-\d{1,6})?(,\d{1,6}(-\d{1,6})?)*", ranges):
        return len(parse_cpus(ranges))
    return len(re.findall(r"^processor\s*:", files.get("/proc/cpuinfo", ""), re.M)) or None


def _quota(text: str) -> float | None:
    """Cores that a container may use: "200000 100000" is 2."""
    match = re.match(r"(\d+) ([1-9]\d*)\s*$", text)
    return int(match[1]) / int(match[2]) if match else None


def _temperatures(files: Files) -> dict[str, float]:
    degrees_of: dict[str, float] = {}
    for path, text in files.items():
        value = _number(text)
        zone = re.fullmatch(r"(/sys/class/thermal/(thermal_zone\d+))/temp", path)
        chip = re.fullmatch(r"(/sys/class/hwmon/(hwmon\d+))/(temp\d+)_input", path)
        if value is None or not (zone or chip):
            continue
        # Millidegrees; some phones give tenths or whole degrees.
        degrees = value / 1000 if abs(value) >= 1000 else value / 10 if abs(value) >= 150 else value
        if zone:
            name = f"{_line(files.get(f'{zone[1]}/type', '')) or 'zone'} ({zone[2]})"
        elif chip:
            name = f"{_line(files.get(f'{chip[1]}/name', '')) or 'chip'} {chip[3]} ({chip[2]})"
        if -40 <= degrees <= 150:
            degrees_of[name] = degrees
    return degrees_of


def _throttled(files: Files) -> int | None:
    counts = [_number(text) for path, text in files.items() if path.endswith("_throttle_count")]
    group = re.search(r"^nr_throttled (\d+)", files.get("/sys/fs/cgroup/cpu.stat", ""), re.M)
    known = [int(count) for count in counts if count is not None] + ([int(group[1])] if group else [])
    return sum(known) if known else None


def cpu_seconds(pid: int) -> float | None:
    """The processor time that a process of this machine has used in all its threads; None where that is not said."""
    total = 0
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            total += int((thread / "schedstat").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return _cpu_ticks(pid)
    return total / 1e9


def _cpu_ticks(pid: int) -> float | None:
    """Likewise, to a hundredth of a second; threads that have ended included."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None
