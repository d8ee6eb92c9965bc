"""Files and directories that appear whole or not at all."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from deeprebirth_caffe.errors import RebirthError, UsageError
from deeprebirth_caffe.formats import files
from deeprebirth_caffe.formats.files import (
    atomic_file,
    atomic_write,
    check_directory,
    open_regular,
    publish_directory,
    read_regular,
    read_regular_text,
)


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def names(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir())


def fails(error: BaseException) -> Callable[[BinaryIO], None]:
    def write(file: BinaryIO) -> None:
        file.write(b"half")
        raise error

    return write


def test_atomic_write(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    atomic_write(path, "é\udcff")
    assert path.read_bytes() == b"\xc3\xa9\xff"
    path.chmod(0o640)
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640
    (tmp_path / "link").symlink_to(path)
    atomic_write(tmp_path / "link", lambda file: file.write(b"through"))
    assert path.read_bytes() == b"through"
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path) == ["a.txt", "link"]


def test_permissions_are_the_users_own(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        atomic_write(tmp_path / "a", b"")
        publish_directory({"b": b""}, tmp_path / "d")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "d" / "b").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("x")])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    with pytest.raises(type(error)), atomic_file(path) as file:
        file.write(b"half")
        raise error
    assert tree(tmp_path) == {"a.txt": b"old"}


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(RebirthError, match=r"none.*: cannot write it: No such file or directory"):
        atomic_write(tmp_path / "none" / "a", b"")
    with pytest.raises(RebirthError, match="cannot write it: this is a directory, not a file"):
        atomic_write(tmp_path, b"")


def test_a_new_directory(tmp_path: Path) -> None:
    target = tmp_path / "x" / "y"
    publish_directory({"a": b"1", "sub/b": "two", "c": lambda file: file.write(b"3")}, target)
    assert tree(target) == {"a": b"1", "sub/b": b"two", "c": b"3"}
    assert names(tmp_path / "x") == ["y"]


def test_an_empty_directory_is_filled(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "d")
    publish_directory({"a": b"1"}, tmp_path / "link")
    assert tree(tmp_path / "d") == {"a": b"1"}
    assert names(tmp_path / "d") == ["a"]


def test_a_full_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".hidden").write_bytes(b"")
    for refuse in (check_directory, lambda path: publish_directory({"a": b"1"}, path)):
        with pytest.raises(RebirthError, match="this directory is not empty; choose another or add --force") as info:
            refuse(tmp_path)
        assert info.value.exit_code == 1
    assert tree(tmp_path) == {".hidden": b""}
    check_directory(tmp_path, force=True)
    check_directory(tmp_path / "none")
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    for name, reason in (("file", "not a directory"), ("broken", "leads nowhere")):
        with pytest.raises(RebirthError, match=reason):
            check_directory(tmp_path / name, force=True)


def test_force_replaces_and_keeps_what_is_not_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "mine").write_bytes(b"mine")
    publish_directory({"a": b"new", "s/b": b"2"}, tmp_path, force=True)
    assert tree(tmp_path) == {"a": b"new", "mine": b"mine", "s/b": b"2"}


@pytest.mark.parametrize("name", ["", "/etc/x", "../x", "a/../../x", "."])
def test_names_stay_inside(tmp_path: Path, name: str) -> None:
    with pytest.raises(RebirthError, match="not a name inside"):
        publish_directory({name: b""}, tmp_path / "d")
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RebirthError("x")])
def test_a_failure_leaves_nothing_behind(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        publish_directory({"a": b"1", "b": fails(error)}, tmp_path / "x" / "y" / "z")
    assert names(tmp_path) == []
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(type(error)):
        publish_directory({"a": b"1", "b": fails(error)}, tmp_path, force=True)
    assert tree(tmp_path) == {"a": b"old"}
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("links", [True, False])
def test_a_failed_move_is_taken_back(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "keep").write_bytes(b"")
    if not links:
        monkeypatch.setattr(files.os, "link", lambda *a, **k: (_ for _ in ()).throw(OSError("no links")))
    with pytest.raises(RebirthError, match="z: cannot write it: a directory has this name"):
        publish_directory({"a": b"new", "s/t/b": b"new", "z": b"new"}, tmp_path, force=True)
    assert tree(tmp_path) == {"a": b"old", "z/keep": b""}
    assert names(tmp_path) == ["a", "z"]


@pytest.fixture
def special(tmp_path: Path) -> dict[str, Path]:
    """Things that are no files, by what errors call them."""
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    return {"a pipe": tmp_path / "pipe", "a socket": tmp_path / "socket", "a device": Path("/dev/zero")}


def test_only_files_are_read(tmp_path: Path, special: dict[str, Path]) -> None:
    for what, path in special.items():
        with pytest.raises(OSError) as raised:
            read_regular(path)
        if what != "a socket":  # the system itself does not open one
            assert raised.value.strerror == f"this is {what}, not a file; save it as a file"
    (tmp_path / "link").symlink_to(special["a pipe"])
    with pytest.raises(OSError, match="this is a pipe"):
        open_regular(tmp_path / "link")
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    (tmp_path / "text").write_bytes(b"a\r\nb\rc\xff")
    assert read_regular(tmp_path / "text") == b"a\r\nb\rc\xff"
    assert read_regular_text(tmp_path / "text") == "a\nb\nc\udcff"
    with open_regular(tmp_path / "text") as file:
        assert os.get_blocking(file.fileno())


def test_reading_has_a_limit_that_can_be_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(files.TEXT_LIMIT + 1)
    with pytest.raises(OSError, match="it has 268,435,457 bytes, and at most 268,435,456 are read"):
        read_regular(tmp_path / "large")
    with pytest.raises(OSError, match="it has 268,435,457 bytes, and at most 5 are read"):
        read_regular(tmp_path / "large", 5)
    monkeypatch.setenv("REBIRTH_MAX_FILE", "257")
    with open_regular(tmp_path / "large", files.text_limit()):
        pass
    monkeypatch.setenv("REBIRTH_MAX_FILE", "much")
    with pytest.raises(UsageError, match="REBIRTH_MAX_FILE is 'much'; set it to a whole number"):
        read_regular(tmp_path / "large")
    # What says no size of its own is not read without end either.
    monkeypatch.delenv("REBIRTH_MAX_FILE")
    with pytest.raises(OSError, match="at most 3 are read"):
        read_regular("/proc/self/environ" if Path("/proc/self/environ").exists() else tmp_path / "large", 3)


def test_only_files_are_replaced(tmp_path: Path, special: dict[str, Path]) -> None:
    for what, path in special.items():
        with pytest.raises(RebirthError, match=f"cannot write it: this is {what}, not a file"):
            atomic_write(path, b"new")
        assert not path.is_file()
        if path.parent == tmp_path:
            with pytest.raises(RebirthError, match=f"cannot write it: {what} has this name"):
                publish_directory({path.name: b"new"}, tmp_path, force=True)
            assert not path.is_file()
    assert names(tmp_path) == ["pipe", "socket"]


def test_streams_are_written_into(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    atomic_write(os.devnull, b"gone")
    assert not Path(os.devnull).is_file()
    atomic_write("/dev/stdout", b"\x00there")
    assert capfdbinary.readouterr().out == b"\x00there"


def test_what_was_private_stays_private(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.touch(0o600)
    with atomic_file(path) as file:
        [temporary] = [one for one in tmp_path.iterdir() if one != path]
        assert temporary.stat().st_mode & 0o777 == 0o600
        file.write(b"new")
    publish_directory({"a": b"newer"}, tmp_path, force=True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes() == b"newer"


def test_a_file_that_is_being_written_knows_its_name(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "new") as file:
        file.write(b"half")
        file.flush()
        assert Path(file.name).read_bytes() == b"half" and Path(file.name).parent == tmp_path
