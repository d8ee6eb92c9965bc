"""Reads the processor and the libraries of a program or library (ELF)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import read_regular

MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64"}
"""The processors of devices, by their number in the file."""

_LOAD, _DYNAMIC, _INTERPRETER = 1, 2, 3
_NEEDED, _STRINGS, _SONAME = 1, 5, 14


@dataclass(frozen=True)
class Elf:
    """The facts of an ELF file.

    Attributes:
        machine: one of MACHINES' names, or "machine N".
        interpreter: the loader of a dynamic program; None for libraries and static programs.
        needed: names of the linked libraries, in order.
        soname: the library's own name, or None.
    """

    machine: str
    interpreter: str | None
    needed: tuple[str, ...]
    soname: str | None


def read_elf(path: Path) -> Elf:
    """Reads a program or library.

    Raises:
        RebirthError: it is no ELF file, not for a little-endian processor, or damaged.
    """
    data = read_regular(path)
    if data[:4] != b"\x7fELF":
        raise RebirthError(f"{path}: no program or library (not an ELF file)")
    if len(data) < 20 or data[4] not in (1, 2) or data[5] != 1:
        raise RebirthError(f"{path}: no program for a little-endian processor")
    try:
        return _read(data, wide=data[4] == 2)
    except (struct.error, IndexError, ValueError) as error:
        raise RebirthError(f"{path}: damaged ELF file ({error})") from None


def _read(data: bytes, *, wide: bool) -> Elf:
    machine = struct.unpack_from("<H", data, 18)[0]
    start = struct.unpack_from("<Q", data, 32)[0] if wide else struct.unpack_from("<I", data, 28)[0]
    size, count = struct.unpack_from("<HH", data, 54 if wide else 42)
    segments = []
    for index in range(count):
        at = start + index * size
        if wide:
            kind, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", data, at)
        else:
            kind, offset, address, _, length = struct.unpack_from("<IIIII", data, at)
        segments.append((kind, offset, address, length))
    interpreter = None
    entries: list[tuple[int, int]] = []
    for kind, offset, _, length in segments:
        if kind == _INTERPRETER:
            interpreter = _text(data, offset)
        elif kind == _DYNAMIC:
            form = "<qQ" if wide else "<iI"
            step = struct.calcsize(form)
            entries = [struct.unpack_from(form, data, offset + at) for at in range(0, length - step + 1, step)]
    strings = 0
    for tag, address in entries:
        if tag == _STRINGS:
            strings = _offset(segments, address)
    needed = tuple(_text(data, strings + value) for tag, value in entries if tag == _NEEDED)
    sonames = [_text(data, strings + value) for tag, value in entries if tag == _SONAME]
    name = MACHINES.get(machine, f"machine {machine}")
    return Elf(name, interpreter, needed, sonames[0] if sonames else None)


def _offset(segments: list[tuple[int, int, int, int]], address: int) -> int:
    """The offset in the file of an address in memory."""
    for kind, offset, start, length in segments:
        if kind == _LOAD and start <= address < start + length:
            return offset + address - start
    raise ValueError("the string table lies nowhere")


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode("utf-8", "surrogateescape")
