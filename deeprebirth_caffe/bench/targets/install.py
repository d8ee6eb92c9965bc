"""Installs a Caffe on a device, checks it, and removes it.

The files go to `caffe.new`, which replaces the old Caffe only when every checksum is right and the new Caffe has
started once. After a broken link the next try uses the files in `caffe.new`; files of the old Caffe are not sent again.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.bench.targets.bundle import PROGRAM, Bundle
from deeprebirth_caffe.bench.targets.facts import About, about
from deeprebirth_caffe.bench.targets.shell import DeviceError, DeviceLostError, Shell
from deeprebirth_caffe.formats.jsonfile import parse_json
from deeprebirth_caffe.results import to_json

FACTS = "install.json"
MANIFEST = "MANIFEST"
"""The checksums, as `sha256sum` writes them."""

_SPARE = 16 << 20
_SLOW = 600.0
"""The seconds that a slow device needs to read all files of an installation."""

_EMULATORS = {
    "aarch64": ("qemu-aarch64-static", "qemu-aarch64"),
    "arm": ("qemu-arm-static", "qemu-arm"),
    "x86_64": ("qemu-x86_64-static", "qemu-x86_64"),
}


@dataclass(frozen=True)
class Installed:
    """The Caffe on a device.

    Attributes:
        directory: on the device.
        machine: its processor.
        loader: the file that starts it; null if the device's own loader does.
        emulator: the device's program that runs it, if it is for another processor: its times mean nothing.
        source: its origin, for people.
        version: as Caffe says it.
        bytes: its size.
    """

    directory: str
    machine: str
    loader: str | None
    emulator: str | None
    source: str
    version: str
    bytes: int

    @property
    def words(self) -> list[str]:
        """The command that starts it, without arguments."""
        libraries, program = f"{self.directory}/lib", f"{self.directory}/{PROGRAM}"
        if self.loader is None:
            start = ["env", f"LD_LIBRARY_PATH={libraries}", program]
        else:
            start = [f"{self.directory}/{self.loader}", "--inhibit-cache", "--library-path", libraries, program]
        return start if self.emulator is None else [self.emulator, *start]


@dataclass(frozen=True)
class Report:
    """The result of an installation.

    Attributes:
        installed: the new Caffe.
        sent: how many files were sent.
        sent_bytes: their size.
        kept: how many files the device already had.
    """

    installed: Installed
    sent: int
    sent_bytes: int
    kept: int


_HASHES = """
cd "$1" && for top in caffe caffe.new; do
    if [ -d "$top" ]; then find "$top" -type f -exec sha256sum {} +; fi
done
"""

_STAGE = """
cd "$1" && mkdir -p caffe.new/bin caffe.new/lib caffe.new/.list || exit
"""

_SORT = """
cd "$1" || exit
while read -r name; do rm -f "caffe.new/$name" || exit; done <caffe.new/.list/drop
while read -r name; do
    ln "caffe/$name" "caffe.new/$name" 2>/dev/null || cp "caffe/$name" "caffe.new/$name" || exit
