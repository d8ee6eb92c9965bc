"""What an installed package needs and an editable one hides."""

from __future__ import annotations

import configparser
import os
from pathlib import Path

import deeprebirth_caffe

ROOT = Path(deeprebirth_caffe.__file__).parent
LEFT_OUT = {"docs/results"}
"""Folders of raw figures, which stay in the repository."""


def setup() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT.parent / "setup.cfg", encoding="utf-8")
    return config


def test_every_folder_with_code_is_a_package() -> None:
    folders = {path.parent for path in ROOT.rglob("*.py")}
    assert len(folders) > 10
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_every_file_beside_the_code_goes_into_the_wheel() -> None:
    patterns = setup()["options.package_data"]["deeprebirth_caffe"].split("\n")
    packed = {str(path.relative_to(ROOT)) for pattern in patterns if pattern for path in ROOT.glob(pattern)}
    there = set()
    for parent, folders, names in os.walk(ROOT, followlinks=True):
        here = Path(parent).relative_to(ROOT)
        folders[:] = [name for name in folders if name != "__pycache__" and str(here / name) not in LEFT_OUT]
        there |= {str(here / name) for name in names if not name.endswith((".py", ".pyc"))}
    assert packed == there
    assert packed >= {"py.typed", "engines/caffe/install_caffe.sh", "configs/googlenet.yaml", "docs/caffe.md"}


def test_the_folders_at_the_top_are_those_in_the_package() -> None:
    for name in ("configs", "docs"):
        assert (ROOT / name).samefile(ROOT.parent / name)


def test_the_metadata_is_whole() -> None:
    metadata = setup()["metadata"]
    assert all(metadata[key] for key in ("author", "description", "keywords", "license", "license_files"))
    minors = [line.rpartition(".")[2] for line in metadata["classifiers"].split("\n") if "Python :: 3." in line]
    assert minors[0] == setup()["options"]["python_requires"].removeprefix(">=3.")
    assert minors == [str(minor) for minor in range(int(minors[0]), int(minors[-1]) + 1)]


def test_all_brings_what_each_extra_brings() -> None:
    extras = setup()["options.extras_require"]
    everything = set(extras["all"].split("\n"))
    for name in extras:
        assert name in ("all", "dev") or set(extras[name].split("\n")) <= everything, name
