"""ELF files, and the files that Caffe needs on a device."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from deeprebirth_caffe.bench.targets.bundle import from_binary, from_prefix
from deeprebirth_caffe.bench.targets.elf import read_elf
from deeprebirth_caffe.engines.caffe.locate import CaffeInstall
from deeprebirth_caffe.errors import RebirthError

AARCH64, ARM, X86_64 = 183, 40, 62


def elf(
    path: Path,
    machine: int = AARCH64,
    needed: tuple[str, ...] = (),
    soname: str = "",
    loader: str = "",
    wide: bool = True,
) -> Path:
    """Writes a small ELF file whose memory lies 0x10000 above its file."""
    strings = b"\0"
    entries = []
    for tag, name in [*((1, name) for name in needed), *([(14, soname)] if soname else [])]:
        entries.append((tag, len(strings)))
        strings += name.encode() + b"\0"
    head, segment = (64, 56) if wide else (52, 32)
    at = head + 3 * segment
    table, where = strings, at
    interpreter_at = where + len(table)
    interpreter = loader.encode() + b"\0"
    dynamic_at = interpreter_at + len(interpreter)
    form = "<qQ" if wide else "<iI"
    dynamic = b"".join(struct.pack(form, *entry) for entry in [*entries, (5, 0x10000 + where), (0, 0)])
    size = dynamic_at + len(dynamic)

    def program(kind: int, offset: int, length: int) -> bytes:
        address = 0x10000 + offset
        if wide:
            return struct.pack("<IIQQQQQQ", kind, 4, offset, address, address, length, length, 1)
        return struct.pack("<IIIIIIII", kind, offset, address, address, length, length, 4, 1)

    segments = [program(1, 0, size), program(2, dynamic_at, len(dynamic))]
    segments.append(program(3, interpreter_at, len(interpreter)) if loader else program(0, 0, 0))
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9)
    if wide:
        header = ident + struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, head, 0, 0, head, segment, 3, 0, 0, 0)
    else:
        header = ident + struct.pack("<HHIIIIIHHHHHH", 3, machine, 1, 0, head, 0, 0, head, segment, 3, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + b"".join(segments) + table + interpreter + dynamic)
    return path


@pytest.mark.parametrize("wide", [True, False])
def test_what_a_file_says(tmp_path: Path, wide: bool) -> None:
    path = elf(tmp_path / "f", ARM, ("liba.so.1", "libb.so"), "libf.so.2", "/lib/ld-linux.so.3", wide)
    found = read_elf(path)
    assert (found.machine, found.needed, found.soname) == ("arm", ("liba.so.1", "libb.so"), "libf.so.2")
    assert found.interpreter == "/lib/ld-linux.so.3"


def test_real_programs_are_read() -> None:
    import sys

    found = read_elf(Path(sys.executable).resolve())
    assert found.machine in ("x86_64", "aarch64", "arm", "i386")
    assert any(name.startswith("libc.so") for name in found.needed)


@pytest.mark.parametrize("cut", [0, 3, 10, 19, 40, 70, 100, 240, 260])
def test_damaged_files_are_refused_in_words(tmp_path: Path, cut: int) -> None:
    whole = elf(tmp_path / "f", needed=("liba.so.1",), loader="/lib/ld.so").read_bytes()
    path = tmp_path / "cut"
    path.write_bytes(whole[:cut])
    with pytest.raises(RebirthError, match="cut: "):
        read_elf(path)


def test_scripts_are_no_programs(tmp_path: Path) -> None:
    (tmp_path / "caffe").write_text("#!/bin/sh\n")
    with pytest.raises(RebirthError, match="no program or library"):
        from_binary(tmp_path / "caffe", None)


def test_libraries_are_found_through_libraries(tmp_path: Path) -> None:
    libs = tmp_path / "libs"
    program = elf(tmp_path / "caffe", needed=("liba.so", "libc.so"))
    elf(libs / "liba.so", needed=("libb.so", "liba.so"))
    elf(libs / "libb.so", needed=("liblog.so",))
    elf(libs / "libunused.so")
    bundle = from_binary(program, libs)
    assert sorted(bundle.files) == ["bin/caffe", "lib/liba.so", "lib/libb.so"]
    assert sorted(bundle.missing) == ["libc.so", "liblog.so"]
    assert (bundle.machine, bundle.loader) == ("aarch64", None)


def test_a_library_for_another_processor_is_refused(tmp_path: Path) -> None:
    program = elf(tmp_path / "caffe", needed=("liba.so",))
    elf(tmp_path / "libs/liba.so", ARM)
    with pytest.raises(RebirthError, match=r"liba.so is for arm, but .*caffe for aarch64"):
        from_binary(program, tmp_path / "libs")


@pytest.mark.parametrize("name", ["../../x.so", "$(reboot).so", "-rf", "a b.so", ""])
def test_library_names_are_plain(tmp_path: Path, name: str) -> None:
    with pytest.raises(RebirthError, match="odd name"):
        from_binary(elf(tmp_path / "caffe", needed=(name,)), tmp_path)


def prefix(folder: Path, *, libc: bool = True) -> Path:
    triple = "aarch64-linux-gnu"
    loader = "/lib/ld-linux-aarch64.so.1"
    elf(folder / "usr/bin/caffe", needed=("libblas.so.3", "libc.so.6"), loader=loader)
    elf(folder / "usr/lib" / triple / "openblas-pthread/libblas.so.3")
    elf(folder / "usr/lib" / triple / "blas/libblas.so.3", needed=("libnever.so",))
    if libc:
        elf(folder / "lib" / triple / "libc.so.6", needed=("ld-linux-aarch64.so.1",))
    elf(folder / "lib" / triple / "ld-linux-aarch64.so.1")
    (folder / "bin").mkdir()
    (folder / ".rebirth-caffe").write_text("arch=arm64\ncaffe=1.0\n")
    return folder


def test_a_prefix_is_trimmed_to_what_caffe_links(tmp_path: Path) -> None:
    bundle = from_prefix(prefix(tmp_path / "p"))
    assert sorted(bundle.files) == ["bin/caffe", "lib/ld-linux-aarch64.so.1", "lib/libblas.so.3", "lib/libc.so.6"]
    assert bundle.loader == "lib/ld-linux-aarch64.so.1"
    assert "openblas" in str(bundle.files["lib/libblas.so.3"])
    assert bundle.bytes == sum(path.stat().st_size for path in bundle.files.values())


def test_an_incomplete_prefix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RebirthError, match=r"incomplete: it lacks libc.so.6"):
        from_prefix(prefix(tmp_path / "p", libc=False))


def test_a_folder_that_is_no_prefix_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    elf(tmp_path / "bin/caffe").chmod(0o755)
    with pytest.raises(RebirthError, match=r"no Caffe of rebirth"):
        from_prefix(tmp_path)


def test_a_real_prefix_shrinks(caffe_install: CaffeInstall) -> None:
    if caffe_install.prefix is None:
        pytest.skip("this Caffe was not installed by rebirth")
    bundle = from_prefix(caffe_install.prefix)
    assert bundle.loader in bundle.files
    assert any(name.startswith("lib/libcaffe.so") for name in bundle.files)
    whole = sum(p.stat().st_size for p in caffe_install.prefix.rglob("*") if p.is_file() and not p.is_symlink())
    assert bundle.bytes < whole / 2
