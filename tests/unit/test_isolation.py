"""No process of ours takes code from the folder that it is started in."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import deeprebirth_caffe
from deeprebirth_caffe import isolation
from deeprebirth_caffe.isolation import module_path, python_words

OWN = str(Path(deeprebirth_caffe.__file__).parent.parent)
TRAP = "import pathlib\npathlib.Path(__file__ + '.ran').touch()\nraise ImportError('a stub')\n"
TRAPS = ("random", "json", "numpy", "click", "runpy", "pkgutil", "sitecustomize", "torch", "deeprebirth_caffe")


@pytest.fixture
def trapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose modules leave a mark when they are run."""
    for name in TRAPS:
        (tmp_path / f"{name}.py").write_text(TRAP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_child_runs_nothing_of_the_current_folder(trapped: Path) -> None:
    done = subprocess.run(
        python_words("deeprebirth_caffe", ["zoo", "list"]), stdout=subprocess.PIPE, text=True, check=True
    )
    assert "googlenet" in done.stdout
    assert not list(trapped.glob("*.ran"))


def test_the_program_itself_forgets_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `python -m`, and with an empty part in PYTHONPATH; what Python itself imports before is not ours."""
    for name in ("json", "click", "numpy", "unicodedata"):
        (tmp_path / f"{name}.py").write_text(TRAP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{OWN}{os.pathsep}")
    subprocess.run([sys.executable, "-m", "deeprebirth_caffe", "zoo", "list"], stdout=subprocess.DEVNULL, check=True)
    assert not list(tmp_path.glob("*.ran"))


def test_the_path_of_a_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "named").mkdir()
    here, named = str(tmp_path), str(tmp_path / "named")
    rest = ["/python/lib", OWN]
    for pythonpath, path, expected in (
        ("", [here, *rest], rest),
        ("", ["", *rest], rest),
        (f"{named}:", [here, named, here, *rest], [named, *rest]),
        (f".:{named}", [here, here, named, *rest], [named, *rest]),
        (here, [here, here, *rest], [here, *rest]),
        ("named", [here, "named", *rest], [named, *rest]),
        ("", ["/script", *rest, here], ["/script", *rest, here]),
        ("", ["/script", "/python/lib"], ["/script", "/python/lib", OWN]),
    ):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PYTHONPATH", pythonpath)
        monkeypatch.setattr(sys, "path", path)
        assert module_path() == expected, (pythonpath, path)
    # A checkout that is the current folder is where the program itself comes from.
    monkeypatch.chdir(OWN)
    monkeypatch.setattr(sys, "path", [OWN, "/python/lib"])
    assert module_path() == [OWN, "/python/lib"]


def test_every_python_is_started_this_way() -> None:
    """`sys.executable` stands in one place; whoever else starts a Python says why here."""
    others = {
        "deeprebirth_caffe/engines/hosted.py": "names it in an error",
        "benchmarks/startup.py": "times a bare Python",
        "scripts/test_kernels.py": "runs the tests of the folder it is started in",
        "scripts/replay.py": "runs the checkouts that it compares",
    }
    found = set()
    for folder in ("deeprebirth_caffe", "scripts", "benchmarks"):
        for file in Path(OWN, folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.List) and node.elts and ast.unparse(node.elts[0]) == "sys.executable":
                    words = ast.unparse(node)
                    if "__file__" not in words:  # a script by its path, which is its own folder's
                        found.add(str(file.relative_to(OWN)))
    assert found - set(others) == {str(Path(isolation.__file__).relative_to(OWN))}
