"""Fixtures for tests of the command line."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_tools import Cli, SmallNet, files_under, run_here, run_process

from deeprebirth_caffe import zoo
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.ir.probe import save_weights
from deeprebirth_caffe.nets.load import load_net

SMALL = {"googlenet28": (1, 28, 28), "alexnet64": (3, 64, 64), "resnet64": (3, 64, 64)}
"""Nets of the zoo that these tests convert, with the shape of their data."""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test runs in a folder of its own, and what is left in the temporary folder can be seen."""
    for name in ("work", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.fixture
def cli() -> Cli:
    """`cli("convert", …)` -> Result, in this process."""
    return run_here


@pytest.fixture
def process() -> Cli:
    """`process("convert", …)` -> Result, as a real process."""
    return run_process


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    for name, shape in SMALL.items():
        zoo.write(name, folder / name)
        net = load_net(folder / name / "train_val.prototxt", shapes={"data": shape})
        save_weights(folder / name / "random.caffemodel", net, random_weights(net))
    return folder


@pytest.fixture
def small(_made: Path) -> Callable[[str], SmallNet]:
    """`small("googlenet28")` copies a net of the zoo into the test's folder."""

    def copy(name: str = "googlenet28") -> SmallNet:
        shutil.copytree(_made / name, name, dirs_exist_ok=True)
        shape = "data=" + ",".join(map(str, SMALL[name]))
        files = ("train_val.prototxt", "deploy.prototxt", "solver.prototxt", "random.caffemodel")
        return SmallNet(*(f"{name}/{file}" for file in files), shape)

    return copy


@pytest.fixture
def net28(small: Callable[[str], SmallNet]) -> SmallNet:
    """GoogLeNet for digits: LRN, pooling, inception modules, an auxiliary head."""
    return small("googlenet28")


@pytest.fixture
def everything(tmp_path: Path) -> Callable[[], dict[str, str]]:
    """What lies in the test's folder and in its temporary folder now."""
    return lambda: files_under(tmp_path)
