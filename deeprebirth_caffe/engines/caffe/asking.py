"""What a program is: it is asked, in a bounded way, rather than known by its name."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path

TIMEOUT_S = 10
MOST_BYTES = 1 << 16
"""Of an answer; what says more is no program that is looked for."""

_PYTHON, _PYCAFFE = b"rebirth: a Python", b"rebirth: a Python with pycaffe"
# Tells where the `caffe` package lies without importing it, which takes half a second. A package of that name
# without the compiled module is somebody else's.
_PROBE = (
    "import glob, importlib.util, os\n"
    "spec = importlib.util.find_spec('caffe')\n"
    "places = list(spec.submodule_search_locations or []) if spec else []\n"
    "has = any(glob.glob(os.path.join(p, '_caffe*.so')) for p in places)\n"
    f"print({_PYCAFFE.decode()!r} if has else {_PYTHON.decode()!r})\n"
)


class Answer(Enum):
    """What a program turned out to be."""

    PYCAFFE = "a Python with pycaffe"
    PYTHON = "a Python without pycaffe"
    CAFFE = "a caffe program"
    OTHER = "neither a caffe program nor a Python"
    SILENT = "a program that cannot be run here"


_known: dict[tuple[object, ...], Answer] = {}


def ask(program: Path, env: Mapping[str, str]) -> Answer:
    """Says what a program is, by what it answers to Python's `-c` and Caffe's `--version`.

    It runs in `/`, without input, for ten seconds and 64 KiB of output at most. A Caffe that was found is remembered
    for as long as this process runs.

    Args:
        program: to run.
        env: the environment that it will run in.
    """
    try:
        status = program.stat()
    except OSError:
        return Answer.SILENT
    key = (program, status.st_mtime_ns, status.st_size, tuple(sorted(env.items())))
    if key not in _known:
        found = _ask(program, env)
        if found not in (Answer.PYCAFFE, Answer.CAFFE):
            return found
        _known[key] = found
    return _known[key]


def _ask(program: Path, env: Mapping[str, str]) -> Answer:
    said = _run([str(program), "-c", _PROBE], env)
    if said is not None and said.strip() in (_PYTHON, _PYCAFFE):
        return Answer.PYCAFFE if said.strip() == _PYCAFFE else Answer.PYTHON
    version = _run([str(program), "--version"], env)
    if version is None:
        return Answer.SILENT
    return Answer.CAFFE if b"caffe" in version.lower() else Answer.OTHER


def _run(command: Sequence[str], env: Mapping[str, str]) -> bytes | None:
    """What a command prints; None where it cannot be started, does not end in time or prints without end."""
    try:
        # Not from the current directory, where a source tree of Caffe would be found that is not built.
        process = subprocess.Popen(
            command,
            env=dict(env),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError:
        return None
    assert process.stdout is not None
    said, end = bytearray(), time.monotonic() + TIMEOUT_S
    with process.stdout as stream, selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        more = True
        while more and len(said) < MOST_BYTES and (left := end - time.monotonic()) > 0:
            for _ in selector.select(left):
                part = os.read(stream.fileno(), MOST_BYTES)
                said += part
                more = bool(part)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return None if more else bytes(said)
