"""OpenSSH's client against a real sshd on loopback; with the arm64 Caffe under qemu, where both are here."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from devices import LONG, eventually, false_caffe, sleeping, ssh_board

from deeprebirth_caffe.bench.targets import open_target
from deeprebirth_caffe.bench.targets.install import install, installed
from deeprebirth_caffe.bench.targets.shell import DeviceError, DeviceLostError, Shell
from deeprebirth_caffe.bench.targets.ssh import SshTransport
from deeprebirth_caffe.commands.device import device_info, install_caffe, remove_caffe
from deeprebirth_caffe.commands.time import time_nets
from deeprebirth_caffe.engines.caffe.locate import default_prefix
from deeprebirth_caffe.options.time import Plan, TimingOptions


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The far home directory, whose name has a space."""
    with ssh_board(tmp_path / "ssh", monkeypatch) as found:
        yield found


@pytest.fixture
def link(home: Path) -> Iterator[SshTransport]:
    transport = SshTransport("board")
    yield transport
    transport.close()


def masters() -> list[str]:
    """Connections of ours that are open."""
    done = subprocess.run(["pgrep", "-af", "ControlMaster=yes.* board"], capture_output=True, text=True, check=False)
    return [line for line in done.stdout.splitlines() if "pgrep" not in line]


def test_install_run_remove(home: Path, link: SshTransport, tmp_path: Path) -> None:
    shell = Shell(link)
    report = install(shell, false_caffe(tmp_path / "caffe", shell))
    assert report.sent == 3
    assert install(shell, false_caffe(tmp_path / "caffe", shell)).sent == 0
    (tmp_path / "net").write_bytes(bytes(range(256)))
    with open_target("ssh:board") as target:
        folder = target.push({"net.prototxt": tmp_path / "net"})
        assert target.run_caffe(["read"], cwd=folder).stdout == bytes(range(256))
        done = target.run_caffe(["echo", "$(touch hacked)", "'"], env={"NAME": "`touch hacked`"})
        assert (done.stdout, done.stderr) == (b"<$(touch hacked)><'>", b"env `touch hacked`\n")
    assert not list(home.rglob("hacked"))
    assert list((home / ".rebirth/runs").iterdir()) == []
    assert device_info("ssh:board")["caffe"]["version"] == "1.0.0"
    assert remove_caffe("ssh:board") == ("ssh:board", True)
    assert list(home.iterdir()) == []


def test_files_come_back(home: Path, link: SshTransport, tmp_path: Path) -> None:
    shell = Shell(link)
    (home / "log").write_bytes(b"\0\r\n'")
    shell.pull(f"{home}/log", tmp_path / "log")
    assert (tmp_path / "log").read_bytes() == b"\0\r\n'"
    with pytest.raises(DeviceError, match="cannot fetch nope"):
        shell.pull(f"{home}/nope", tmp_path / "nope")


def test_a_connection_that_breaks_mid_run(home: Path, link: SshTransport, tmp_path: Path) -> None:
    shell = Shell(link)
    install(shell, false_caffe(tmp_path / "caffe", shell))
    link.close()
    with pytest.raises(DeviceLostError, match="ssh:board went away"), open_target("ssh:board") as target:
        run = next((home / ".rebirth/runs").iterdir())
        killer = f"while [ ! -e '{run}/pid' ]; do sleep 0.1; done; sleep 0.3; kill -9 {masters()[0].split()[0]}"
        with subprocess.Popen(["sh", "-c", killer]):
            target.run_caffe(["nap", LONG])
    assert eventually(lambda: list((home / ".rebirth/runs").iterdir()) == [])
    assert eventually(lambda: not sleeping(LONG))
    again = SshTransport("board")
    assert installed(Shell(again)) is not None
    again.close()
    assert masters() == []


def test_one_connection_for_everything(home: Path, link: SshTransport) -> None:
    shell = Shell(link)
    assert [shell.run("echo a").text, shell.run("exit 255").rc] == ["a\n", 255]
    log = (home.parent / "sshd.log").read_text()
    assert log.count("Accepted publickey") == 1


def test_no_key(home: Path) -> None:
    with pytest.raises(DeviceError, match=r"ssh:locked cannot be reached: .*ermission denied.*ssh-copy-id"):
        SshTransport("locked")


def test_nobody_there(home: Path) -> None:
    with pytest.raises(DeviceError, match=r"cannot be reached: .*refused"):
        SshTransport("127.0.0.1:1")


def test_a_directory_that_may_not_be_written(home: Path, link: SshTransport, tmp_path: Path) -> None:
    (home / ".rebirth").write_text("in the way")
    with pytest.raises(DeviceError, match="cannot make a directory"):
        _ = Shell(link).root


def test_a_full_disk(link: SshTransport, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(5000))
    with pytest.raises(DeviceError, match="ssh:board is full, cannot send full"):
        Shell(link).push(tmp_path / "x", "/dev/full")


NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 64 dim: 64 } } }
layer { name: "$(touch hacked)" type: "Convolution" bottom: "data" top: "c"
  convolution_param { num_output: 32 kernel_size: 5 } }
layer { name: "pool" type: "Pooling" bottom: "c" top: "p" pooling_param { kernel_size: 2 stride: 2 } }
"""


def test_arm_caffe_under_an_emulator(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = Path(os.environ.get("REBIRTH_TEST_CAFFE_ARM64") or default_prefix("arm64"))
    if not (prefix / ".rebirth-caffe").exists():
        pytest.skip(f"no Caffe for arm64 in {prefix}")
    if os.uname().machine != "aarch64":
        if not shutil.which("qemu-aarch64-static"):
            pytest.skip("no qemu-aarch64-static")
        with pytest.raises(DeviceError, match="--emulate"):
            install_caffe("ssh:board", prefix=prefix)
    _, report = install_caffe("ssh:board", prefix=prefix, emulate=True)
    assert (report.installed.machine, report.installed.version) == ("aarch64", "1.0.0")
    net = tmp_path / "net.prototxt"
    net.write_text(NET)
    result = time_nets([(net, None)], TimingOptions(on="ssh:board", plan=Plan(runs=2, iterations=3)))
    assert [layer.name for layer in result.nets[0].layers] == ["$(touch hacked)", "pool"]
    assert not list(tmp_path.rglob("hacked"))
    assert list((home / ".rebirth/runs").iterdir()) == []
