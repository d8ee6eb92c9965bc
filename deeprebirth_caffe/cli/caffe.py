"""`rebirth caffe`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from deeprebirth_caffe.cli.help import Group
from deeprebirth_caffe.cli.reading import command as told
from deeprebirth_caffe.cli.text import print_json, printable
from deeprebirth_caffe.options.caffe import InfoOptions, InstallOptions, RemoveOptions

if TYPE_CHECKING:
    from deeprebirth_caffe.commands.caffe import CaffeFacts

DOWNLOAD = 165e6
"""Bytes that an installation downloads, about."""


@click.group("caffe", cls=Group)
def command() -> None:
    """Install real Caffe 1.0 for this user, say which one is used, remove it (docs/caffe.md)."""


@told("install", InstallOptions, group=command)
def install(options: InstallOptions, as_json: bool) -> None:
    """Install Debian's build of Caffe 1.0 without root: 165 MB to download, 650 MB of disk.

    It needs apt-get and dpkg-deb and changes nothing on the system. If it was interrupted, the same command goes on.
    """
    from deeprebirth_caffe.commands.caffe import install_caffe

    shown = _Shown()
    try:
        facts = install_caffe(options, shown.say, shown.tick)
    except (KeyboardInterrupt, SystemExit) as stop:  # Ctrl-C; `kill`, of which main makes an exit
        shown.say("interrupted; the same command goes on where it was")
        raise SystemExit(stop.code if isinstance(stop, SystemExit) else 130) from None
    finally:
        shown.end_line()
    if as_json:
        print_json(facts)
    else:
        click.echo(printable(f"Caffe {facts.package} ({facts.arch}) is in {facts.prefix}"))


@told("info", InfoOptions, group=command)
def info(options: InfoOptions, as_json: bool) -> None:
    """Say which Caffe is used, where it was found, and what it computes with."""
    from deeprebirth_caffe.commands.caffe import caffe_info

    facts = caffe_info(options.caffe)
    if as_json:
        print_json(facts)
        return
    from deeprebirth_caffe.cli.layout import print_columns

    print_columns([(name, str(value)) for name, value in printable(_rows(facts)).items() if value is not None], left=2)


@told("remove", RemoveOptions, json=False, group=command)
def remove(options: RemoveOptions) -> None:
    """Remove a Caffe that `rebirth caffe install` made; nothing else is touched."""
    from deeprebirth_caffe.commands.caffe import remove_caffe

    prefix, was_there = remove_caffe(options)
    click.echo(printable(f"{prefix}: {'removed' if was_there else 'there was nothing'}"))


class _Shown:
    """Shows an installation on stderr: its lines and, on a terminal, how much is downloaded."""

    def __init__(self) -> None:
        self._open = False
        self._terminal = sys.stderr.isatty()

    def say(self, line: str) -> None:
        """One line."""
        self.end_line()
        click.echo(printable(line), err=True)

    def tick(self, done: int) -> None:
        """How many bytes are downloaded; the same line again and again."""
        if done and self._terminal:
            click.echo(f"\r{min(done, DOWNLOAD) / 1e6:.0f} of {DOWNLOAD / 1e6:.0f} MB", err=True, nl=False)
            self._open = True

    def end_line(self) -> None:
        """Goes to a new line."""
        if self._open:
            click.echo(err=True)
        self._open = False


def _rows(facts: CaffeFacts) -> dict[str, object]:
    kernels = None if facts.blas is None else f"{facts.blas}, kernels {facts.core}" if facts.core else facts.blas
    return {
        "found by": facts.where,
        "directory": facts.prefix,
        "program": facts.binary,
        "python": f"{facts.python} (Python {facts.python_version})" if facts.python_version else facts.python,
        "version": facts.caffe,
        "package": facts.package,
        "architecture": facts.arch,
        "matrix library": kernels,
        "layer types": facts.layer_types,
    }
