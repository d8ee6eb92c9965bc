"""A little of what `fuzz/run.py` does at length: no mutated file ends in a traceback, a hang or much memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / "fuzz/run.py"


@pytest.mark.parametrize("target", ["prototxt", "caffemodel", "solver"])
def test_mutated_files(target: str, tmp_path: Path) -> None:
    command = [sys.executable, str(RUN), target, "--runs", "500", "--jobs", "1", "--keep", str(tmp_path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    assert "500 inputs" in done.stdout


def test_a_finding_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RUN.parent))
    import run

    def broken(data: bytes, folder: Path) -> None:
        raise KeyError("x")

    target = run.Target(lambda: [b""], lambda random, seeds: b"", broken)
    found = run.try_one(target, b"", tmp_path)
    assert found is not None
    assert found[0].startswith("KeyError at test_fuzz.py")
