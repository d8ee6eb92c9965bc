"""The real adb client against a double of adbd."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from adbd.server import Adbd
from devices import LONG, adb_server, connect, eventually, false_caffe, sleeping

from deeprebirth_caffe.bench.targets import client, open_target
from deeprebirth_caffe.bench.targets.adb import AdbTransport
from deeprebirth_caffe.bench.targets.bundle import Bundle
from deeprebirth_caffe.bench.targets.install import install, installed
from deeprebirth_caffe.bench.targets.shell import DeviceError, DeviceLostError, Shell
from deeprebirth_caffe.commands.device import Seen, device_info, install_caffe, list_devices, remove_caffe
from deeprebirth_caffe.commands.time import time_nets
from deeprebirth_caffe.engines.caffe.locate import CaffeInstall
from deeprebirth_caffe.options.time import Plan, TimingOptions
from deeprebirth_caffe.results import to_json

Phone = Callable[..., Adbd]
ROOT = "/data/local/tmp/rebirth"


@pytest.fixture
def adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with adb_server(tmp_path / "adb", monkeypatch) as program:
        yield program


@pytest.fixture
def phone(adb: str, tmp_path: Path) -> Iterator[Phone]:
    """`phone()` connects one more device."""
    made: list[Adbd] = []

    def make(**options: bool) -> Adbd:
        device = Adbd(tmp_path / f"phone{len(made)}", **options)
        made.append(device)
        connect(adb, device)
        return device

    yield make
    for device in made:
        device.close()


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return false_caffe(tmp_path / "caffe", machine="x86_64")


def put(bundle: Bundle) -> Shell:
    """Installs it on the only device."""
    shell = Shell(AdbTransport())
    install(shell, bundle)
    return shell


def left(device: Adbd) -> list[str]:
    """What lies in our directory there."""
    root = device.inside(ROOT)
    found = [path.relative_to(root).as_posix() for path in root.rglob("*")] if root.exists() else []
    return [path for path in found if path.count("/") < 2 and not path.startswith("caffe/")]


def test_devices_are_listed_and_described(phone: Phone) -> None:
    device = phone()
    assert list_devices().devices == [Seen(name=f"adb:{device.serial}", state="device", model="Test Double")]
    device.file("/sys/class/thermal/thermal_zone0/type", "cpu\n")
    device.file("/sys/class/thermal/thermal_zone0/temp", "41500\n")
    found = device_info("adb")
    assert (found.name, found.caffe) == (f"adb:{device.serial}", None)
    assert found.machine.abis == ["x86_64"]
    assert found.machine.directory == ROOT
    assert found.state.celsius == {"cpu (thermal_zone0)": 41.5}


@pytest.mark.parametrize("shell_v2", [True, False])
def test_install_run_remove(phone: Phone, bundle: Bundle, tmp_path: Path, shell_v2: bool) -> None:
    device = phone(shell_v2=shell_v2)
    put(bundle)
    device.sent.clear()
    put(bundle)
    assert [path for path, _ in device.sent if "/lib/" in path or "/bin/" in path] == []
    (tmp_path / "net").write_text("name: '$(touch hacked)'")
    with open_target("adb") as target:
        folder = target.push({"net.prototxt": tmp_path / "net"})
        done = target.run_caffe(["read"], cwd=folder)
        assert (done.rc, done.stdout) == (0, (tmp_path / "net").read_bytes())
        failed = target.run_caffe(["fail"])
        assert failed.rc == 3 and b"no such thing" in failed.stderr
    assert left(device) == ["caffe", "runs"]
    assert remove_caffe("adb") == (f"adb:{device.serial}", True)
    assert left(device) == []


def test_more_than_one_device(phone: Phone, bundle: Bundle) -> None:
    first, second = phone(), phone()
    with pytest.raises(DeviceError, match="more than one device: name one of") as caught:
        put(bundle)
    assert f"adb:{first.serial}" in str(caught.value) and f"adb:{second.serial}" in str(caught.value)
    assert device_info(f"adb:{second.serial}")["name"] == f"adb:{second.serial}"


def test_no_device(adb: str) -> None:
    with pytest.raises(DeviceError, match="no Android device"):
        device_info("adb")


def test_the_wrong_abi(phone: Phone, bundle: Bundle) -> None:
    device = phone()
    device.program("getprop", 'case "$1" in *abilist) echo arm64-v8a,armeabi-v7a ;; esac\n')
    with pytest.raises(DeviceError, match=r"is arm64-v8a/armeabi-v7a, this Caffe for x86_64"):
        put(bundle)
    assert device.sent == []


def test_a_device_that_goes_away_mid_run(phone: Phone, bundle: Bundle) -> None:
    device = phone()
    put(bundle)
    device.lose = lambda command: " nap " in command
    with (
        pytest.raises(DeviceLostError, match="went away, could not run Caffe to its end"),
        open_target("adb") as target,
    ):
        target.run_caffe(["nap", LONG])
    # Caffe is ended there, and what was sent for this run is gone; the installation stays.
    assert eventually(lambda: left(device) == ["caffe", "runs"])
    assert eventually(lambda: not sleeping(LONG))


def test_a_device_that_goes_away_while_caffe_is_sent(phone: Phone, bundle: Bundle) -> None:
    device = phone()
    shell = put(bundle)
    before = installed(shell)
    bundle.files["lib/libpart0.so.1"].write_bytes(bytes(3_000_000))
    device.bytes_per_second = 1_000_000
    device.lose = lambda command: "keep" in command
    with pytest.raises(DeviceLostError, match="went away, c"):
        put(bundle)
    device.lose = lambda command: False
    device.bytes_per_second = None
    assert eventually(lambda: list_devices()["devices"][0]["state"] == "device")
    assert installed(Shell(AdbTransport())) == before
    put(bundle)
    assert device.inside(f"{ROOT}/caffe/lib/libpart0.so.1").read_bytes() == bytes(3_000_000)


def test_a_full_disk(phone: Phone, bundle: Bundle) -> None:
    device = phone()
    device.full_after = 1500
    with pytest.raises(DeviceError, match=r"is full, cannot send .*: make room in /data/local/tmp/rebirth"):
        put(bundle)
    assert left(device) == []


def test_files_that_may_not_be_written(phone: Phone, bundle: Bundle) -> None:
    device = phone()
    device.denied = "libpart1"
    with pytest.raises(DeviceError, match=r"not allowed to send libpart1.so.1"):
        put(bundle)
    assert left(device) == []


def test_a_slow_link_is_waited_for(phone: Phone, bundle: Bundle) -> None:
    device = phone()
    bundle.files["lib/libpart0.so.1"].write_bytes(bytes(200_000))
    device.bytes_per_second = 200_000
    assert install(Shell(AdbTransport()), bundle).sent == 3


def test_a_dead_link_is_not_waited_for(phone: Phone, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    device = phone()
    bundle.files["lib/libpart0.so.1"].write_bytes(bytes(400_000))
    monkeypatch.setattr("deeprebirth_caffe.bench.targets.adb.transfer_seconds", lambda size: 1 + size / 1e6)
    device.bytes_per_second = 50_000
    with pytest.raises(DeviceLostError, match="too slow or dead, cannot send libpart0"):
        put(bundle)
    assert client.transfer_seconds(0) >= 60


NET = """
name: "$(touch hacked)"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 24 dim: 24 } } }
layer { name: "$(touch hacked); `touch hacked`" type: "Convolution" bottom: "data" top: "'; touch hacked; '"
  convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "-rf \\"*\\"" type: "ReLU" bottom: "'; touch hacked; '" top: "'; touch hacked; '" }
"""


def test_real_caffe_times_a_net_named_like_shell_code(
    phone: Phone, caffe_install: CaffeInstall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if caffe_install.prefix is None:
        pytest.skip("this Caffe was not installed by rebirth")
    device = phone()
    install_caffe("adb", prefix=caffe_install.prefix)
    monkeypatch.chdir(tmp_path)
    net = Path("$(touch hacked); `touch hacked`.prototxt")
    net.write_text(NET)
    result = time_nets([(net, None)], TimingOptions(on="adb", plan=Plan(runs=2, iterations=3)))
    names = [layer.name for layer in result.nets[0].layers]
    assert names == ["$(touch hacked); `touch hacked`", '-rf "*"']
    assert all(ms > 0 for ms in result.nets[0].runs_ms)
    assert json.dumps(to_json(result.nets[0])).count("caffe time") >= 1
    assert not list(tmp_path.rglob("hacked"))
    assert left(device) == ["caffe", "runs"]
    assert not any("hacked" in command for command in device.commands)
