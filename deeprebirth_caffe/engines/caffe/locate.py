"""Where Caffe is on this machine.

Looked at, in this order: what the caller names (`--caffe`), `$REBIRTH_CAFFE`, the directory that
`rebirth caffe install` installs into, `PATH`. The first two may name a directory, a `caffe` program or a
Python that has pycaffe; what they name must be right, for nothing else is looked at then.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.engines.caffe.arch import own_arch
from deeprebirth_caffe.engines.caffe.asking import Answer, ask
from deeprebirth_caffe.errors import spelled_command

STAMP = ".rebirth-caffe"
HOW_TO = "run `rebirth caffe install`, or name one with --caffe"

_PROGRAMS = (
    *("bin/caffe", "build/tools/caffe", "tools/caffe", ".build_release/tools/caffe", "build/install/bin/caffe"),
    *("install/bin/caffe", "distribute/bin/caffe", "distribute/bin/caffe.bin", "bin/caffe.bin", "caffe"),
)
"""Where a directory may have its `caffe`: an installation, a conda environment, a source tree that was built."""
_MODULES = ("python", "distribute/python", "build/install/python", "install/python", "")
"""And the `caffe` package of a build, which a Python has to be told of."""
_PYTHONS = ("bin/python3", "bin/python", "python3", "python")


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
        arch: The architecture the packages are for ("amd64", "arm64", "armhf"), where it is known.
        pythonpath: Directories that `python` needs to find pycaffe.
        tried: What was looked at for what is missing.
    """

    binary: Path | None
    python: Path | None
    where: str
    prefix: Path | None = None
    version: str | None = None
    arch: str | None = None
    pythonpath: tuple[Path, ...] = ()
    tried: tuple[Path, ...] = ()

    def need_python(self) -> Path:
        """Gives `python`; raises where this Caffe has none."""
        if self.python is None:
            what = f"the Caffe of {self.where} ({self.binary})"
            raise CaffeNotFoundError(f"{what} has no pycaffe{_tried(self.tried)}: {HOW_TO}")
        return self.python

    def need_binary(self) -> Path:
        """Gives `binary`; raises where this Caffe has none."""
        if self.binary is None:
            what = f"the pycaffe of {self.where} ({self.python})"
            raise CaffeNotFoundError(f"{what} has no caffe program{_tried(self.tried)}: {HOW_TO}")
        return self.binary


def default_prefix(arch: str | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """Gives the directory that `rebirth caffe install` uses when it is told none.

    Args:
        arch: one of `arch.ARCHES` by Debian's name; None for this machine's.
        environ: The environment; None for this process's.
    """
    env = os.environ if environ is None else environ
    text = env.get("REBIRTH_CAFFE_PREFIX", "")
    if not text:
        data = env.get("XDG_DATA_HOME", "")
        if not data:
            home = env.get("HOME", "")
            data = os.path.join(home or _at_home("~"), ".local/share")
        text = os.path.join(data, "rebirth/caffe")
    return Path(text if arch in (None, own_arch()) else f"{text.rstrip('/')}-{arch}")


def find_caffe(explicit: str | Path | None = None, environ: Mapping[str, str] | None = None) -> CaffeInstall:
    """Finds Caffe; asks programs what they are only where the directory of `rebirth caffe install` does not settle it.

    Args:
        explicit: What the user named, if anything.
        environ: The environment; None for this process's.

    Raises:
        CaffeNotFoundError: There is none, or not where it was said to be; the message says what to type.
    """
    env = os.environ if environ is None else environ
    if explicit is not None and str(explicit):
        return _named(_at_home(explicit), "--caffe", env)
    if env.get("REBIRTH_CAFFE"):
        return _named(_at_home(env["REBIRTH_CAFFE"]), "$REBIRTH_CAFFE", env)
    prefix = default_prefix(environ=env)
    installed = _stamped(prefix, "the default directory")
    if installed is not None:
        return installed
    found = _with_python(_which(("caffe",), env), "PATH", env)
    if found.binary or found.python:
        return found
    half = f"; the installation in {prefix} is unfinished" if (prefix / ".work").is_dir() else ""
    raise CaffeNotFoundError(f"no Caffe found (looked at $REBIRTH_CAFFE, {prefix} and PATH{half}): {HOW_TO}")


def _at_home(path: str | Path) -> Path:
    """A path with `~` spelled out; as it is where nobody has such a home."""
    with contextlib.suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)


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
    answer = ask(path, env)
    if answer is Answer.PYCAFFE:
        return _with_binary(path, where, env)
    if answer is Answer.PYTHON:
        modules = _modules_near(path)
        if modules is None:
            raise CaffeNotFoundError(f"{where}: {path} has no pycaffe ('import caffe' fails); {HOW_TO}")
        return _with_binary(path, where, env, (modules,))
    # One for another processor cannot be asked, and one of a name of its own may be older than --version.
    if answer in (Answer.CAFFE, Answer.SILENT) or path.name in ("caffe", "caffe.bin"):
        return _with_python(path, where, env)
    raise CaffeNotFoundError(
        f"{where}: {path} has no pycaffe ('-c \"import caffe\"') and is no caffe program ('--version'); {HOW_TO}"
    )


