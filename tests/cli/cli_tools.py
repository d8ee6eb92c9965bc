"""Runs `rebirth`, in this process (fast) or as a real one (for streams and signals), and looks at what it did."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deeprebirth_caffe.cli import main
from deeprebirth_caffe.ir import Net


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


@dataclass(frozen=True)
class SmallNet:
    """Files of one net in the test's own folder."""

    train_val: str
    deploy: str
    solver: str
    weights: str
    shape: str


Cli = Callable[..., Result]
Everything = Callable[[], dict[str, str]]


class Echo:
    """Stands in for real Caffe: one blob, the same for every net, or off by `error` for the net after."""

    name = "echo"

    def __init__(self, error: float = 0.0) -> None:
        self.error = error

    def session(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def forward(
        self,
        net: Path | str,
        weights: Path | str | None,
        inputs: Mapping[str, np.ndarray],
        blobs: Sequence[str] | None = None,
    ) -> dict[str, np.ndarray]:
        wrong = self.error if Path(net).name.startswith("after") else 0.0
        return {**inputs, "echo": np.array([1.0, 2.0 + wrong], dtype=np.float32)}


def run_here(*arguments: object) -> Result:
    """Runs `rebirth` in this process, its error handling included."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    return Result(code, *texts)


def run_process(
    *arguments: object,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    python: Sequence[str] = ("-m", "deeprebirth_caffe.cli"),
) -> Result:
    """Runs `rebirth` as a process."""
    command = [sys.executable, *python, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, env={**os.environ, **(env or {})}, cwd=cwd, timeout=120)
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


def listing(folder: str | Path = ".") -> list[str]:
    """The names in a folder, hidden ones too."""
    return sorted(path.name for path in Path(folder).iterdir())


def files_under(*folders: Path | str) -> dict[str, str]:
    """Every file and folder, hidden ones too, with what is in it."""
    found = {}
    for folder in folders:
        for path in sorted(Path(folder).rglob("*")):
            what = hashlib.sha1(path.read_bytes()).hexdigest() if path.is_file() else "folder"
            found[str(path)] = str(path.readlink()) if path.is_symlink() else what
    return found


def lr_mults(path: str | Path) -> dict[str, list[float]]:
    """The lr_mult of each layer that says some."""
    return {
        layer.name: [spec.lr_mult for spec in layer.param.param] for layer in Net.read(path).layers if layer.param.param
    }


def complaint(result: Result, code: int) -> str:
    """The one line of a command that failed as documented."""
    assert (result.code, result.out) == (code, ""), result
    assert result.err.startswith("error: ") and result.err.endswith("\n"), result.err
    assert len(result.err.splitlines()) == 1 and "Traceback" not in result.err, result.err
    return result.err.removeprefix("error: ").rstrip("\n")
