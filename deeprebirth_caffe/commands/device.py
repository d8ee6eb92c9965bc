"""`rebirth device`: which devices there are, what they are, and the Caffe on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.bench import machine
from deeprebirth_caffe.bench.machine import State
from deeprebirth_caffe.bench.targets.adb import devices
from deeprebirth_caffe.bench.targets.bundle import from_binary, from_prefix
from deeprebirth_caffe.bench.targets.facts import DeviceFacts, about, describe, read_files
from deeprebirth_caffe.bench.targets.install import Installed, Report, install, installed, remove
from deeprebirth_caffe.bench.targets.links import link
from deeprebirth_caffe.bench.targets.shell import Shell
from deeprebirth_caffe.engines.caffe.arch import ARCHES
from deeprebirth_caffe.engines.caffe.locate import default_prefix
from deeprebirth_caffe.errors import RebirthError, UsageError, spelled_command
from deeprebirth_caffe.results import Result


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A device.

    Attributes:
        name: what `--on` and `rebirth device` take.
        state: `device` where it can be used; else adb's word: `offline`, `unauthorized` ….
        model: its name.
    """

    name: str
    state: str
    model: str | None


@dataclass(frozen=True, kw_only=True)
class Devices(Result):
    """What `rebirth device list` found.

    Attributes:
        devices: what adb sees.
    """

    devices: Sequence[Seen]


@dataclass(frozen=True, kw_only=True)
class DeviceInfo(Result):
    """What `rebirth device info` tells.

    Attributes:
        name: what `--on` takes.
        machine: what it is.
        state: how it is doing now.
        caffe: the Caffe that `rebirth device install` put there.
    """

    name: str
    machine: DeviceFacts
    state: State
    caffe: Installed | None


def list_devices() -> Devices:
    """The devices that adb sees."""
    found = [Seen(name=f"adb:{one.serial}", state=one.state, model=one.model or None) for one in devices()]
    return Devices(devices=found)


def device_info(where: str) -> DeviceInfo:
    """What a device is, how it is doing, and the Caffe on it.

    Args:
        where: "adb[:SERIAL]" or "ssh:[USER@]HOST[:PORT]".
    """
    with _open(where) as shell:
        there = installed(shell)
        state = machine.state(read_files(shell, machine.STATE))
        return DeviceInfo(name=shell.name, machine=describe(shell), state=state, caffe=there)


def install_caffe(
    where: str,
    *,
    prefix: Path | None = None,
    binary: Path | None = None,
    libraries: Path | None = None,
    emulate: bool = False,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[str, Report]:
    """Puts Caffe on a device; gives the device's name and what was done.

    Args:
        where: as for `device_info`.
        prefix: a directory of `rebirth caffe install`; None takes the one that it installs by default for the
            device's processor.
        binary: instead of it, a `caffe` built for the device.
        libraries: a directory with the libraries of `binary`.
        emulate: whether an emulator on the device may run it, where it is for another processor.
        tick: called with bytes sent so far and in all.
    """
    if binary is None and libraries is not None:
        raise UsageError("--libs goes with --binary")
    if binary is not None and prefix is not None:
        raise UsageError("--prefix and --binary are two ways to name a Caffe: give one")
    with _open(where) as shell:
        if binary is not None:
            bundle = from_binary(binary, libraries)
        else:
            bundle = from_prefix(prefix or usual_prefix(about(shell).machines))
        return shell.name, install(shell, bundle, emulate=emulate, tick=tick)


def remove_caffe(where: str) -> tuple[str, bool]:
    """Takes away all that was put on a device; gives its name, and whether there was anything."""
    with _open(where) as shell:
        return shell.name, remove(shell)


def usual_prefix(machines: Sequence[str]) -> Path:
    """Gives the directory of `rebirth caffe install` for a device.

    Args:
        machines: the processors that it runs programs for (see `elf.MACHINES`), best first.

    Raises:
        RebirthError: there is none for any of them; the message says what to install.
    """
    arches = [arch.debian for machine in machines for arch in ARCHES if arch.machine == machine] or ["arm64"]
    prefixes = [default_prefix(arch) for arch in arches]
    for prefix in prefixes:
        if prefix.is_dir():
            return prefix
    hint = spelled_command("caffe", "install", "--arch", arches[0])
    raise RebirthError(
        f"no Caffe for {arches[0]} in {prefixes[0]}: run `{hint}`, or name another with --prefix or --binary"
    )


@contextmanager
def _open(where: str) -> Iterator[Shell]:
    transport = link(where)()
    try:
        yield Shell(transport)
    finally:
        transport.close()
