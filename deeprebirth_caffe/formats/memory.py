"""Tells how much memory there is, and refuses what would not fit before it is allocated."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import environment_limit

VARIABLE = "REBIRTH_MAX_MEMORY"
"""The environment variable that limits memory, in MiB, whatever the system says is free."""

_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


class TooLargeError(RebirthError):
    """There is too little memory."""


def free_bytes() -> int | None:
    """About how much memory is still free; None where the system does not say."""
    if os.environ.get(VARIABLE, "").strip():
        return environment_limit(VARIABLE, 0) << 20
    free = [
        limit
        for limit in (_available(), *(_container_bytes(*files) for files in _GROUPS), _address_space())
        if limit is not None
    ]
    return min(free, default=None)


def need(size: int, what: str) -> None:
    """Refuses what would not fit into memory.

    Args:
        size: its bytes.
        what: what needs them: the first words of the message.

    Raises:
        TooLargeError: there is less than that.
    """
    if size < 1 << 20:
        return
    free = free_bytes()
    if free is not None and size > free:
        raise TooLargeError(
            f"{what} needs {gib(size)} of memory, and {gib(free)} are free; set ${VARIABLE} (in MiB) to allow more"
        )


def gib(size: int) -> str:
    """Bytes in a readable unit."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"


def _available() -> int | None:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _container_bytes(limit: str, used: str) -> int | None:
    """What a container may still use."""
    most, now = _lines(limit), _lines(used)
    if most and now and most[0].isdigit() and now[0].isdigit():  # else "max"
        return max(0, int(most[0]) - int(now[0]))
    return None


def _address_space() -> int | None:
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    if most == resource.RLIM_INFINITY:
        return None
    sizes = _lines("/proc/self/statm")
    return max(0, most - int(sizes[0].split()[0]) * resource.getpagesize()) if sizes else most


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii").splitlines()
    except OSError:
        return []
