"""What the commands of `rebirth caffe` may be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.options.fields import option
from deeprebirth_caffe.options.kinds import FILE, FOLDER
from deeprebirth_caffe.options.shared import caffe_option, python_layers_option


@dataclass(frozen=True)
class InfoOptions:
    """What `rebirth caffe info` is told; see its help."""

    caffe: str | None = caffe_option()
    python_layers: bool = python_layers_option()


@dataclass(frozen=True)
class RemoveOptions:
    """What `rebirth caffe remove` is told; see its help."""

    prefix: Path | None = option(
        None,
        "--prefix",
        kind=FOLDER,
        help="Its directory. [default: $REBIRTH_CAFFE_PREFIX, else ~/.local/share/rebirth/caffe]",
    )
    arch: str | None = option(
        None, "--arch", help="amd64, arm64 or armhf; another than this machine's runs under qemu-user."
    )


@dataclass(frozen=True)
class InstallOptions(RemoveOptions):
    """What `rebirth caffe install` is told; see its help."""

    mirror: str | None = option(
        None, "--mirror", metavar="URL", help="A Debian mirror with bullseye. [default: as this machine's apt sources]"
    )
    keyring: Path | None = option(
        None, "--keyring", kind=FILE, help="The keys that sign it. [default: of debian-archive-keyring]"
    )
