"""What the commands of `rebirth device` may be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.options.fields import argument, option
from deeprebirth_caffe.options.kinds import FILE, THERE


@dataclass(frozen=True)
class ListOptions:
    """What `rebirth device list` is told: nothing."""


@dataclass(frozen=True)
class DeviceOptions:
    """What `rebirth device info` and `rebirth device remove` are told: which device."""

    where: str = argument("where")


@dataclass(frozen=True)
class InstallOptions(DeviceOptions):
    """What `rebirth device install` is told; see its help."""

    prefix: Path | None = option(
        None,
        "--prefix",
        kind=THERE,
        help="A directory of rebirth caffe install. [default: that for the device's processor]",
    )
    binary: Path | None = option(
        None, "--binary", kind=FILE, help="Instead: a caffe program built for the device (docs/android.md)."
    )
    libraries: Path | None = option(None, "--libs", kind=THERE, help="The libraries that go with --binary.")
    emulate: bool = option(False, "--emulate", help="Let an emulator on the device run a Caffe for another processor.")
