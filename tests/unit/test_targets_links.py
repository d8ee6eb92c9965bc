"""How devices are named and chosen."""

from __future__ import annotations

from pathlib import Path

import pytest

from deeprebirth_caffe.bench.targets import open_target
from deeprebirth_caffe.bench.targets.adb import AdbTransport, choose, devices
from deeprebirth_caffe.bench.targets.links import link
from deeprebirth_caffe.bench.targets.shell import DeviceError, Shell
from deeprebirth_caffe.bench.targets.ssh import Address
from deeprebirth_caffe.errors import UsageError

NASTY = "$(touch hacked);`touch hacked`"


@pytest.fixture
def adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program called adb that lists what `list` says, and writes its arguments into `calls`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "adb").write_text(
        f'#!/bin/sh\nprintf "<%s>" "$@" >>{folder}/calls\necho >>{folder}/calls\n'
        f'case $1 in\n-s) shift 3; exec sh -c "$1" ;;\n*) echo "List of devices attached"; cat {folder}/list ;;\nesac\n'
    )
    (folder / "adb").chmod(0o755)
    (folder / "list").write_text("")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    monkeypatch.chdir(tmp_path)
    return folder


def test_adb_lists(adb: Path) -> None:
    (adb / "list").write_text(
        "* daemon started\nA1\tdevice product:p model:Pixel_7 device:d transport_id:3\n"
        "emulator-5554 offline\nB 2 (3)._adb-tls-connect._tcp. device product:p model:Q\n"
        "C\tno permissions (user in plugdev group; are your udev rules wrong?); see [http://x]\n\n"
    )
    assert [(one.serial, one.state, one.model) for one in devices()] == [
        ("A1", "device", "Pixel 7"),
        ("emulator-5554", "offline", ""),
        ("B 2 (3)._adb-tls-connect._tcp.", "device", "Q"),
        ("C", "no permissions", ""),
    ]


def test_no_adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="adb not found: install"):
        devices()


def test_the_only_device_that_is_ready_is_taken(adb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (adb / "list").write_text("A device\nB offline\n")
    assert choose(None) == "A"
    monkeypatch.setenv("ANDROID_SERIAL", "B")
    with pytest.raises(DeviceError, match="adb:B is not ready"):
        choose(None)


@pytest.mark.parametrize(
    "listed, serial, text",
    [
        ("", None, "no Android device"),
        ("A device\nB device\n", None, "more than one device: name one of adb:A, adb:B"),
        ("A device\n", "B", "there is no device adb:B; there is adb:A"),
        ("A unauthorized\n", None, "allow USB debugging"),
        ("A offline\n", "A", "not ready \\(offline\\)"),
    ],
)
def test_devices_that_cannot_be_chosen(adb: Path, listed: str, serial: str | None, text: str) -> None:
    (adb / "list").write_text(listed)
    with pytest.raises(DeviceError, match=text):
        choose(serial)


def test_a_serial_number_like_shell_code(adb: Path, tmp_path: Path) -> None:
    (adb / "list").write_text(f"{NASTY} device model:$(reboot)\n")
    transport = AdbTransport(NASTY)
    assert transport.name == f"adb:{NASTY}"
    assert Shell(transport).run('printf %s "$1"', NASTY).text == NASTY
    assert not (tmp_path / "hacked").exists()
    assert f"<-s><{NASTY}><shell>" in (adb / "calls").read_text()


@pytest.mark.parametrize(
    "text, host, user, port",
    [
        ("board", "board", None, None),
        ("pi@raspberry.local:2222", "raspberry.local", "pi", 2222),
        ("[fe80::1%eth0]:22", "fe80::1%eth0", None, 22),
        ("10.0.0.7", "10.0.0.7", None, None),
    ],
)
def test_addresses(text: str, host: str, user: str | None, port: int | None) -> None:
    assert Address.parse(text) == Address(host, user, port)


@pytest.mark.parametrize(
    "text", ["", "-oProxyCommand=x", "a b", "a;b", "$(x)", "u$@h", "-l@h", "h:", "h:0", "h:99999", "h:x", "::1", "h\n"]
)
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        Address.parse(text)


@pytest.mark.parametrize("spec", ["", "phone", "adb:", "ssh:", "ssh", "usb:1", "ssh:-x"])
def test_names_that_are_no_device(spec: str) -> None:
    with pytest.raises(UsageError):
        link(spec)
    with pytest.raises(UsageError):
        open_target(spec)


def test_lines_of_spaces_take_no_longer_than_others(adb: Path) -> None:
    """Quadratic, they would take minutes."""
    (adb / "list").write_text("a" + " " * 200_000 + "b\n" + "x device\n")
    assert [one.serial for one in devices()] == ["x"]
