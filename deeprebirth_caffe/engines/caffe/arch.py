"""The processors for which Debian 11 has Caffe, and their names elsewhere."""

from __future__ import annotations

import platform
from dataclasses import dataclass


@dataclass(frozen=True)
class Arch:
    """A processor.

    Attributes:
        debian: Debian's name, which `rebirth caffe install --arch` takes.
        triple: the folder of its libraries below `lib` and `usr/lib`.
        machine: the name in `bench.targets.elf.MACHINES`.
        uname: what `uname -m` prints on such a machine.
    """

    debian: str
    triple: str
    machine: str
    uname: tuple[str, ...]


ARCHES = (
    Arch("amd64", "x86_64-linux-gnu", "x86_64", ("x86_64", "amd64")),
    Arch("arm64", "aarch64-linux-gnu", "aarch64", ("aarch64", "arm64")),
    Arch("armhf", "arm-linux-gnueabihf", "arm", ("armv7l", "armv8l")),
)


def own_arch() -> str:
    """Gives Debian's name of this machine's processor, or its own name where Debian 11 has no Caffe for it."""
    name = platform.machine()
    return next((arch.debian for arch in ARCHES if name in arch.uname), name)
