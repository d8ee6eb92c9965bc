"""Which of OpenBLAS's kernels Caffe computes with.

OpenBLAS picks kernels by the processor's model, and one that does not know the model takes those of 2004 (Prescott),
which are two to six times as slow. Debian 11's does so on many processors younger than itself. What a processor can do
is written in /proc/cpuinfo, so better kernels can be named in OPENBLAS_CORETYPE. Some kernels of some versions are
wrong on some processors. So they are tried first, in a process of their own, against float64: those that are wrong,
crash or are not in that OpenBLAS are passed over. The result is remembered in a file, for this processor and this
OpenBLAS.

A core type that the user names is never changed, nor what an OpenBLAS picks that picks well. Of other matrix libraries
nothing is known here.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.formats.files import atomic_write

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.caffe.locate import CaffeInstall

VARIABLE = "OPENBLAS_CORETYPE"
CPUINFO = Path("/proc/cpuinfo")
WIDE = ("SkylakeX", "Cooperlake", "SapphireRapids")
"""Kernels for AVX-512."""
MIDDLE = ("Haswell", "Zen")
"""Kernels for AVX2 and FMA."""
OLD = ("Nehalem", "Prescott")
"""Kernels that every processor runs: for one on which all others are wrong."""
FLAGS = {WIDE: {"avx512f", "avx512dq", "avx512bw", "avx512vl"}, MIDDLE: {"avx2", "fma"}}
SECONDS = 60.0
"""How long one try may take."""


@dataclass(frozen=True)
class Kernels:
    """The kernels that a Caffe computes with.

    Attributes:
        core: what is put into OPENBLAS_CORETYPE; empty: nothing, and the environment stays as it is.
        by: who chose: "user", "rebirth" or "openblas"; empty where nothing is known of it.
        own: the core type that OpenBLAS picks by itself, where that was asked.
        passed: core types that were passed over, each with the reason.
    """

    core: str = ""
    by: str = ""
    own: str = ""
    passed: Mapping[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """What is to be set for a Caffe process."""
        return {VARIABLE: self.core} if self.core else {}

    @property
    def name(self) -> str:
        """The core type in use; empty where nothing is known of it."""
        return self.core or self.own

    def words(self) -> str:
        """Who chose, in words; empty where nothing is known of it."""
        passed = "".join(f"; {core} {why}" for core, why in self.passed.items())
        if self.by == "user":
            return f"set by {VARIABLE}"
        if self.by == "rebirth":
            return f"chosen by rebirth and checked against float64; OpenBLAS picks {self.own}{passed}"
        return f"picked by OpenBLAS{passed}" if self.by else ""


_known: dict[str, Kernels] = {}
"""What this process has found out already."""


def choose_kernels(install: CaffeInstall, environ: Mapping[str, str] | None = None) -> Kernels:
    """Says which kernels a Caffe shall use; starts it a time or two where that was not found out before.

    Args:
        install: the Caffe. One without pycaffe cannot be tried, and is left alone.
        environ: the environment; None: this process's.
    """
    env = os.environ if environ is None else environ
    if env.get(VARIABLE):
        return Kernels(env[VARIABLE], "user")
    processor = this_processor()
    if install.python is None or not candidates(processor):
        return Kernels()
    key = hashlib.sha256(json.dumps([str(install.python), *map(str, install.pythonpath), processor]).encode())
    name = key.hexdigest()[:24]
    if name not in _known:
        _known[name] = _remembered(name, env) or _found(install, processor, name, env)
    return _known[name]


def candidates(processor: Mapping[str, str]) -> list[str]:
    """The core types that a processor can run and that are worth a try, the fastest first."""
    flags = set(processor.get("flags", "").split())
    zen = processor.get("vendor_id") in ("AuthenticAMD", "HygonGenuine")
    middle = MIDDLE[::-1] if zen else MIDDLE
    able = [*WIDE[:1] * (flags >= FLAGS[WIDE]), *middle * (flags >= FLAGS[MIDDLE])]
    return [*able, *OLD] if able else []


def rank(core: str) -> int:
    """How much a core type's kernels make of a processor."""
    name = core.lower()
    return 2 if name in map(str.lower, WIDE) else 1 if name in map(str.lower, MIDDLE) else 0


