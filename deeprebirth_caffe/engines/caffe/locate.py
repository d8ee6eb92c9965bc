"""Where Caffe is on this machine.

Looked at, in this order: what the caller names (`--caffe`), `$REBIRTH_CAFFE`, the directory that
`rebirth caffe install` installs into, `PATH`. The first two may name a directory, a `caffe` program or a
Python that has pycaffe; what they name must be right, for nothing else is looked at then.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.engines.base import EngineError

STAMP = ".rebirth-caffe"
HOW_TO = "run `rebirth caffe install`, or name one with --caffe"

# Tells where the `caffe` package lies without importing it, which takes half a second. A package of that name
# without the compiled module is somebody else's.
_PROBE = (
    "import glob, importlib.util, os, sys\n"
    "spec = importlib.util.find_spec('caffe')\n"
    "places = list(spec.submodule_search_locations or []) if spec else []\n"
    "sys.exit(not any(glob.glob(os.path.join(p, '_caffe*.so')) for p in places))\n"
)


class CaffeNotFoundError(EngineError):
    """There is no Caffe, or not where it was said to be."""


@dataclass(frozen=True)
class CaffeInstall:
    """A Caffe on this machine.

    Attributes:
        binary: The `caffe` program, if there is one.
        python: A Python that has pycaffe, if there is one.
        where: In words, how it was found.
        prefix: The directory that `rebirth caffe install` made, where it is one.
        version: The package's version, where it is known without starting anything.
        arch: The architecture the packages are for ("amd64", "arm64"), where it is known.
        pythonpath: Directories that `python` needs to find pycaffe.
    """

    binary: Path | None
    python: Path | None
    where: str
    prefix: Path | None = None
    version: str | None = None
    arch: str | None = None
    pythonpath: tuple[Path, ...] = ()

    def need_python(self) -> Path:
        """Gives `python`; raises where this Caffe has none."""
        if self.python is None:
            raise CaffeNotFoundError(f"the Caffe of {self.where} ({self.binary}) has no pycaffe: {HOW_TO}")
        return self.python

    def need_binary(self) -> Path:
        """Gives `binary`; raises where this Caffe has none."""
        if self.binary is None:
            what = f"the pycaffe of {self.where} ({self.python})"
            raise CaffeNotFoundError(f"{what} has no caffe program: {HOW_TO}")
        return self.binary


def default_prefix(arch: str | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """Gives the directory that `rebirth caffe install` uses when it is told none.

    Args:
        arch: "amd64" or "arm64"; None for this machine's.
        environ: The environment; None for this process's.
    """
    env = os.environ if environ is None else environ
    text = env.get("REBIRTH_CAFFE_PREFIX", "")
    if not text:
        data = env.get("XDG_DATA_HOME", "")
        if not data:
            home = env.get("HOME", "")
            data = os.path.join(home or Path.home(), ".local/share")
        text = os.path.join(data, "rebirth/caffe")
    own = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return Path(text if arch in (None, own) else f"{text.rstrip('/')}-{arch}")


def find_caffe(explicit: str | Path | None = None, environ: Mapping[str, str] | None = None) -> CaffeInstall:
    """Finds Caffe; starts at most a bare Python, and that only when nothing but PATH is left.

    Args:
        explicit: What the user named, if anything.
        environ: The environment; None for this process's.

    Raises:
        CaffeNotFoundError: There is none, or not where it was said to be; the message says what to type.
    """
    env = os.environ if environ is None else environ
    if explicit is not None and str(explicit):
        return _named(Path(explicit).expanduser(), "--caffe", env)
    if env.get("REBIRTH_CAFFE"):
        return _named(Path(env["REBIRTH_CAFFE"]).expanduser(), "$REBIRTH_CAFFE", env)
    prefix = default_prefix(environ=env)
    installed = _stamped(prefix, "the default directory")
    if installed is not None:
        return installed
    binary = shutil.which("caffe", path=env.get("PATH", os.defpath))
    python = _python_on_path(env)
    if binary or python:
        return CaffeInstall(binary=Path(binary) if binary else None, python=python, where="PATH")
    half = f"; the installation in {prefix} is unfinished" if (prefix / ".work").is_dir() else ""
    raise CaffeNotFoundError(f"no Caffe found (looked at $REBIRTH_CAFFE, {prefix} and PATH{half}): {HOW_TO}")


def _named(path: Path, where: str, env: Mapping[str, str]) -> CaffeInstall:
    path = path.absolute()
    if path.is_dir():
        return _directory(path, where, env)
    if not path.exists():
        raise CaffeNotFoundError(f"{where}: {path} does not exist; {HOW_TO}")
    if not os.access(path, os.X_OK):
        raise CaffeNotFoundError(f"{where}: {path} is not a program: name a directory, a caffe or a python")
    # A wrapper may be reached through a link, while /usr/bin/python3 may be one: only the former is followed.
    for candidate in (path, Path(os.path.realpath(path))):
        installed = _stamped(candidate.parent.parent, where)
        if installed is not None and candidate in (installed.binary, installed.python):
            return installed
    if re.fullmatch(r"python[\d.]*", path.name):
        if not _has_pycaffe(path, env):
            raise CaffeNotFoundError(f"{where}: {path} has no pycaffe ('import caffe' fails); {HOW_TO}")
        beside = path.parent / "caffe"
        on_path = shutil.which("caffe", path=env.get("PATH", os.defpath))
        binary = str(beside) if os.access(beside, os.X_OK) else on_path
        return CaffeInstall(binary=Path(binary) if binary else None, python=path, where=where)
    return CaffeInstall(binary=path, python=_python_on_path(env), where=where)


def _directory(path: Path, where: str, env: Mapping[str, str]) -> CaffeInstall:
    installed = _stamped(path, where)
    if installed is not None:
        return installed
    if (path / ".work").is_dir():
        raise CaffeNotFoundError(f"{where}: {path} is unfinished: run `rebirth caffe install --prefix {path}` again")
    # A Caffe somebody built: an installation or a build tree, with pycaffe in `python/`.
    programs = (path / "bin" / "caffe", path / "build" / "tools" / "caffe", path / "tools" / "caffe")
    binary = next((p for p in programs if p.is_file() and os.access(p, os.X_OK)), None)
    modules = path / "python"
    if any(modules.glob("caffe/_caffe*.so")):
        interpreter = shutil.which("python3", path=env.get("PATH", os.defpath))
        python = Path(interpreter) if interpreter else None
        return CaffeInstall(binary=binary, python=python, where=where, pythonpath=(modules,))
    if binary is None:
        raise CaffeNotFoundError(f"{where}: {path} holds no Caffe (no bin/caffe, no python/caffe); {HOW_TO}")
    return CaffeInstall(binary=binary, python=_python_on_path(env), where=where)


def _stamped(prefix: Path, where: str) -> CaffeInstall | None:
    try:
        text = (prefix / STAMP).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    facts = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return CaffeInstall(
        binary=prefix / "bin" / "caffe",
        python=prefix / "bin" / "python",
        where=where,
        prefix=prefix,
        version=facts.get("caffe"),
        arch=facts.get("arch"),
    )


def _python_on_path(env: Mapping[str, str]) -> Path | None:
    for name in ("python3", "python"):
        found = shutil.which(name, path=env.get("PATH", os.defpath))
        if found and _has_pycaffe(Path(found), env):
            return Path(found)
    return None


def _has_pycaffe(python: Path, env: Mapping[str, str]) -> bool:
    try:
        # Not from the current directory, where a source tree of Caffe would be found that is not built.
        done = subprocess.run(
            [str(python), "-c", _PROBE], env=dict(env), cwd="/", timeout=20, check=False, capture_output=True
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
