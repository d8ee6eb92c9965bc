"""build_caffe_android.sh up to the first compiler: its arguments, and how it takes its sources."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "build_caffe_android.sh"
PARTS = ("caffe", "boost", "protobuf", "glog", "gflags", "openblas")


def run(*arguments: object) -> tuple[int, str]:
    """Gives the exit status and the last line on stderr."""
    done = subprocess.run(["bash", SCRIPT, *map(str, arguments)], text=True, capture_output=True, check=False)
    return done.returncode, (done.stderr.splitlines() or [""])[-1]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Gives an archive that holds one directory with one file."""
    (tmp_path / "CMakeLists.txt").write_text("project(x)\n")
    path = tmp_path / "gflags_2.2.2.orig.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tmp_path / "CMakeLists.txt", "gflags-2.2.2/CMakeLists.txt")
    return path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "OUT is missing"),
        (("out",), "name a toolchain, --ndk DIR or --zig FILE"),
        (("--ndk", "a", "--zig", "b", "out"), "exclude each other"),
        (("--ndk", "a", "--abi", "mips", "out"), "unknown ABI 'mips'"),
        (("--ndk", "a", "--api", "x", "out"), "--api wants a number"),
        (("--ndk", "a", "--blas-target", "a b", "out"), "--blas-target wants a name"),
        (("--ndk", "a", "-j", "0", "out"), "-j wants a number"),
        (("--ndk",), "--ndk needs a value"),
        (("--what", "out"), "unknown option --what"),
        (("a", "b"), "one OUT at most"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], words: str) -> None:
    status, said = run(*arguments)
    assert status == 2
    assert words in said


def test_help_names_every_option() -> None:
    done = subprocess.run(["bash", SCRIPT, "--help"], text=True, capture_output=True, check=True)
    for option in ("--ndk", "--zig", "--sources", "--source", "--abi", "--api", "--blas-target", "--host-protoc"):
        assert option in done.stdout


def test_a_missing_part_is_named(tmp_path: Path, archive: Path) -> None:
    status, said = run("--zig", "/bin/true", "--sources", tmp_path, tmp_path / "out")
    assert status == 1
    assert "holds no archive of caffe" in said
    assert not (tmp_path / "out/bin/caffe").exists()


def test_an_unknown_archive_is_refused_unless_it_is_named(tmp_path: Path, archive: Path) -> None:
    empty = tmp_path / "tree"
    empty.mkdir()
    others = [word for part in PARTS if part != "gflags" for word in ("--source", f"{part}={empty}")]
    status, said = run("--ndk", tmp_path / "ndk", "--sources", tmp_path, *others, tmp_path / "out")
    assert status == 1
    assert "is not the archive of gflags 2.2.2 that was tried" in said
    assert "--source gflags=PATH" in said
    status, said = run("--ndk", tmp_path / "ndk", *others, "--source", f"gflags={archive}", tmp_path / "out")
    assert status == 1
    assert "is no NDK" in said
    assert (tmp_path / "out/.build/sources/gflags/CMakeLists.txt").exists()
