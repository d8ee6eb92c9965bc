"""Runs on a device: files, affinity, temperature, cleaning up, broken links."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from devices import LONG, Here, eventually, false_caffe, sleeping, vanished

from deeprebirth_caffe.bench.energy import ReadFiles
from deeprebirth_caffe.bench.targets import facts
from deeprebirth_caffe.bench.targets.battery import RAILS, battery
from deeprebirth_caffe.bench.targets.client import call
from deeprebirth_caffe.bench.targets.facts import Cluster
from deeprebirth_caffe.bench.targets.install import install
from deeprebirth_caffe.bench.targets.remote import COOL_SECONDS, RemoteTarget
from deeprebirth_caffe.bench.targets.shell import DeviceError, DeviceLostError, Shell
from deeprebirth_caffe.engines.base import EngineError

ZONE = "/sys/class/thermal/thermal_zone0"


@pytest.fixture
def here(tmp_path: Path) -> Here:
    found = Here(tmp_path / "device")
    shell = Shell(found)
    install(shell, false_caffe(tmp_path / "caffe", shell))
    return found


def target(here: Here, slept: list[float] | None = None) -> RemoteTarget:
    return RemoteTarget("here", lambda: here, sleep=(slept if slept is not None else []).append)


def runs(here: Here) -> list[Path]:
    return list((here.root / "runs").iterdir())


def test_a_run_and_nothing_is_left(here: Here, tmp_path: Path) -> None:
    net = tmp_path / "net"
    net.write_text('name: "$(touch hacked)"')
    with target(here) as device:
        folder = device.push({"net.prototxt": net})
        assert device.run_caffe(["read"], cwd=folder).stdout == net.read_bytes()
        assert len(runs(here)) == 1
    assert runs(here) == []


def test_arguments_and_environment_are_words(here: Here) -> None:
    with target(here) as device:
        done = device.run_caffe(["echo", "$(reboot)", "a b", "'"], env={"NAME": "; x"})
    assert (done.rc, done.stdout, done.stderr) == (0, b"<$(reboot)><a b><'>", b"env ; x\n")


def test_a_failure_comes_with_its_log(here: Here) -> None:
    with target(here) as device:
        done = device.run_caffe(["fail"])
    assert done.rc == 3
    assert b"no such thing" in done.stderr


def test_memory_is_told_once_the_net_has_run(here: Here) -> None:
    with target(here) as device:
        long = device.run_caffe(["nap", "2.5"])
        short = device.run_caffe(["echo"])
    assert long.rc == 0
    assert long.peak_rss_bytes is not None and 10_000 < long.peak_rss_bytes < 100_000_000
    assert short.peak_rss_bytes is None


def test_a_device_without_caffe_says_what_to_type(tmp_path: Path) -> None:
    empty = Here(tmp_path / "empty")
    with pytest.raises(DeviceError, match="here has no Caffe: run `rebirth device install here`"), target(empty):
        pass


def test_names_of_files_are_ours(here: Here, tmp_path: Path) -> None:
    with target(here) as device, pytest.raises(ValueError, match="plain"):
        device.push({"../x": tmp_path})


def test_what_arrives_damaged_is_not_run(here: Here, tmp_path: Path) -> None:
    (tmp_path / "net").write_text("x")

    def damages(local: Path, remote: Path) -> None:
        local.write_text("y")

    here.push_hook = damages  # type: ignore[assignment]
    original = here.push

    def push(local: Path, remote: str):  # type: ignore[no-untyped-def]
        reply = original(local, remote)
        Path(remote).write_text("z")
        return reply

    here.push = push  # type: ignore[method-assign]
    with target(here) as device, pytest.raises(DeviceError, match=r"net.prototxt did not arrive whole"):
        device.push({"net.prototxt": tmp_path / "net"})
    assert runs(here) == []


def test_affinity_is_a_mask(here: Here) -> None:
    here.program("taskset", 'echo "mask $1" >&2\nshift\nexec "$@"\n')
    with target(here) as device:
        done = device.run_caffe(["echo"], cpus=[4, 5, 6, 7])
    assert b"mask f0\n" in done.stderr


def test_affinity_where_it_cannot_be_had(here: Here) -> None:
    for name in ("sh", "cat", "mkdir", "rm", "env", "find", "head", "sleep", "grep"):
        here.program(name, f'exec /bin/{name} "$@"\n')
    here.path = "/nowhere"
    with target(here) as device, pytest.raises(DeviceError, match="no program taskset"):
        device.run_caffe(["echo"], cpus=[0])


def test_a_run_that_takes_too_long_is_ended_there(here: Here) -> None:
    with pytest.raises(DeviceLostError, match="did not run Caffe to its end within 1 s"), target(here) as device:
        device.run_caffe(["nap", LONG], timeout=1)
    # The device ended it and cleaned up, for nobody could tell it to.
    assert eventually(lambda: runs(here) == [])
    assert eventually(lambda: not sleeping(LONG))


def test_what_broken_links_left_is_cleaned_up_later(here: Here) -> None:
    old, busy, young = (here.root / "runs" / name for name in ("old", "busy", "young"))
    for folder in (old, busy, young):
        folder.mkdir(parents=True)
    (busy / "pid").write_text(f"{os.getpid()}\n")
    (old / "pid").write_text("999999999\n")
    for folder in (old, busy):
        os.utime(folder, (0, 0))
    with target(here):
        pass
    assert vanished(old, 0)
    assert sorted(p.name for p in runs(here)) == ["busy", "young"]


def test_a_hot_device_is_waited_for(here: Here) -> None:
    here.file(f"{ZONE}/type", "cpu-0-0\n")
    here.file(f"{ZONE}/temp", "40000\n")
    here.file("/sys/class/thermal/thermal_zone1/type", "battery\n")
    here.file("/sys/class/thermal/thermal_zone1/temp", "90000\n")
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            here.file(f"{ZONE}/temp", "44000\n")

    with RemoteTarget("here", lambda: here, sleep=sleep) as device:
        device.run_caffe(["echo"])
        assert slept == []
        here.file(f"{ZONE}/temp", "70000\n")
        device.run_caffe(["echo"])
        assert len(slept) == 3
        here.file(f"{ZONE}/temp", "70000\n")
        assert device.cool_down() == 70.0
        assert sum(slept[3:]) >= COOL_SECONDS


def test_a_device_says_what_it_is(here: Here) -> None:
    here.program(
        "getprop",
        'case "$1" in\n*abilist) echo arm64-v8a,armeabi-v7a ;;\n*manufacturer) echo Acme ;;\n'
        '*model) echo "One; Two" ;;\n*release) echo 14 ;;\nesac\n',
    )
    for core, khz in ((0, 1800000), (1, 1800000), (2, 2800000)):
        here.file(f"/sys/devices/system/cpu/cpu{core}/cpufreq/cpuinfo_max_freq", f"{khz}\n")
        here.file(f"/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor", "schedutil\n")
    with target(here) as device:
        found = device.describe()
    assert (found.abis, found.machines) == (["arm64-v8a", "armeabi-v7a"], ["aarch64", "arm"])
    assert (found.model, found.android, found.governors) == ("Acme One; Two", "14", ["schedutil"])
    assert found.clusters == [Cluster(cpus=[2], max_mhz=2800.0), Cluster(cpus=[0, 1], max_mhz=1800.0)]
    assert found.max_mhz == 2800.0
    assert found.free_bytes
    assert found.caffe.version == "1.0.0"


def test_files_are_read_whole(here: Here) -> None:
    here.file("/sys/a/one", "1\n\n")
    here.file("/sys/a/two", "")
    found = facts.read_files(Shell(here), ["/sys/a/*", "/sys/none/*", "/sys/a/one; touch hacked"])
    assert found == {"/sys/a/one": "1\n\n", "/sys/a/two": ""}


SUPPLY = "/sys/class/power_supply/battery"


def supply(charge: int, status: str = "Discharging", volts: int = 4_000_000) -> dict[str, str]:
    return {
        f"{SUPPLY}/type": "Battery\n",
        f"{SUPPLY}/status": f"{status}\n",
        f"{SUPPLY}/charge_counter": f"{charge}\n",
        f"{SUPPLY}/voltage_now": f"{volts}\n",
    }


def reader(states: list[dict[str, str]]) -> ReadFiles:
    """Gives one state of the battery after the other; there are no rails."""
    return lambda patterns: {} if patterns == RAILS else states.pop(0)


def test_energy_from_the_battery() -> None:
    states = [supply(3_000_000), supply(3_000_000), supply(2_999_000, volts=3_800_000)]
    meter = battery(reader(states))
    assert not isinstance(meter, str)
    meter.start()
    # 1 mAh is 3.6 C, at 3.9 V on average.
    assert meter.joules() == pytest.approx(3.6 * 3.9)
    assert "battery" in meter.method


@pytest.mark.parametrize("then", [supply(3_000_000), supply(2_999_000, "Charging"), {}])
def test_a_battery_that_says_nothing(then: dict[str, str]) -> None:
    meter = battery(reader([supply(3_000_000), supply(3_000_000), then]))
    assert not isinstance(meter, str)
    meter.start()
    assert meter.joules() is None


def test_a_battery_that_charges_is_no_meter() -> None:
    assert "being charged" in str(battery(lambda patterns: supply(1, "Full")))
    assert "not available here" in str(battery(lambda patterns: {}))


def test_energy_from_power_rails() -> None:
    path = "/sys/bus/iio/devices/iio:device0/energy_value"
    states = [f"t=1\nCH0(T=1)[CPU], {n}\nCH1(T=1)[GPU], {n}\n" for n in (0, 1_000_000, 3_500_000)]
    meter = battery(lambda patterns: {path: states.pop(0)})
    assert not isinstance(meter, str)
    meter.start()
    assert meter.joules() == pytest.approx(5.0)


def test_a_client_that_prints_without_end_is_ended() -> None:
    with pytest.raises(EngineError, match="yes printed more than 64 MiB, so it was ended"):
        call(["yes"], timeout=60)
    with pytest.raises(EngineError, match="sh printed more than 0 MiB"):
        call(["sh", "-c", "yes >&2"], timeout=60, most=1000)


def test_a_client_that_takes_too_long_is_ended() -> None:
    reply = call(["sh", "-c", "echo out; echo err >&2; exec sleep 600"], timeout=0.5)
    assert (reply.rc, reply.stdout, reply.stderr) == (None, b"out\n", b"err\n")
    assert call(["sh", "-c", "echo out; cat; exit 3"], timeout=60, stdin=Path(os.devnull)).rc == 3
