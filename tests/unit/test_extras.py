"""What to type for libraries that are missing: the packages themselves, and only those that are not here."""

from __future__ import annotations

import importlib.metadata

import pytest

from deeprebirth_caffe import extras
from deeprebirth_caffe.extras import pip_install, version_of

REQUIRES = [
    "numpy<3,>=1.23",
    'lmdb<3,>=1.4; extra == "data"',
    'opencv-python-headless<6,>=4.8; extra == "data"',
    'plyvel<2,>=1.5; (platform_system != "Windows" and python_version < "3.13") and extra == "data"',
    "PyYAML (>=6) ; extra == 'run'",
]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The packages that are installed, by version; a test adds some."""
    packages: dict[str, str] = {}

    def version(name: str) -> str:
        if name not in packages:
            raise importlib.metadata.PackageNotFoundError(name)
        return packages[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: REQUIRES)
    return packages


def test_all_that_are_missing(installed: dict[str, str]) -> None:
    assert pip_install("data") == "pip install 'lmdb<3,>=1.4' 'opencv-python-headless<6,>=4.8'"
    installed["lmdb"] = "1.5"
    assert pip_install("data") == "pip install 'opencv-python-headless<6,>=4.8'"
    assert pip_install("run") == "pip install 'PyYAML (>=6)'"


def test_another_package_brings_the_same_library(installed: dict[str, str]) -> None:
    installed["opencv-contrib-python"] = "4.9"
    assert version_of("opencv-python-headless") == "4.9"
    assert pip_install("data") == "pip install 'lmdb<3,>=1.4'"


def test_what_is_installed_and_broken_is_installed_anew(installed: dict[str, str]) -> None:
    installed["PyYAML"] = "6.0"
    assert pip_install("run") == "pip install 'PyYAML (>=6)'"


def test_one_package(installed: dict[str, str]) -> None:
    assert pip_install("data", "plyvel") == "pip install 'plyvel<2,>=1.5'"
    assert pip_install("data", "lmdb") == "pip install 'lmdb<3,>=1.4'"


@pytest.mark.parametrize("extra, package", [("dat", ""), ("data", "torch"), ("data", "num")])
def test_an_extra_that_the_installation_does_not_know(installed: dict[str, str], extra: str, package: str) -> None:
    assert pip_install(extra, package).startswith("pip install -e '")


def test_from_a_clone_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "DISTRIBUTION", "no-such-distribution")
    assert pip_install("data").startswith("pip install -e '") and pip_install("data").endswith("[data]'")
