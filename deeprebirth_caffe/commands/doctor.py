"""`rebirth doctor`: which engines and tools are here, their versions, and what to type for those that are not."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deeprebirth_caffe.engines import EngineError, engine
from deeprebirth_caffe.engines.caffe.kernels import Kernels
from deeprebirth_caffe.extras import pip_install, version_of
from deeprebirth_caffe.results import Signed

PACKAGES = (
    ("torch", "the embedded engine", "torch"),
    ("lmdb", "reading and writing LMDBs", "data"),
    ("plyvel", "reading and writing LevelDBs", "data"),
    (
        "opencv-python-headless",
        "reading pictures; the engine opencv (version 4 reads Caffe files itself, 5 our ONNX export)",
        "data",
    ),
    ("h5py", "reading and writing HDF5", "data"),
    ("scikit-learn", "the pictures of rebirth data digits", "data"),
    ("tensorly", "rebirth tucker", "tucker"),
    ("pydantic", "rebirth plan, run, status and report", "run"),
    ("PyYAML", "rebirth plan, run, status and report", "run"),
    ("onnx", "rebirth export; the engines onnxruntime and ncnn", "onnx"),
    ("onnxruntime", "the engine onnxruntime; rebirth export --check", "onnx"),
    ("MNN", "the engine mnn", "mnn"),
    ("ncnn", "the engine ncnn", "ncnn"),
    ("pnnx", "the engine ncnn: it converts our ONNX export", "ncnn"),
)
"""Name, purpose, and the extra that brings it."""
PROGRAMS = (
    ("apt-get", "rebirth caffe install", "only on Debian, Ubuntu and their like"),
    ("dpkg-deb", "rebirth caffe install", "apt install dpkg"),
    ("adb", "rebirth time --on adb, and rebirth device", "apt install adb"),
    ("ssh", "rebirth time --on ssh, and rebirth device", "apt install openssh-client"),
    ("qemu-aarch64-static", "running an arm64 Caffe on this machine", "apt install qemu-user-static"),
    ("qemu-arm-static", "running an armhf Caffe on this machine", "apt install qemu-user-static"),
)


@dataclass(frozen=True)
class Finding:
    """One engine or tool.

    Attributes:
        name: `python`, `caffe`, `torch`, `lmdb`, `onnxruntime`, `adb` …; of OpenCV's packages whichever is there.
        found: whether it is here and works.
        version: empty where it does not say, or is not found.
        where: its place and what else is worth knowing, for people; may be empty.
        purpose: what it is good for, for people.
        fix: what to type, for people; empty where it is found.
    """

    name: str
    found: bool
    version: str
    where: str
    purpose: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Findings(Signed):
    """What `rebirth doctor` found.

    Attributes:
        findings: engines, packages and programs.
    """

    findings: Sequence[Finding]


def doctor(caffe: str | None = None) -> Findings:
    """Looks for everything that rebirth can use.

    Args:
        caffe: what `--caffe` names.
    """
    return Findings(findings=[*_core(), _caffe(caffe), *_packages(), *_programs()])


def _core() -> Iterator[Finding]:
    yield Finding("python", True, platform.python_version(), platform.platform(), "everything")
    for name in ("protobuf", "numpy", "click", "rich"):
        yield Finding(name, True, importlib.metadata.version(name), "", "everything")


def _caffe(path: str | None) -> Finding:
    purpose = "the reference engine: --check, --engine caffe"
    try:
        facts = engine("caffe", caffe=path).describe()
    except EngineError as error:
        return Finding("caffe", False, "", "", purpose, str(error))
    version = str(facts.get("package") or facts.get("caffe") or "")
    details = [f"found by {facts['where']}", f"pycaffe on Python {facts['python']}"]
    blas = facts.get("blas")
    if isinstance(blas, dict) and "core" in blas:
        details.append(f"OpenBLAS kernels {blas['core']}{_chosen(blas)}, {blas['threads']} threads")
    return Finding("caffe", True, version, ", ".join(details), purpose)


def _chosen(blas: Mapping[str, Any]) -> str:
    """Who chose the kernels, in brackets."""
    words = Kernels(by=blas["chosen_by"], own=blas["openblas_picks"]).words()
    return f" ({words})" if words else ""


def _packages() -> Iterator[Finding]:
    for name, purpose, extra in PACKAGES:
        found = version_of(name)
        fix = "" if found else pip_install(extra, name)
        yield Finding(name, bool(found), found, "", purpose, fix)


def _programs() -> Iterator[Finding]:
    for name, purpose, fix in PROGRAMS:
        place = shutil.which(name)
        yield Finding(name, place is not None, "", place or "", purpose, "" if place else fix)
