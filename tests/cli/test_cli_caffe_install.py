"""`rebirth caffe install`, `info` and `remove`, on a machine whose apt is made up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsondocs
import pytest
from cli_tools import Cli, complaint
from debian_machine import Machine, bare_machine


@pytest.fixture
def debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A Debian that the command sees as its own machine."""
    (tmp_path / "machine").mkdir()
    machine = bare_machine(tmp_path / "machine").with_apt()
    for name in ("REBIRTH_CAFFE", "REBIRTH_CAFFE_PREFIX", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in machine.env.items():
        monkeypatch.setenv(name, value)
    return machine


def test_install_info_remove(cli: Cli, debian: Machine) -> None:
    prefix = debian.root / "home/.local/share/rebirth/caffe"
    first = cli("caffe", "install", "--keyring", debian.keyring)
    assert (first.code, first.out) == (0, f"Caffe 1.0.0+x ({_arch()}) is in {prefix}\n")
    assert "download of Caffe" in first.err and "check: caffe --version" in first.err
    assert (prefix / "bin/caffe").is_file()
    again = cli("caffe", "install", "--json")  # needs no keyring: it is there
    assert again.code == 0 and "already" in again.err
    jsondocs.check(again.data, "caffe install, caffe info")
    assert (again.data["prefix"], again.data["package"]) == (str(prefix), "1.0.0+x")
    assert cli("caffe", "remove").out == f"{prefix}: removed\n"
    assert not prefix.exists()
    assert cli("caffe", "remove").out == f"{prefix}: there was nothing\n"


def _arch() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]


def test_names_with_spaces_and_dashes(cli: Cli, debian: Machine) -> None:
    keyring = debian.keyring.rename(debian.root / "my keys; $x.gpg")
    result = cli(
        "caffe", "install", "--prefix", "-a b'c", "--keyring", keyring, "--mirror", "http://other.invalid/debian"
    )
    assert result.code == 0, result.err
    assert Path("-a b'c/bin/caffe").is_file()
    assert "deb [arch=" in debian.calls.read_text() and "http://other.invalid/debian" in debian.calls.read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--arch", "mips"], 2, "unknown architecture 'mips'"),
        (["--mirror", "somewhere"], 2, "--mirror wants a URL"),
        (["--mirror", ""], 2, "--mirror needs a value"),
        (["--prefix", "with:colon"], 2, "PREFIX must not hold"),
        (["--keyring", "nowhere"], 2, "'nowhere' does not exist"),
        (["--prefix", "full", "--keyring", "keys"], 1, "'full' is not empty and holds no Caffe"),
    ],
)
def test_what_people_type_wrong(cli: Cli, debian: Machine, arguments: list[str], code: int, said: str) -> None:
    Path("full").mkdir()
    Path("full/thesis.tex").touch()
    Path("keys").write_bytes(b"key")
    result = cli("caffe", "install", *arguments)
    assert result.code == code and result.out == ""
    assert said.replace("'full'", f"'{Path.cwd()}/full'") in complaint(result, code)
    assert Path("full/thesis.tex").exists()


def test_a_failure_is_the_scripts_own_last_line(cli: Cli, debian: Machine) -> None:
    debian.repositories("http://u.invalid/ubuntu noble main")
    result = cli("caffe", "install")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("error: this machine's apt sources name no Debian mirror")


def test_remove_leaves_what_is_somebody_elses(cli: Cli, debian: Machine) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.tex").touch()
    assert "stays as it is" in complaint(cli("caffe", "remove", "--prefix", "mine"), 1)
    assert Path("mine/thesis.tex").exists()


def test_remove_waits_for_nobody(cli: Cli, debian: Machine) -> None:
    import fcntl

    Path("busy/.work").mkdir(parents=True)
    with Path("busy/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "busy" in complaint(cli("caffe", "remove", "--prefix", "busy"), 1)
    assert cli("caffe", "remove", "--prefix", "busy").code == 0
    assert not Path("busy").exists()


def test_kill_stops_the_script_too(debian: Machine) -> None:
    words = [
        sys.executable,
        "-m",
        "deeprebirth_caffe",
        "caffe",
        "install",
        "--prefix",
        "p",
        "--keyring",
        debian.keyring,
    ]
    running = subprocess.Popen(words, env={**os.environ, "FAKE_SLOW": "1"}, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while " install " not in debian.calls.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=30)
    assert running.returncode == 143
    assert errors.splitlines()[-1] == "interrupted; the same command goes on where it was"
    # The lock is free: nobody of it is left.
    again = subprocess.run([*words[:-1], debian.keyring], capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 0, again.stderr


def test_without_bash(cli: Cli, debian: Machine) -> None:
    (debian.bin / "bash").unlink()
    assert "needs bash, apt-get and dpkg-deb" in complaint(cli("caffe", "install"), 1)


def test_info_without_caffe(cli: Cli, debian: Machine) -> None:
    assert "rebirth caffe install" in complaint(cli("caffe", "info"), 1)


def test_info_of_a_program_alone(cli: Cli, debian: Machine) -> None:
    debian.program("caffe", "#!/bin/sh\n")
    result = cli("caffe", "info")
    assert (result.code, result.out) == (0, f"found by  PATH\nprogram   {debian.bin}/caffe\n")
    data = cli("caffe", "info", "--json").data
    jsondocs.check(data, "caffe install, caffe info")
    assert data["python"] is None and data["caffe"] is None


@pytest.mark.caffe
def test_info_of_real_caffe(cli: Cli) -> None:
    data = cli("caffe", "info", "--json").data
    jsondocs.check(data, "caffe install, caffe info")
    assert data["caffe"].startswith("1.0") and data["layer_types"] > 50
    shown = dict(line.split("  ", 1) for line in cli("caffe", "info").out.splitlines())
    assert shown["layer types"].strip() == str(data["layer_types"]) and data["python"] in shown["python"]
