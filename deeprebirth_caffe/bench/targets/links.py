"""Links to devices, by the names of `--on` and `rebirth device`."""

from __future__ import annotations

from collections.abc import Callable

from deeprebirth_caffe.bench.targets.shell import Transport
from deeprebirth_caffe.errors import UsageError

FORMS = "adb, adb:SERIAL, ssh:[USER@]HOST[:PORT]"


def link(spec: str) -> Callable[[], Transport]:
    """The function that opens the link to a device.

    Raises:
        UsageError: it names no device.
    """
    kind, colon, rest = spec.partition(":")
    if kind == "adb" and bool(colon) == bool(rest):
        from deeprebirth_caffe.bench.targets.adb import AdbTransport

        return lambda: AdbTransport(rest or None)
    if kind == "ssh" and rest:
        from deeprebirth_caffe.bench.targets.ssh import Address, SshTransport

        Address.parse(rest)
        return lambda: SshTransport(rest)
    raise UsageError(f"{spec} is no device: {FORMS}")
