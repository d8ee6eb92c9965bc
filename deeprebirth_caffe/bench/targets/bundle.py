"""The files of a Caffe for a device: the program, its libraries, and maybe its loader.

A directory of `rebirth caffe install` holds 650 MB. The `caffe` program and its libraries are a quarter of that, and
start anywhere with the C library's loader from the same directory. A program that was built for the device brings its
own libraries, and finds the rest (`libc.so`, `liblog.so` …) there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.bench.targets.elf import read_elf
from deeprebirth_caffe.engines.caffe.arch import ARCHES
from deeprebirth_caffe.engines.caffe.locate import find_caffe
from deeprebirth_caffe.errors import RebirthError, spelled_command

PROGRAM = "bin/caffe"

_TRIPLES = {arch.debian: arch.triple for arch in ARCHES}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")


@dataclass(frozen=True)
class Bundle:
    """A Caffe as files.

    Attributes:
        machine: its processor (see `elf.MACHINES`).
        files: the files for the device: by name below the directory of the installation, the file here.
        loader: the file of `files` that starts the program; None if the device's own does.
        missing: libraries that the device itself must have.
        source: its origin, for people.
    """

    machine: str
    files: dict[str, Path]
    loader: str | None
    missing: tuple[str, ...]
    source: str

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(path.stat().st_size for path in self.files.values())


def from_prefix(prefix: Path) -> Bundle:
    """The `caffe` program of a directory of `rebirth caffe install`, with its libraries.

    Raises:
        RebirthError: it is no such directory, or a library is missing.
    """
    triple = _TRIPLES.get(find_caffe(prefix).arch or "")
    if triple is None:
        hint = spelled_command("caffe", "install", "--arch", "arm64", "--prefix", prefix)
        raise RebirthError(f"{prefix} holds no Caffe of rebirth: run `{hint}`")
    libraries = prefix / "usr/lib" / triple
    # The order of the wrapper bin/caffe: OpenBLAS before the reference BLAS.
    places = [
        prefix / "usr/lib",
        libraries / "openblas-pthread",
        libraries,
        prefix / "lib" / triple,
        libraries / "blas",
        libraries / "lapack",
    ]
    program = prefix / "usr/bin/caffe"
    bundle = _collect(program, lambda name: _first(places, name), str(prefix))
    if bundle.missing:
        raise RebirthError(f"{prefix} is incomplete: it lacks {', '.join(bundle.missing)}; install it anew")
    interpreter = read_elf(program).interpreter
    if interpreter is None:
        raise RebirthError(f"{program} asks for no loader: install it anew")
    loader = f"lib/{Path(interpreter).name}"
    file = _first(places, Path(interpreter).name)
    if file is None:
        raise RebirthError(f"{prefix} is incomplete: it lacks {Path(interpreter).name}; install it anew")
    return Bundle(bundle.machine, {**bundle.files, loader: file}, loader, (), bundle.source)


def from_binary(binary: Path, libraries: Path | None) -> Bundle:
    """A program built for the device, and its libraries from a directory.

    Raises:
        RebirthError: it is no program, or a library is for another processor.
    """
    places = [] if libraries is None else [libraries]
    return _collect(binary, lambda name: _first(places, name), str(binary))


def _collect(program: Path, find: Callable[[str], Path | None], source: str) -> Bundle:
    machine = read_elf(program).machine
    files: dict[str, Path] = {PROGRAM: program}
    missing: dict[str, None] = {}
    todo = [program]
    while todo:
        user = todo.pop()
        for name in read_elf(user).needed:
            # The name becomes a path on the device.
            if not _NAME.fullmatch(name):
                raise RebirthError(f"{user} links a library with an odd name: {name!r}")
            if f"lib/{name}" in files or name in missing:
                continue
            file = find(name)
            if file is None:
                missing[name] = None
                continue
            given = read_elf(file).machine
            if given != machine:
                raise RebirthError(f"{file} is for {given}, but {program} for {machine}: give libraries that fit")
            files[f"lib/{name}"] = file
            todo.append(file)
    return Bundle(machine, files, None, tuple(missing), source)


def _first(places: list[Path], name: str) -> Path | None:
    return next((place / name for place in places if (place / name).is_file()), None)
