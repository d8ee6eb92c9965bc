"""Scripts on a device: quoting, endings, errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from devices import Here

from deeprebirth_caffe.bench.targets.client import Reply
from deeprebirth_caffe.bench.targets.shell import DeviceError, DeviceLostError, Shell

NASTY = [
    "$(touch hacked)",
    "`touch hacked`",
    "; touch hacked",
    "a'b\"c",
    "-rf",
    "",
    "two\nlines",
    "*",
    "$HOME",
    "\\",
    "~",
]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(Here(tmp_path / "device"))


def test_arguments_arrive_as_they_are(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = shell.run('printf "%s\\0" "$@"', *NASTY)
    assert done.text.split("\0")[:-1] == NASTY
    assert not (tmp_path / "hacked").exists()


def test_noise_of_the_login_is_no_output(shell: Shell) -> None:
    assert isinstance(shell.link, Here)
    shell.link.noise = "echo welcome; echo begin-; "
    done = shell.run("echo answer; echo complaint >&2; exit 7")
    assert (done.rc, done.text, done.stderr) == (7, "answer\n", b"complaint\n")


def test_exactly_what_was_printed_comes_back(shell: Shell) -> None:
    assert shell.run("printf '\\na\\n\\nb\\n\\n'").stdout == b"\na\n\nb\n\n"


def test_a_script_that_does_not_end_is_a_lost_device(shell: Shell) -> None:
    with pytest.raises(DeviceLostError, match=r"here went away, could not think.*: connect it"):
        shell.run("kill -9 $$ $PPID", doing="think")


def test_a_script_that_takes_too_long(shell: Shell) -> None:
    with pytest.raises(DeviceLostError, match="did not answer within 1 s"):
        shell.run("sleep 30", timeout=1)


@pytest.mark.parametrize(
    "said, error, text",
    [
        ("cat: write error: No space left on device", DeviceError, "is full, cannot write: make room"),
        ("mkdir: '/x': Read-only file system", DeviceError, "not allowed to write"),
        ("adb: error: failed to copy 'a' to 'b': Permission denied\n0 files pushed", DeviceError, "Permission denied"),
        ("error: device '$(x)' not found", DeviceLostError, "went away"),
        ("mux_client_request_session: read from master failed: Broken pipe", DeviceLostError, "went away"),
        ("sh: nothing", DeviceError, "cannot write: sh: nothing"),
        ("", DeviceError, "no reason given"),
    ],
)
def test_what_a_device_complains_about(shell: Shell, said: str, error: type[DeviceError], text: str) -> None:
    found = shell.failure("write", said)
    assert type(found) is error
    assert text in str(found)
    assert "\n" not in str(found)


def test_a_file_that_does_not_come_leaves_none(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(remote: str, local: Path) -> Reply:
        local.write_text("half of it")
        return Reply(1, b"", b"error: closed")

    monkeypatch.setattr(shell.link, "pull", half)
    with pytest.raises(DeviceLostError):
        shell.pull("/x/log", tmp_path / "log")
    assert not (tmp_path / "log").exists()


def test_the_root_is_made_once(shell: Shell) -> None:
    assert isinstance(shell.link, Here)
    assert shell.root == str(shell.link.root)
    assert shell.link.root.is_dir()


def test_a_root_that_cannot_be_made(shell: Shell) -> None:
    assert isinstance(shell.link, Here)
    (shell.link.folder / "home").rmdir()
    (shell.link.folder / "home").write_text("in the way")
    with pytest.raises(DeviceError, match="cannot make a directory"):
        _ = shell.root
