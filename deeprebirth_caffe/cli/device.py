"""`rebirth device`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from deeprebirth_caffe.cli.help import Group
from deeprebirth_caffe.cli.reading import command as told
from deeprebirth_caffe.cli.streams import quiet
from deeprebirth_caffe.cli.text import print_json, printable
from deeprebirth_caffe.errors import spelled_command
from deeprebirth_caffe.options.device import DeviceOptions, InstallOptions, ListOptions

if TYPE_CHECKING:
    from deeprebirth_caffe.bench.targets.install import Installed
    from deeprebirth_caffe.commands.device import DeviceInfo


@click.group("device", cls=Group)
def command() -> None:
    """Phones and boards on which `rebirth time --on` runs nets (docs/devices.md).

    WHERE is adb, adb:SERIAL or ssh:[USER@]HOST[:PORT].
    """


@told("list", ListOptions, group=command)
def list_(options: ListOptions, as_json: bool) -> None:
    """List the devices that adb sees; boards are named as ssh names them."""
    from deeprebirth_caffe.commands.device import list_devices

    found = list_devices()
    if as_json:
        print_json(found)
        return
    if not found.devices:
        click.echo("no Android device: connect one, allow USB debugging, and look at `adb devices`", err=True)
        return
    from deeprebirth_caffe.cli.layout import print_columns

    print_columns([(one.name, one.state, one.model or "") for one in printable(found.devices)], left=3)


@told("info", DeviceOptions, group=command)
def info(options: DeviceOptions, as_json: bool) -> None:
    """Show a device's processor, frequencies, temperatures, free space, and the Caffe on it."""
    from deeprebirth_caffe.commands.device import device_info

    found = device_info(options.where)
    if as_json:
        print_json(found)
        return
    from deeprebirth_caffe.cli.layout import print_columns

    print_columns(list(_rows(printable(found))), left=2)


@told("install", InstallOptions, json=False, group=command)
def install(options: InstallOptions) -> None:
    """Put Caffe on a device, or bring it up to date: only files that changed are sent."""
    from deeprebirth_caffe.commands.device import install_caffe

    name, report = install_caffe(
        options.where,
        prefix=options.prefix,
        binary=options.binary,
        libraries=options.libraries,
        emulate=options.emulate,
        tick=_progress,
    )
    there = report.installed
    click.echo(
        printable(
            f"{name}: Caffe {there.version} ({there.machine}) in {there.directory}, {there.bytes / 1e6:.0f} MB; "
            f"{report.sent} files sent ({report.sent_bytes / 1e6:.0f} MB), {report.kept} were there"
        )
    )
    if there.emulator is not None:
        click.echo("an emulator runs it: its answers are right, its times mean nothing")


@told("remove", DeviceOptions, json=False, group=command)
def remove(options: DeviceOptions) -> None:
    """Take away everything that rebirth put on a device."""
    from deeprebirth_caffe.commands.device import remove_caffe

    name, found = remove_caffe(options.where)
    click.echo(printable(f"{name}: {'removed' if found else 'there was nothing'}"))


def _progress(done: int, total: int) -> None:
    if total and sys.stderr.isatty() and not quiet():
        click.echo(f"\rsent {done / 1e6:.0f} of {total / 1e6:.0f} MB", err=True, nl=done == total)


def _rows(found: DeviceInfo) -> list[tuple[str, str]]:
    machine, state, caffe = found.machine, found.state, found.caffe
    rows = [
        ("device", found.name),
        ("model", machine.model or ""),
        ("processor", machine.cpu or ""),
        ("abi", ", ".join(machine.abis)),
        ("cores", str(machine.cores or "")),
        *((f"  {one.max_mhz:.0f} MHz", f"--cpus {','.join(map(str, one.cpus))}") for one in machine.clusters),
        ("governor", ", ".join(machine.governors)),
        ("now", ", ".join(f"cpu{core} {mhz:.0f} MHz" for core, mhz in state.mhz.items())),
        ("temperatures", ", ".join(f"{name} {degrees:.1f}" for name, degrees in state.celsius.items())),
        ("memory", _size(machine.memory_bytes)),
        ("free", _size(machine.free_bytes)),
        ("directory", machine.directory),
        ("caffe", _caffe(found.name, caffe)),
    ]
    return [(what, value) for what, value in rows if value]


def _caffe(name: str, caffe: Installed | None) -> str:
    if caffe is None:
        return f"none: run `{spelled_command('device', 'install', name)}`"
    by = f", run by {caffe.emulator}: times mean nothing" if caffe.emulator else ""
    return f"{caffe.version} for {caffe.machine}{by}"


def _size(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:,.0f} MB"
