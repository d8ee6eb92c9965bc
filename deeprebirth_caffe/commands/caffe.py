"""`rebirth caffe`: installs real Caffe, says what it is, and removes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deeprebirth_caffe.engines.caffe.engine import CaffeEngine
from deeprebirth_caffe.engines.caffe.install import directory_of, install, remove
from deeprebirth_caffe.engines.caffe.locate import CaffeInstall, find_caffe
from deeprebirth_caffe.options.caffe import InstallOptions, RemoveOptions
from deeprebirth_caffe.results import Result


@dataclass(frozen=True, kw_only=True)
class CaffeFacts(Result):
    """A Caffe on this machine. What only a running Caffe tells is None where it was not started.

    Attributes:
        where: how it was found, for people.
        prefix: the directory that `rebirth caffe install` made.
        binary: its `caffe` program.
        python: its Python with pycaffe.
        package: the version of the Debian package that was installed.
        arch: the architecture of that package: `amd64`, `arm64`.
        caffe: the version that pycaffe tells.
        python_version: of its Python.
        blas: OpenBLAS and its version.
        core: the processor whose kernels OpenBLAS uses.
        layer_types: how many layer types it knows.
    """

    where: str
    prefix: Path | None
    binary: Path | None
    python: Path | None
    package: str | None
    arch: str | None
    caffe: str | None = None
    python_version: str | None = None
    blas: str | None = None
    core: str | None = None
    layer_types: int | None = None


def install_caffe(options: InstallOptions, say: Callable[[str], None], tick: Callable[[int], None]) -> CaffeFacts:
    """Installs Caffe; see `engines.caffe.install.install`."""
    return _facts(install(options, say, tick))


def caffe_info(path: str | None) -> CaffeFacts:
    """Says which Caffe is used; starts it where it has pycaffe.

    Args:
        path: what `--caffe` names, if anything.

    Raises:
        EngineError: there is none, or it does not start.
    """
    found = find_caffe(path)
    if found.python is None:
        return _facts(found)
    told: dict[str, Any] = CaffeEngine(found).describe()
    blas = told["blas"] if isinstance(told["blas"], dict) else {}
    return replace(
        _facts(found),
        caffe=told["caffe"],
        python_version=told["python"],
        blas=" ".join(blas["config"].split()[:2]) if blas.get("config") else None,
        core=blas.get("core"),
        layer_types=len(told["layer_types"]),
    )


def remove_caffe(options: RemoveOptions) -> tuple[Path, bool]:
    """Removes what `install_caffe` made with the same options; gives the directory, and whether it was there."""
    directory = directory_of(options)
    return directory, remove(directory)


def _facts(found: CaffeInstall) -> CaffeFacts:
    """What is known without starting it."""
    return CaffeFacts(
        where=found.where,
        prefix=found.prefix,
        binary=found.binary,
        python=found.python,
        package=found.version,
        arch=found.arch,
    )
