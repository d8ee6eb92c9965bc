"""Android devices, through the user's `adb` program."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.bench.targets.client import Reply, call, transfer_seconds
from deeprebirth_caffe.bench.targets.shell import QUICK, DeviceError

DIRECTORY = "/data/local/tmp/rebirth"
"""The only directory where adb's user may put and start programs."""

_STATES = {
    "unauthorized": "unlock it and allow USB debugging for this computer",
    "authorizing": "it has not answered yet: run again",
    "connecting": "it has not answered yet: run again",
    "offline": "it does not answer: take the cable out and in again, or `adb reconnect offline`",
    "no permissions": "this user may not reach it by USB: see what `adb devices` says",
    "recovery": "it is in recovery mode: start it normally",
    "sideload": "it is in sideload mode: start it normally",
    "bootloader": "it is in its bootloader: start it normally",
}

_LINE = re.compile(rf"(?P<serial>\S.*?)\s+(?P<state>device|host|rescue|{'|'.join(_STATES)})\b(?P<rest>.*)")


MOST_OF_A_LIST, LONGEST_LINE = 1 << 18, 1000


@dataclass(frozen=True)
class AndroidDevice:
    """A line of `adb devices -l`.

    Attributes:
        serial: for `adb -s`.
        state: "device" if it is ready.
        model: its name, or empty.
    """

    serial: str
    state: str
    model: str


def find_adb() -> str:
    """The path of `adb`.

    Raises:
        DeviceError: there is none.
    """
    program = shutil.which("adb")
    if program is None:
        raise DeviceError("adb not found: install Android's platform-tools (Debian: apt install adb)")
    return program


def devices() -> list[AndroidDevice]:
    """The devices that adb sees; starts its server if necessary."""
    reply = call([find_adb(), "devices", "-l"], timeout=QUICK)
    if reply.rc != 0:
        raise DeviceError(f"adb devices failed: {_last(reply)}")
    listed = []
    # A device chooses its serial and model; a strange line must not take for ever.
    for line in reply.stdout[:MOST_OF_A_LIST].decode("utf-8", "replace").splitlines():
        match = _LINE.fullmatch(line.strip()[:LONGEST_LINE])
        if match:
            model = re.search(r"\bmodel:(\S+)", match["rest"])
            listed.append(AndroidDevice(match["serial"], match["state"], model[1].replace("_", " ") if model else ""))
    return listed


def choose(serial: str | None) -> str:
    """The serial number of the device to use.

    Args:
        serial: from the user; None takes $ANDROID_SERIAL, or the only device.

    Raises:
        DeviceError: it is missing or not ready, or there are several devices.
    """
    serial = serial or os.environ.get("ANDROID_SERIAL") or None
    listed = devices()
    if serial is None:
        ready = [device for device in listed if device.state == "device"] or listed
        if not ready:
            raise DeviceError("no Android device: connect one, allow USB debugging, and look at `adb devices`")
        if len(ready) > 1:
            names = ", ".join(f"adb:{device.serial}" for device in ready)
            raise DeviceError(f"more than one device: name one of {names}")
        [device] = ready
    else:
        named = [device for device in listed if device.serial == serial]
        if not named:
            names = ", ".join(f"adb:{device.serial}" for device in listed) or "none"
            raise DeviceError(f"there is no device adb:{serial}; there is {names}")
        device = named[0]
    if device.state != "device":
        hint = _STATES.get(device.state, "look at the device")
        raise DeviceError(f"adb:{device.serial} is not ready ({device.state}): {hint}")
    return device.serial


class AdbTransport:
    """A device that adb sees."""

    def __init__(self, serial: str | None = None) -> None:
        """Chooses the device.

        Raises:
            DeviceError: see `choose`.
        """
        self._adb = find_adb()
        self._serial = choose(serial)
        self.name = f"adb:{self._serial}"

    def home(self) -> str:
        return DIRECTORY

    def execute(self, command: str, timeout: float | None) -> Reply:
        return self._call("shell", command, timeout=timeout)

    def push(self, local: Path, remote: str) -> Reply:
        # A file name that begins with a slash cannot look like an option, or like two.
        source = str(local.resolve())
        return self._call("push", source, remote, timeout=transfer_seconds(local.stat().st_size))

    def pull(self, remote: str, local: Path) -> Reply:
        return self._call("pull", remote, str(local.absolute()), timeout=None)

    def close(self) -> None:
        """Does nothing: adb's server belongs to the user."""

    def _call(self, *words: str, timeout: float | None) -> Reply:
        return call([self._adb, "-s", self._serial, *words], timeout=timeout)


def _last(reply: Reply) -> str:
    lines = reply.text.splitlines()
    return lines[-1] if lines else f"status {reply.rc}"
