"""`rebirth device`, without a device: what people type wrong, and the JSON of one that a false adb makes up."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jsondocs
import pytest
from cli_tools import Cli


@pytest.fixture
def adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An adb whose only device is this machine, with files in the test's folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    swap = f"s|/data/local/tmp|{tmp_path}|g"
    (folder / "adb").write_text(
        "#!/bin/sh\ncase $1 in\n"
        f'-s) exec sh -c "$(printf %s "$4" | sed \'{swap}\')" ;;\n'
        '*) echo "List of devices attached"; echo "A;B device model:My_Phone" ;;\nesac\n'
    )
    (folder / "adb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    return folder


def test_list(cli: Cli, adb: Path) -> None:
    done = cli("device", "list")
    assert (done.code, done.out) == (0, "adb:A;B  device  My Phone\n")
    data = json.loads(cli("device", "list", "--json").out)
    jsondocs.check(data, "device list")


def test_info(cli: Cli, adb: Path) -> None:
    done = cli("device", "info", "adb")
    assert done.code == 0
    assert "caffe      none: run `rebirth device install 'adb:A;B'`" in done.out
    data = json.loads(cli("device", "info", "adb:A;B", "--json").out)
    jsondocs.check(data, "device info")


def test_remove_where_nothing_is(cli: Cli, adb: Path) -> None:
    assert cli("device", "remove", "adb").out == "adb:A;B: there was nothing\n"


@pytest.mark.parametrize(
    "arguments, code, text",
    [
        (["info", "phone"], 2, "phone is no device: adb, adb:SERIAL, ssh:[USER@]HOST[:PORT]"),
        (["info", "adb:C"], 1, "there is no device adb:C; there is adb:A;B"),
        (["info", "ssh:-oProxyCommand=reboot"], 2, "is not of the form"),
        (["install", "adb", "--libs", "."], 2, "--libs goes with --binary"),
        (["install", "adb", "--prefix", "."], 1, "holds no Caffe"),
    ],
)
def test_what_people_type_wrong(cli: Cli, adb: Path, arguments: list[str], code: int, text: str) -> None:
    done = cli("device", *arguments)
    assert done.code == code
    assert text in done.err
    assert done.err.count("\n") == 1