def _directory(path: Path, where: str, env: Mapping[str, str]) -> CaffeInstall:
    installed = _stamped(path, where)
    if installed is not None:
        return installed
    if (path / ".work").is_dir():
        hint = spelled_command("caffe", "install", "--prefix", path)
        raise CaffeNotFoundError(f"{where}: {path} is unfinished: run `{hint}` again")
    binary = next((one for one in (path / name for name in _PROGRAMS) if _runs(one)), None)
    if binary is not None:
        return _with_python(binary, where, env, path)
    pythons = [path / name for name in _PYTHONS]
    python = next((one for one in pythons if _runs(one) and ask(one, env) is Answer.PYCAFFE), None)
    modules = _modules_in(path)
    if python is None and modules is not None:
        return _with_binary(_which(("python3", "python"), env), where, env, (modules,))
    if python is None:
        tried = ", ".join((*_PROGRAMS, *(f"{name or '.'}/caffe/_caffe*.so" for name in _MODULES), *_PYTHONS))
        raise CaffeNotFoundError(f"{where}: {path} holds no Caffe (looked for {tried}); {HOW_TO}")
    return _with_binary(python, where, env)


def _with_python(binary: Path | None, where: str, env: Mapping[str, str], root: Path | None = None) -> CaffeInstall:
    """A `caffe` program, and the Python that goes with it: beside it, of its build, or on PATH.

    Args:
        binary: the program; None looks on PATH alone.
        where: in words.
        env: the environment.
        root: the directory that the user named.
    """
    beside: list[Path] = []
    modules: Path | None = None
    if binary is not None:
        # What a link on PATH leads to is an installation, too.
        folders = dict.fromkeys((binary.parent, Path(os.path.realpath(binary)).parent))
        beside = [folder / name for folder in folders for name in ("python3", "python")]
        modules = (None if root is None else _modules_in(root)) or _modules_near(binary)
    if modules is not None:
        own = next((one for one in beside if _runs(one) and ask(one, env) in (Answer.PYTHON, Answer.PYCAFFE)), None)
        return CaffeInstall(binary, own or _which(("python3", "python"), env), where, pythonpath=(modules,))
    on_path = [one for name in ("python3", "python") if (one := _which((name,), env)) is not None]
    # What PATH names first is what the user works with, unless a program was named.
    candidates = [*on_path, *beside] if where == "PATH" else [*beside, *on_path]
    python = next((one for one in candidates if _runs(one) and ask(one, env) is Answer.PYCAFFE), None)
    return CaffeInstall(binary, python, where, tried=tuple(dict.fromkeys(candidates)))


def _with_binary(
    python: Path | None, where: str, env: Mapping[str, str], modules: tuple[Path, ...] = ()
) -> CaffeInstall:
    """A Python with pycaffe, and the `caffe` program that goes with it: beside it, of its build, or on PATH."""
    folders = [] if python is None else [python.parent, Path(os.path.realpath(python)).parent]
    beside = [*(folder / "caffe" for folder in folders), *(one.parent / name for one in modules for name in _PROGRAMS)]
    binary = next((one for one in beside if _runs(one)), None) or _which(("caffe",), env)
    return CaffeInstall(binary, python, where, pythonpath=modules, tried=tuple(dict.fromkeys(beside)))


def _modules_in(folder: Path) -> Path | None:
    """The directory with the compiled `caffe` package of a build."""
    return next((folder / name for name in _MODULES if any((folder / name).glob("caffe/_caffe*.so"))), None)


def _modules_near(program: Path) -> Path | None:
    """Likewise of the build that a program belongs to: it is up to two directories above the program's own."""
    folders = [*program.parents[1:3], *Path(os.path.realpath(program)).parents[1:3]]
    return next((found for folder in folders if (found := _modules_in(folder)) is not None), None)


def _runs(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _which(names: Sequence[str], env: Mapping[str, str]) -> Path | None:
    """The first of some programs that PATH has."""
    found = (shutil.which(name, path=env.get("PATH", os.defpath)) for name in names)
    return next((Path(one) for one in found if one), None)


def _tried(paths: Sequence[Path]) -> str:
    return f" (tried {', '.join(map(str, paths))} and PATH)" if paths else ""


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
