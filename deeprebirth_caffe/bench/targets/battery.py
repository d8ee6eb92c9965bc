"""Energy of a device from its counters: power rails if they can be read, else the battery."""

from __future__ import annotations

import re
from collections.abc import Mapping

from deeprebirth_caffe.bench.energy import EnergyMeter, ReadFiles

RAILS = ("/sys/bus/iio/devices/iio:device[0-9]*/energy_value",)
"""Counters of the power rails of some phones: a line for each rail, in microjoules."""

SUPPLIES = tuple(
    f"/sys/class/power_supply/*/{name}"
    for name in ("type", "status", "charge_counter", "charge_now", "energy_now", "voltage_now")
)
"""Counters of batteries: microampere-hours or microwatt-hours, and microvolts."""

_HOUR = 3600.0


class RailMeter:
    """The power rails together."""

    def __init__(self, read: ReadFiles, rails: int) -> None:
        self.method = f"{rails} power rails of the device: everything that they feed, idle power included"
        self._read = read
        self._before: dict[str, int] = {}

    def start(self) -> None:
        self._before = _rails(self._read(RAILS))

    def joules(self) -> float | None:
        now = _rails(self._read(RAILS))
        if not self._before or set(now) != set(self._before):
            return None
        used = sum(now[rail] - self._before[rail] for rail in now)
        return used / 1e6 if used >= 0 else None


class BatteryMeter:
    """A battery that is not charged."""

    def __init__(self, read: ReadFiles, place: str) -> None:
        self.method = "battery counter: the whole device, screen and radio included; coarse, so use long runs"
        self._read = read
        self._place = place
        self._before: tuple[float, float] | None = None

    def start(self) -> None:
        self._before = _charge(self._read(SUPPLIES), self._place)

    def joules(self) -> float | None:
        files = self._read(SUPPLIES)
        now = _charge(files, self._place)
        if self._before is None or now is None or _charges(files, self._place):
            return None
        used = (self._before[0] - now[0]) * (self._before[1] + now[1]) / 2
        # The counter moves in steps; before the first step nothing is known.
        return used if used > 0 else None


def battery(read: ReadFiles) -> EnergyMeter | str:
    """A meter, or the reason why there is none.

    Args:
        read: gives the texts of the files that match glob patterns.
    """
    rails = _rails(read(RAILS))
    if rails:
        return RailMeter(read, len(rails))
    files = read(SUPPLIES)
    places = [
        path.rpartition("/")[0] for path, text in files.items() if path.endswith("/type") and text.strip() == "Battery"
    ]
    for place in places:
        if _charge(files, place) is None:
            continue
        if _charges(files, place):
            return (
                "not available here: the battery is being charged; connect over the network (adb connect) and unplug it"
            )
        return BatteryMeter(read, place)
    return "not available here: no power rails and no battery counter that may be read"


def _rails(files: Mapping[str, str]) -> dict[str, int]:
    counters: dict[str, int] = {}
    for path, text in files.items():
        for number, line in enumerate(text.splitlines()):
            value = re.fullmatch(r"\s*(\S.*),\s*(\d{1,19})\s*", line)
            if value:
                counters[f"{path} {number}"] = int(value[2])
    return counters


def _charge(files: Mapping[str, str], place: str) -> tuple[float, float] | None:
    """The charge left: coulombs and volts, or joules and 1. The voltage dips under load, so it is no counter."""
    energy = _number(files.get(f"{place}/energy_now"))
    if energy is not None:
        return energy / 1e6 * _HOUR, 1.0
    charge = _number(files.get(f"{place}/charge_counter"))
    if charge is None:
        charge = _number(files.get(f"{place}/charge_now"))
    volts = _number(files.get(f"{place}/voltage_now"))
    return None if charge is None or volts is None else (charge / 1e6 * _HOUR, volts / 1e6)


def _charges(files: Mapping[str, str], place: str) -> bool:
    return files.get(f"{place}/status", "").strip() != "Discharging"


def _number(text: str | None) -> float | None:
    return float(text) if text is not None and re.fullmatch(r"\s*\d{1,15}\s*", text) else None
