"""Which Caffe goes to which device."""

from __future__ import annotations

from pathlib import Path

import pytest

from deeprebirth_caffe.commands.device import usual_prefix
from deeprebirth_caffe.engines.caffe.locate import default_prefix
from deeprebirth_caffe.errors import RebirthError


@pytest.fixture(autouse=True)
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REBIRTH_CAFFE_PREFIX", str(tmp_path / "caffe"))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


def test_the_devices_best_processor_goes_first() -> None:
    for arch in ("arm64", "armhf"):
        default_prefix(arch).mkdir()
    assert usual_prefix(["aarch64", "arm"]) == default_prefix("arm64")
    assert usual_prefix(["arm"]) == default_prefix("armhf")
    assert default_prefix("armhf").name == "caffe-armhf"


def test_a_64_bit_device_takes_the_32_bit_caffe_that_is_here() -> None:
    default_prefix("armhf").mkdir()
    assert usual_prefix(["aarch64", "arm"]) == default_prefix("armhf")


@pytest.mark.parametrize(("machines", "arch"), [(["arm"], "armhf"), (["aarch64", "arm"], "arm64"), (["mips"], "arm64")])
def test_what_to_install(machines: list[str], arch: str) -> None:
    with pytest.raises(RebirthError, match=f"run `rebirth caffe install --arch {arch}`"):
        usual_prefix(machines)