done <caffe.new/.list/keep
"""

_FINISH = """
cd "$1/caffe.new" || exit
rm -rf .list
chmod 755 bin lib bin/* || exit
chmod 644 lib/* 2>/dev/null
if [ -n "$2" ]; then chmod 755 "$2"; fi
"""

_SWITCH = """
cd "$1" || exit
rm -rf caffe.old
if [ -d caffe ]; then mv caffe caffe.old || exit; fi
mv caffe.new caffe || { rc=$?; if [ -d caffe.old ]; then mv caffe.old caffe; fi; exit "$rc"; }
rm -rf caffe.old
"""

_REMOVE = """
cd "$1" || exit
for entry in caffe caffe.new caffe.old runs; do rm -rf "$entry" || exit; done
cd / && rmdir "$1" 2>/dev/null
exit 0
"""


def installed(shell: Shell) -> Installed | None:
    """The Caffe on the device, or None."""
    directory = f"{shell.root}/caffe"
    done = shell.run('cat "$1"', f"{directory}/{FACTS}")
    if done.rc:
        return None
    try:
        facts = parse_json(done.stdout)
        return Installed(
            directory=directory,
            machine=str(facts["machine"]),
            loader=None if facts["loader"] is None else str(facts["loader"]),
            emulator=None if facts["emulator"] is None else str(facts["emulator"]),
            source=str(facts["source"]),
            version=str(facts["version"]),
            bytes=int(facts["bytes"]),
        )
    except (ValueError, KeyError, TypeError):
        raise DeviceError(f"{shell.name}: {directory}/{FACTS} is damaged: run `rebirth device install` again") from None


def install(
    shell: Shell, bundle: Bundle, *, emulate: bool = False, tick: Callable[[int, int], None] = lambda done, total: None
) -> Report:
    """Installs a Caffe, or updates the present one.

    Args:
        shell: of the device.
        bundle: the files.
        emulate: whether an emulator on the device may run it.
        tick: called with the bytes sent so far and in all.

    Raises:
        DeviceError: it is for another processor, does not fit, or does not start; then the old one stays.
    """
    facts = about(shell)
    emulator = _fits(shell, bundle, facts, emulate)
    there = _hashes(shell)
    wanted = {name: _digest(path) for name, path in bundle.files.items()}
    todo = [
        name
        for name, digest in wanted.items()
        if digest not in (there.get(f"caffe.new/{name}"), there.get(f"caffe/{name}"))
    ]
    total = sum(bundle.files[name].stat().st_size for name in todo)
    free = facts.free_bytes
    if free is not None and free < total + _SPARE:
        needed = f"{_megabytes(total + _SPARE)} are needed in {shell.root}, {_megabytes(free)} are free"
        raise DeviceError(f"{shell.name} is full: {needed}")
    try:
        _send(shell, bundle, wanted, there, todo, tick)
        result = _finish(shell, bundle, wanted, emulator)
    except DeviceLostError:
        raise  # the next try uses the files that arrived
    except DeviceError:
        shell.run('rm -rf "$1"', f"{shell.root}/caffe.new")
        raise
    return Report(result, len(todo), total, len(wanted) - len(todo))


def remove(shell: Shell) -> bool:
    """Removes all our files from the device; returns whether there were any."""
    root = shell.root
    listing = shell.run('ls "$1/caffe" "$1/caffe.new"', root)
    shell.check("remove Caffe", _REMOVE, root)
    return bool(listing.stdout.strip())


def _fits(shell: Shell, bundle: Bundle, facts: About, emulate: bool) -> str | None:
    """The emulator that must run it, if any; raises if it cannot run on the device."""
    if bundle.machine in facts.machines:
        return None
    differ = f"{shell.name} is {'/'.join(facts.abis) or 'of an unknown kind'}, this Caffe for {bundle.machine}"
    for name in _EMULATORS.get(bundle.machine, ()):
        result = shell.run('command -v "$1"', name)
        if result.rc == 0:
            if emulate:
                return result.text.strip()
            raise DeviceError(f"{differ}: {name} there runs it with --emulate, but its times mean nothing")
    raise DeviceError(f"{differ}: give one that was built for it")


def _send(
    shell: Shell,
    bundle: Bundle,
    wanted: Mapping[str, str],
    there: Mapping[str, str],
    todo: list[str],
    tick: Callable[[int, int], None],
) -> None:
    root = shell.root
    # Wrong files are removed, not overwritten: they may be links to files of the old installation.
    drop = [name for name in _under(there, "caffe.new/") if there[f"caffe.new/{name}"] != wanted.get(name)]
    keep = [name for name in wanted if name not in todo and there.get(f"caffe.new/{name}") != wanted[name]]
    shell.check("make a directory", _STAGE, root)
    with tempfile.TemporaryDirectory(prefix="rebirth-device-") as folder:
        for list_name, names in (("drop", drop), ("keep", keep)):
            file = Path(folder) / list_name
            file.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
            shell.push(file, f"{root}/caffe.new/.list/{list_name}")
    shell.check("sort its files", _SORT, root, timeout=_SLOW)
    sent, total = 0, sum(bundle.files[name].stat().st_size for name in todo)
    for name in todo:
        tick(sent, total)
        shell.push(bundle.files[name], f"{root}/caffe.new/{name}")
        sent += bundle.files[name].stat().st_size
    tick(sent, total)


def _finish(shell: Shell, bundle: Bundle, wanted: Mapping[str, str], emulator: str | None) -> Installed:
    root = shell.root
    hashes = _hashes(shell)
    wrong = [name for name, digest in wanted.items() if hashes.get(f"caffe.new/{name}") != digest]
    if wrong:
        raise DeviceError(f"{shell.name}: {len(wrong)} files did not arrive whole ({wrong[0]}): run it again")
    shell.check("set permissions", _FINISH, root, bundle.loader or "")
    new = Installed(f"{root}/caffe.new", bundle.machine, bundle.loader, emulator, bundle.source, "", bundle.bytes)
    version = _start(shell, new, bundle)
    final = Installed(f"{root}/caffe", bundle.machine, bundle.loader, emulator, bundle.source, version, bundle.bytes)
    with tempfile.TemporaryDirectory(prefix="rebirth-device-") as folder:
        manifest, facts = Path(folder) / MANIFEST, Path(folder) / FACTS
        manifest.write_text("".join(f"{digest}  {name}\n" for name, digest in wanted.items()), encoding="utf-8")
        # The directory is the one that was read.
        facts.write_text(json.dumps({k: v for k, v in to_json(final).items() if k != "directory"}), encoding="utf-8")
        for file in (manifest, facts):
            shell.push(file, f"{root}/caffe.new/{file.name}")
    shell.check("put Caffe into its place", _SWITCH, root)
    return final


def _start(shell: Shell, new: Installed, bundle: Bundle) -> str:
    """Starts it once; returns its version."""
    done = shell.run('"$@" 2>&1', *new.words, "--version", timeout=_SLOW, doing="start Caffe")
    version = re.search(r"caffe version (\S+)", done.text)
    if done.rc == 0:
        return version[1] if version else ""
    last = done.text.strip().splitlines()[-1] if done.text.strip() else f"status {done.rc}"
    lacks = f" (not among its files: {', '.join(bundle.missing)})" if bundle.missing else ""
    raise DeviceError(f"{shell.name}: this Caffe does not start there: {last}{lacks}")


def _hashes(shell: Shell) -> dict[str, str]:
    text = shell.check("read its files (sha256sum)", _HASHES, shell.root, timeout=_SLOW).text
    return {name: digest for digest, name in re.findall(r"^([0-9a-f]{64}) [ *](\S.*)$", text, re.M)}


def _under(there: Mapping[str, str], top: str) -> list[str]:
    # Other files stay: they cannot be in the way.
    ours = re.compile(re.escape(top) + r"(bin|lib)/[\w.+-]+", re.ASCII)
    return [path.removeprefix(top) for path in there if ours.fullmatch(path)]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
