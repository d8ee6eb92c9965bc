"""Caffe goes to a device, is brought up to date, and goes away."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from devices import Here, false_caffe

from deeprebirth_caffe.bench.targets.bundle import Bundle
from deeprebirth_caffe.bench.targets.client import Reply
from deeprebirth_caffe.bench.targets.install import install, installed, remove
from deeprebirth_caffe.bench.targets.shell import DeviceError, DeviceLostError, Shell


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path / "device")


@pytest.fixture
def shell(here: Here) -> Shell:
    return Shell(here)


@pytest.fixture
def bundle(tmp_path: Path, shell: Shell) -> Bundle:
    return false_caffe(tmp_path / "caffe", shell)


def sent(here: Here) -> list[str]:
    """What of Caffe itself was sent since the last call."""
    found = [name for name in here.pushed if name == "caffe" or name.startswith("libpart")]
    here.pushed.clear()
    return found


def test_a_first_installation(here: Here, shell: Shell, bundle: Bundle) -> None:
    assert installed(shell) is None
    report = install(shell, bundle)
    assert (report.sent, report.kept, report.sent_bytes) == (3, 0, bundle.bytes)
    assert report.installed == installed(shell)
    assert report.installed.version == "1.0.0"
    assert sorted(p.name for p in here.root.iterdir()) == ["caffe"]
    subprocess.run(["sha256sum", "--quiet", "-c", "MANIFEST"], cwd=here.root / "caffe", check=True)
    done = shell.run('"$@"', *report.installed.words, "echo", "a b")
    assert done.text == "<a b>"


def test_only_what_changed_is_sent(here: Here, shell: Shell, bundle: Bundle) -> None:
    install(shell, bundle)
    sent(here)
    assert install(shell, bundle).kept == 3
    assert sent(here) == []
    bundle.files["lib/libpart1.so.1"].write_bytes(b"new")
    assert install(shell, bundle).sent == 1
    assert sent(here) == ["libpart1.so.1"]
    assert (here.root / "caffe/lib/libpart1.so.1").read_bytes() == b"new"
    subprocess.run(["sha256sum", "--quiet", "-c", "MANIFEST"], cwd=here.root / "caffe", check=True)


def test_a_file_that_was_damaged_there_is_sent_again(here: Here, shell: Shell, bundle: Bundle) -> None:
    install(shell, bundle)
    (here.root / "caffe/lib/libpart0.so.1").write_bytes(b"rotten")
    sent(here)
    install(shell, bundle)
    assert sent(here) == ["libpart0.so.1"]


def test_libraries_that_are_not_needed_any_more_go(here: Here, shell: Shell, bundle: Bundle) -> None:
    install(shell, bundle)
    del bundle.files["lib/libpart1.so.1"]
    install(shell, bundle)
    assert sorted(p.name for p in (here.root / "caffe/lib").iterdir()) == ["libpart0.so.1"]


def test_a_broken_link_leaves_the_old_one_and_the_next_try_goes_on(here: Here, shell: Shell, bundle: Bundle) -> None:
    first = install(shell, bundle).installed
    for number in (0, 1):
        bundle.files[f"lib/libpart{number}.so.1"].write_bytes(b"new" * 100)
    sent(here)

    def breaks(local: Path, remote: Path) -> Reply | None:
        if remote.name != "libpart1.so.1":
            return None
        remote.write_bytes(b"newn")
        return Reply(1, b"", b"adb: error: device 'x' not found")

    here.push_hook = breaks
    with pytest.raises(DeviceLostError, match="went away, cannot send libpart1"):
        install(shell, bundle)
    assert installed(shell) == first
    subprocess.run(["sha256sum", "--quiet", "-c", "MANIFEST"], cwd=here.root / "caffe", check=True)
    here.push_hook = lambda local, remote: None
    sent(here)
    report = install(shell, bundle)
    assert sent(here) == ["libpart1.so.1"]
    assert report.kept == 2
    assert (here.root / "caffe/lib/libpart1.so.1").read_bytes() == b"new" * 100


@pytest.mark.parametrize(
    "said, text",
    [("No space left on device", "is full"), ("Permission denied", "not allowed"), ("", "no reason given")],
)
def test_a_device_that_takes_no_files_keeps_the_old_one(
    here: Here, shell: Shell, bundle: Bundle, said: str, text: str
) -> None:
    first = install(shell, bundle).installed
    bundle.files["lib/libpart1.so.1"].write_bytes(b"new")
    here.push_hook = lambda local, remote: Reply(1, b"", said.encode()) if "libpart" in remote.name else None
    with pytest.raises(DeviceError, match=text):
        install(shell, bundle)
    assert installed(shell) == first
    assert sorted(p.name for p in here.root.iterdir()) == ["caffe"]


def test_what_arrives_damaged_is_not_installed(here: Here, shell: Shell, bundle: Bundle) -> None:
    def damages(local: Path, remote: Path) -> Reply | None:
        if remote.name != "libpart1.so.1":
            return None
        remote.write_bytes(b"damaged")
        return Reply(0, b"", b"")

    here.push_hook = damages
    with pytest.raises(DeviceError, match=r"1 files did not arrive whole \(lib/libpart1.so.1\)"):
        install(shell, bundle)
    assert list(here.root.iterdir()) == []


def test_one_that_does_not_start_is_not_installed(here: Here, shell: Shell, bundle: Bundle) -> None:
    first = install(shell, bundle).installed
    bundle.files["bin/caffe"].write_text('#!/bin/sh\necho "cannot find libsomething.so" >&2\nexit 127\n')
    with pytest.raises(DeviceError, match=r"does not start there: cannot find libsomething.so$"):
        install(shell, bundle)
    assert installed(shell) == first
    assert sorted(p.name for p in here.root.iterdir()) == ["caffe"]


def test_libraries_that_the_device_should_have_are_named(here: Here, shell: Shell, bundle: Bundle) -> None:
    bundle.files["bin/caffe"].write_text("#!/bin/sh\nexit 127\n")
    lacking = Bundle(bundle.machine, bundle.files, None, ("libgone.so",), "x")
    with pytest.raises(DeviceError, match=r"status 127 \(not among its files: libgone.so\)"):
        install(shell, lacking)


def test_the_wrong_processor(here: Here, shell: Shell, tmp_path: Path) -> None:
    here.program("getprop", 'case "$1" in *abilist) echo armeabi-v7a,armeabi ;; esac\n')
    with pytest.raises(DeviceError, match=r"here is armeabi-v7a/armeabi, this Caffe for i386: give one"):
        install(shell, false_caffe(tmp_path / "caffe", machine="i386"))
    assert list(here.root.iterdir()) == []


def test_an_emulator_has_to_be_asked_for(here: Here, shell: Shell, tmp_path: Path) -> None:
    here.program("getprop", "echo armeabi-v7a\n")
    here.program("qemu-aarch64-static", 'shift 2\nexec "$@"\n')
    bundle = false_caffe(tmp_path / "caffe", machine="aarch64")
    with pytest.raises(DeviceError, match="--emulate"):
        install(shell, bundle)
    found = install(shell, bundle, emulate=True).installed
    assert found.emulator == f"{here.folder}/bin/qemu-aarch64-static"
    assert found.words[0] == found.emulator


def test_a_device_without_room_is_told_before_anything_is_sent(here: Here, shell: Shell, bundle: Bundle) -> None:
    here.program("df", 'echo "Filesystem 1K-blocks Used Available Use% Mounted on"; echo "/dev/x 100 90 10 90% /"\n')
    with pytest.raises(DeviceError, match=r"here is full: 17 MB are needed in .*, 0 MB are free"):
        install(shell, bundle)
    assert here.pushed == []


def test_everything_goes_away(here: Here, shell: Shell, bundle: Bundle) -> None:
    install(shell, bundle)
    assert remove(shell) is True
    assert not here.root.exists()
    assert remove(Shell(here)) is False


def test_a_damaged_record_is_an_error_in_words(here: Here, shell: Shell, bundle: Bundle) -> None:
    install(shell, bundle)
    (here.root / "caffe/install.json").write_text('{"machine": 3}')
    with pytest.raises(DeviceError, match=r"install.json is damaged: run `rebirth device install` again"):
        installed(shell)
