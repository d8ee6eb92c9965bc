"""Temporary files lie in one folder, which goes with its process, sooner or later."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

import pytest

from deeprebirth_caffe.cli import scratch

DEAD = 2**22 + 1
"""More than any system counts to."""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(scratch, "_SECONDS", -1.0)
    return tmp_path


def test_temporary_files_lie_in_one_folder(base: Path) -> None:
    with scratch.scratch():
        [folder] = base.iterdir()
        assert tempfile.gettempdir() == str(folder) and folder.stat().st_mode & 0o777 == 0o700
        Path(tempfile.mkdtemp(), "left").touch()
    assert not list(base.iterdir()) and tempfile.gettempdir() == str(base)


def test_what_dead_processes_left_is_removed(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (f"rebirth-p{DEAD}-a", f"rebirth-p{os.getpid()}-b", "rebirth-time-c", f"rebirth-p{DEAD}-locked", "own"):
        (base / name / "more").mkdir(parents=True)
    (base / f"rebirth-p{DEAD}-file").touch()
    (base / f"rebirth-p{DEAD}-link").symlink_to(base / "own")
    handle = os.open(base / f"rebirth-p{DEAD}-locked", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    monkeypatch.setattr(scratch, "_SECONDS", 60.0)
    with scratch.scratch():
        assert (base / f"rebirth-p{DEAD}-a").is_dir()  # too young
    monkeypatch.setattr(scratch, "_SECONDS", -1.0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: 12345)
        scratch.sweep(base)
        assert (base / f"rebirth-p{DEAD}-a").is_dir()  # another user's
    scratch.sweep(base)
    assert sorted(one.name for one in base.iterdir()) == sorted(
        [
            f"rebirth-p{os.getpid()}-b",
            "rebirth-time-c",
            f"rebirth-p{DEAD}-locked",
            "own",
            f"rebirth-p{DEAD}-file",
            f"rebirth-p{DEAD}-link",
        ]
    )
    assert (base / "own" / "more").is_dir()
    os.close(handle)
    scratch.sweep(base)
    assert not (base / f"rebirth-p{DEAD}-locked").exists()


def test_no_place_for_temporary_files_is_no_failure(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(base / "none"))
    with scratch.scratch():
        assert tempfile.tempdir == str(base / "none")
