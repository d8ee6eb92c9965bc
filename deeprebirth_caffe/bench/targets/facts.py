"""Facts of a device beyond those that `bench.machine` reads from the files of every Linux."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from deeprebirth_caffe.bench import machine
from deeprebirth_caffe.bench.targets.shell import Shell

THERMAL = tuple(pattern for pattern in machine.STATE if "/thermal_zone" in pattern or "/hwmon" in pattern)
"""Glob patterns of the temperature sensors."""

_ABIS = {
    "arm64-v8a": "aarch64",
    "aarch64": "aarch64",
    "arm64": "aarch64",
    "armeabi-v7a": "arm",
    "armeabi": "arm",
    "armv6l": "arm",
    "armv7l": "arm",
    "armv8l": "arm",
    "x86_64": "x86_64",
    "amd64": "x86_64",
    "x86": "i386",
    "i386": "i386",
    "i686": "i386",
}
"""The processor (see `elf.MACHINES`) for each name of Android and of `uname -m`."""

_READ = """
word=$1
shift
for pattern in "$@"; do
    # Unquoted, so that it matches.
    for file in $pattern; do
        if [ -f "$file" ] && [ -r "$file" ]; then
            printf '\\n%s %s\\n' "$word" "$file"
            head -c 1048576 "$file" 2>/dev/null
        fi
    done
done
"""

_ABOUT = """
echo "machine $(uname -m)"
echo "kernel $(uname -s)"
if command -v getprop >/dev/null 2>&1; then
    for key in product.cpu.abilist product.cpu.abi product.manufacturer product.model build.version.release; do
        key=ro.$key
        echo "$key $(getprop "$key")"
    done
fi
df -Pk "$1" 2>/dev/null || df -k "$1"
"""


def read_files(shell: Shell, patterns: Iterable[str]) -> dict[str, str]:
    """The texts of a device's files that match glob patterns, by path; unreadable files are left out."""
    word = secrets.token_hex(8)
    done = shell.check("read its files", _READ, word, *patterns)
    contents: dict[str, str] = {}
    for part in ("\n" + done.text).split(f"\n{word} ")[1:]:
        path, _, text = part.partition("\n")
        contents[path] = text
    return contents


@dataclass(frozen=True, kw_only=True)
class About:
    """What a device says of itself; null for what it does not say.

    Attributes:
        abis: ABIs it runs programs for, best first.
        machines: the same as processors: `aarch64`, `arm`, `x86_64`, `i386`.
        model: maker and model.
        android: version of Android.
        free_bytes: room where our files go.
    """

    abis: Sequence[str]
    machines: Sequence[str]
    model: str | None
    android: str | None
    free_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Processors of one kind.

    Attributes:
        cpus: for `--cpus`.
        max_mhz: their highest frequency.
    """

    cpus: Sequence[int]
    max_mhz: float


@dataclass(frozen=True, kw_only=True)
class Device(About):
    """What is true of devices alone.

    Attributes:
        clusters: cores by their highest frequency, the fastest first.
        directory: where our files are there.
    """

    clusters: Sequence[Cluster]
    directory: str


@dataclass(frozen=True, kw_only=True)
class DeviceFacts(Device, machine.Facts):
    """What a device is: what every machine says, and what devices say besides."""


def about(shell: Shell) -> About:
    """What a device says of itself."""
    text = shell.check("say what it is", _ABOUT, shell.root).text
    said = dict(line.split(" ", 1) for line in text.splitlines() if re.match(r"(machine|kernel|ro\.\S+) \S", line))
    listed = said.get("ro.product.cpu.abilist") or said.get("ro.product.cpu.abi") or said.get("machine", "")
    abis = [abi.strip() for abi in listed.split(",") if abi.strip()]
    machines = list(dict.fromkeys(_ABIS[abi] for abi in abis if abi in _ABIS))
    model = " ".join(filter(None, [said.get("ro.product.manufacturer"), said.get("ro.product.model")]))
    # The last line of df: device, blocks, used, available, share, place. A long device name takes a separate line.
    free = re.search(r"\b(\d{1,20})\s+(\d{1,20})\s+(\d{1,20})\s+\d{1,3}%\s+\S.*\s*$", text[-4096:])
    return About(
        abis=abis,
        machines=machines,
        model=model or None,
        android=said.get("ro.build.version.release"),
        free_bytes=int(free[3]) * 1024 if free else None,
    )


def describe(shell: Shell) -> DeviceFacts:
    """What a device is."""
    files = read_files(shell, machine.FACTS)
    known, told = machine.facts(files), about(shell)
    cpu, arch = known.cpu or told.model, known.arch or next(iter(told.machines), None)
    merged = {**vars(known), **vars(told), "cpu": cpu, "arch": arch}
    return DeviceFacts(clusters=clusters(files), directory=shell.root, **merged)


def clusters(files: Mapping[str, str]) -> list[Cluster]:
    """Processors of one kind each, by their highest frequency, the fastest first."""
    groups: dict[int, list[int]] = {}
    for path, text in files.items():
        core = re.fullmatch(r".*/cpu(\d+)/cpufreq/cpuinfo_max_freq", path)
        if core and text.strip().isdecimal():
            groups.setdefault(int(text), []).append(int(core[1]))
    return [Cluster(cpus=sorted(groups[khz]), max_mhz=khz / 1000) for khz in sorted(groups, reverse=True)]


def hottest(files: Mapping[str, str]) -> float | None:
    """Degrees of the hottest processor sensor; of the hottest sensor if none has such a name."""
    celsius = machine.state(files).celsius
    processors = [value for name, value in celsius.items() if re.search(r"cpu|soc|core|tsens", name, re.IGNORECASE)]
    return max(processors or celsius.values(), default=None)
