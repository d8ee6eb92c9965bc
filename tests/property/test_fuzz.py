"""A little of what `fuzz/run.py` does at length: no mutated file ends in a traceback, a hang or much memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / "fuzz/run.py"


LIBRARIES = {"hdf5": "h5py", "schedule": "yaml", "lmdb": "lmdb", "leveldb": "plyvel", "picture": "cv2", "net": "onnx"}


@pytest.mark.parametrize(
    ("target", "runs"),
    [
        *(("prototxt", 300), ("caffemodel", 300), ("solver", 300), ("net", 150), ("hdf5", 150), ("schedule", 60)),
        *(("log", 300), ("folder", 150), ("lmdb", 300), ("leveldb", 80), ("picture", 300)),
    ],
)
def test_mutated_files(target: str, runs: int, tmp_path: Path) -> None:
    if target in LIBRARIES:
        pytest.importorskip(LIBRARIES[target])
    command = [sys.executable, str(RUN), target, "--runs", str(runs), "--jobs", "1", "--keep", str(tmp_path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    assert f"{runs} inputs" in done.stdout


def test_a_finding_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RUN.parent))
    for file in RUN.parent.glob("*.py"):  # the folder of the tests has modules of the same names
        monkeypatch.delitem(sys.modules, file.stem, raising=False)
    import run

    def broken(data: bytes, folder: Path) -> None:
        raise KeyError("x")

    target = run.Target(lambda: [b""], lambda random, seeds: b"", broken)
    found = run.try_one(target, b"", tmp_path)
    assert found is not None
    assert found[0].startswith("KeyError at test_fuzz.py")