def this_processor() -> dict[str, str]:
    """Vendor, model and flags of this processor; empty where it is none of those that OpenBLAS is told about."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return {}
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    names = ("vendor_id", "cpu family", "model", "model name", "flags")
    lines = {name: re.search(rf"^{name}\s*:[ \t]*(.*)$", text, re.M) for name in names}
    return {name: line[1].strip() for name, line in lines.items() if line}


def _found(install: CaffeInstall, processor: Mapping[str, str], name: str, env: Mapping[str, str]) -> Kernels:
    """Tries what is worth it, in processes of their own."""
    try:
        own = _try(install, "")
    except EngineError:
        return Kernels()  # it does not start, and whoever wants it will be told so
    if "DYNAMIC_ARCH" not in str(own.get("config")):
        return Kernels()  # another library, or one that has the kernels of one processor alone
    picks = str(own["core"])
    passed = {picks: str(own["wrong"])} if own["wrong"] else {}
    kernels = Kernels(by="openblas", own=picks, passed=passed)
    for candidate in candidates(processor):
        if picks not in passed and rank(candidate) <= rank(picks):
            break
        reason = passed[picks] if candidate == picks else _reason(install, candidate)
        if not reason:
            kernels = Kernels(candidate, "rebirth", picks, passed)
            break
        passed[candidate] = reason
    _remember(name, kernels, str(own["library"]), env)
    return kernels


def _reason(install: CaffeInstall, core: str) -> str:
    """Why a core type cannot be used; empty where it can."""
    try:
        found = _try(install, core)
    except EngineError as error:
        return f"does not run ({error})"
    if str(found.get("core")).lower() != core.lower():
        return "is not in this OpenBLAS"
    return str(found["wrong"])


def _try(install: CaffeInstall, core: str) -> dict[str, Any]:
    """Starts pycaffe with a core type ("": whichever OpenBLAS picks) and checks some products there."""
    from deeprebirth_caffe.engines.caffe.process import WorkerProcess

    with WorkerProcess(install, kernels=Kernels(core), timeout=SECONDS) as worker:
        return worker.call("check_products")[0]


# ---------------------------------------------------------------- what is remembered


def _folder(env: Mapping[str, str]) -> Path | None:
    """Where it is remembered; None: nowhere."""
    home = env.get("HOME", "")
    for place in (env.get("XDG_CACHE_HOME", ""), home and f"{home}/.cache"):
        if Path(place).is_absolute():
            return Path(place) / "rebirth"
    return None


def _identity(library: str) -> list[Any]:
    path = Path(os.path.realpath(library))
    status = path.stat()
    return [str(path), status.st_size, status.st_mtime_ns]


def _remembered(name: str, env: Mapping[str, str]) -> Kernels | None:
    """What was found out before, of this very OpenBLAS; None where nothing was, or the file is damaged."""
    folder = _folder(env)
    if folder is None:
        return None
    try:
        data = json.loads((folder / f"kernels-{name}.json").read_text(encoding="utf-8"))
        if data["library"] != _identity(data["library"][0]):
            return None
        kernels = Kernels(**data["kernels"])
        words = [kernels.by, kernels.own, *kernels.passed, *kernels.passed.values()]
        sound = kernels.core in ("", *WIDE, *MIDDLE, *OLD) and all(isinstance(word, str) for word in words)
        return kernels if sound else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return None


def _remember(name: str, kernels: Kernels, library: str, env: Mapping[str, str]) -> None:
    """Writes it down; where that cannot be done it is found out anew next time."""
    folder = _folder(env)
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"kernels": asdict(kernels), "library": _identity(library)}, indent=1) + "\n"
        atomic_write(folder / f"kernels-{name}.json", text.encode())
    except OSError:
        return
