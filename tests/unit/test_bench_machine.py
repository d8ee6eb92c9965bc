"""What machines say about themselves: texts as Linux gives them on x86, on a board and on a phone."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from deeprebirth_caffe.bench import machine
from deeprebirth_caffe.bench.machine import State

CPU = "/sys/devices/system/cpu"
X86 = {
    "/proc/cpuinfo": "processor\t: 0\nmodel name\t: Some CPU @ 2.60GHz\n\nprocessor\t: 1\nmodel name\t: Some CPU\n",
    "/proc/meminfo": "MemTotal:       16309560 kB\nMemFree: 1 kB\n",
    "/proc/sys/kernel/osrelease": "6.1.0\n",
    "/proc/sys/kernel/arch": "x86_64\n",
    f"{CPU}/online": "0-1\n",
    f"{CPU}/cpu0/cpufreq/scaling_governor": "powersave\n",
    f"{CPU}/cpu1/cpufreq/scaling_governor": "performance\n",
    f"{CPU}/cpu0/cpufreq/cpuinfo_max_freq": "3400000\n",
    "/sys/fs/cgroup/cpu.max": "150000 100000\n",
}
STATE = {
    "/proc/loadavg": "0.12 0.34 0.56 1/234 5678\n",
    f"{CPU}/cpu0/cpufreq/scaling_cur_freq": "1200000\n",
    f"{CPU}/cpu1/cpufreq/scaling_cur_freq": "<unknown>\n",
    f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "3\n",
    f"{CPU}/cpu0/thermal_throttle/package_throttle_count": "4\n",
    "/sys/fs/cgroup/cpu.stat": "usage_usec 5\nnr_throttled 2\nthrottled_usec 9\n",
    "/sys/class/thermal/thermal_zone0/type": "x86_pkg_temp\n",
    "/sys/class/thermal/thermal_zone0/temp": "45000\n",
    "/sys/class/thermal/thermal_zone1/type": "battery\n",
    "/sys/class/thermal/thermal_zone1/temp": "312\n",
    "/sys/class/thermal/thermal_zone2/type": "broken\n",
    "/sys/class/thermal/thermal_zone2/temp": "-274000\n",
    "/sys/class/hwmon/hwmon0/name": "k10temp\n",
    "/sys/class/hwmon/hwmon0/temp1_input": "51500\n",
}


def test_facts() -> None:
    assert vars(machine.facts(X86)) == {
        "cpu": "Some CPU @ 2.60GHz",
        "cores": 2,
        "cpu_limit": 1.5,
        "arch": "x86_64",
        "system": "6.1.0",
        "memory_bytes": 16309560 * 1024,
        "governors": ["performance", "powersave"],
        "max_mhz": 3400.0,
    }


def test_a_board() -> None:
    cpuinfo = "".join(
        f"processor\t: {n}\nCPU implementer\t: 0x41\nCPU part\t: {part}\n\n"
        for n, part in enumerate(["0xd03", "0xd09"])
    )
    found = machine.facts({"/proc/cpuinfo": cpuinfo, "/proc/device-tree/model": "Raspberry Pi 4\0"})
    assert found.cpu == "Raspberry Pi 4; implementer 0x41 part 0xd03, implementer 0x41 part 0xd09"
    assert found.cores == 2 and found.max_mhz is None


def test_a_machine_that_says_nothing() -> None:
    assert set(map(str, vars(machine.facts({})).values())) == {"None", "[]"}
    assert machine.state({}) == State(None, {}, {}, None)


def test_state() -> None:
    found = machine.state(STATE)
    assert found.load == 0.12 and found.mhz == {"0": 1200.0} and found.throttled == 9
    assert found.celsius == {
        "x86_pkg_temp (thermal_zone0)": 45.0,
        "battery (thermal_zone1)": 31.2,
        "k10temp temp1 (hwmon0)": 51.5,
    }


@pytest.mark.parametrize("text", ["", "\0\xff", "a b c", "-1", "9" * 400, "\n" * 9, "0-99999999999"])
def test_files_that_make_no_sense(text: str) -> None:
    machine.facts(dict.fromkeys(X86, text))
    machine.state(dict.fromkeys(STATE, text))


def _cores(governor: str) -> machine.Facts:
    return replace(machine.facts({}), governors=[governor], cores=2)


def test_warnings() -> None:
    calm = State(0.1, {}, {"cpu": 40.0}, 3)
    assert machine.warnings(_cores("performance"), calm, calm) == []
    hot = State(2.0, {}, {"cpu": 55.0}, 5)
    busy, governor, throttled, heat = machine.warnings(_cores("powersave"), hot, State(3.0, {}, {"cpu": 75.0}, 9))
    assert "load average 2 on 2 cores" in busy and "powersave" in governor
    assert "4 times" in throttled and "cpu went up by 20 to 75 degrees" in heat


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0", [0]), ("0-3,6", [0, 1, 2, 3, 6]), ("0x4f", [0, 1, 2, 3, 6]), ("3,1,1", [1, 3]), ("0xF0", [4, 5, 6, 7])],
)
def test_processors(text: str, cpus: list[int]) -> None:
    assert machine.parse_cpus(text) == cpus


@pytest.mark.parametrize("text", ["", "x", "0x", "0x0", "3-1", "-1", "1,", "0;reboot", "1e3", "\u0661"])
def test_no_processors(text: str) -> None:
    with pytest.raises(ValueError):
        machine.parse_cpus(text)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_machine(tmp_path: Path) -> None:
    found = machine.facts(machine.read_files(machine.FACTS))
    assert found.cores and found.cores >= len(os.sched_getaffinity(0))
    assert machine.state(machine.read_files(machine.STATE)).load is not None
    used = machine.cpu_seconds(os.getpid())
    assert used is not None and used > 0
    assert machine.cpu_seconds(2**22 + 1) is None
    (tmp_path / "a1").write_bytes(b"x\xff")
    assert machine.read_files([f"{tmp_path}/a[0-9]*", f"{tmp_path}/none"]) == {str(tmp_path / "a1"): "x\ufffd"}


def test_long_texts_take_no_longer_than_others() -> None:
    """Quadratic, each would take minutes."""
    makers = "CPU implementer\t: 0x41\n" * 60_000
    assert machine.facts({"/proc/cpuinfo": makers}).cpu is None
    parts = makers + "CPU part\t: 0xd08\n" * 3
    assert machine.facts({"/proc/cpuinfo": parts}).cpu == "implementer 0x41 part 0xd08"
