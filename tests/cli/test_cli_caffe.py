"""What only real Caffe can tell: checks that hold and fail, nets that load and train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli_tools import Cli, Everything, SmallNet, complaint, lr_mults
from measured_caffe import MeasuringWorker

from deeprebirth_caffe.engines.caffe.locate import CaffeInstall
from deeprebirth_caffe.numerics import affine

pytestmark = pytest.mark.caffe


def test_doctor_finds_caffe(cli: Cli, caffe_install: CaffeInstall) -> None:
    assert caffe_install.python is not None
    where = str(caffe_install.prefix or caffe_install.python)
    for more in ([], ["--caffe", where]):
        findings = {one["name"]: one for one in cli("doctor", "--json", *more).data["findings"]}
        assert findings["caffe"]["found"] and findings["caffe"]["where"] and not findings["caffe"]["fix"]
    assert "found by --caffe" in findings["caffe"]["where"]


def test_a_check_that_holds(cli: Cli, small: Callable[[str], SmallNet], everything: Everything) -> None:
    net = small("resnet64")
    result = cli("convert", net.deploy, "-w", net.weights, "--exact", "--check", "--json", "-o", "out")
    assert (result.code, result.err) == (0, "")
    (check,) = result.data["check"]
    assert check["passes"] == ["fold-batchnorm", "join-siblings", "inner-to-convolution"]
    assert check["blobs"] > 30 and 0 < check["worst"] < 1e-4
    assert not any("/temporary/" in path for path in everything())


def test_a_deploy_that_holds(cli: Cli, small: Callable[[str], SmallNet]) -> None:
    net = small("resnet64")
    result = cli("deploy", net.train_val, "-w", net.weights, "--input-shape", net.shape, "--check", "-o", "phone")
    assert (
        result.code == 0
        and "\nchecked strip-training, fold-batchnorm, join-siblings, inner-to-convolution: " in result.out
    )


def test_a_broken_fold_fails_the_check(
    cli: Cli, small: Callable[[str], SmallNet], everything: Everything, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = small("resnet64")
    right = affine.fold

    def wrong(*arguments: object, **more: object) -> tuple[np.ndarray, np.ndarray]:
        weight, bias = right(*arguments, **more)  # type: ignore[arg-type]
        return weight, bias + 0.01

    monkeypatch.setattr(affine, "fold", wrong)
    before = everything()
    common = (
        "-w",
        net.weights,
        "--check",
        "-o",
        "out",
        "--no-pass",
        "join-siblings",
        "--no-pass",
        "inner-to-convolution",
    )
    said = complaint(cli("convert", net.deploy, "--exact", *common), 3)
    # The first blob that goes wrong is that of the first convolution.
    assert said.startswith('check failed after fold-batchnorm: blob "conv1" differs by ')
    said = complaint(cli("deploy", net.train_val, "--input-shape", net.shape, *common), 3)
    assert said.startswith('check failed after strip-training, fold-batchnorm: blob "conv1" differs by ')
    assert everything() == before


def test_what_convert_writes_loads(cli: Cli, net28: SmallNet, caffe: MeasuringWorker) -> None:
    result = cli("convert", net28.train_val, "-w", net28.weights, "--input-shape", net28.shape, "-o", "out", "--json")
    loaded = caffe.load(Path("out/deploy.prototxt"), weights=Path("out/init.caffemodel"))
    assert sum(int(np.prod(shape)) for shapes in loaded.params.values() for shape in shapes) > 100_000
    told = cli("inspect", "out/deploy.prototxt", "--json").data
    assert told["memory_required_for_data"] == loaded.memory_required_for_data
    caffe.close(loaded)
    assert result.code == 0


TRAINS = """name: "trains"
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 4 dim: 3 dim: 16 dim: 16 } shape { dim: 4 }
    data_filler { type: "gaussian" } data_filler { type: "constant" value: 1 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 1 } param { lr_mult: 2 }
  convolution_param { num_output: 8 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc" param { lr_mult: 1 } param { lr_mult: 2 }
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
"""


def test_a_net_on_made_up_data_is_checked(cli: Cli, caffe: MeasuringWorker) -> None:
    labels = "shape { dim: 4 }", "shape { dim: 4 dim: 1 dim: 1 dim: 1 }"
    assert labels[0] in TRAINS
    for name, text in (("flat", TRAINS), ("deep", TRAINS.replace(*labels))):
        Path(f"{name}.prototxt").write_text(text, encoding="utf-8")
        told = cli("convert", f"{name}.prototxt", "-o", name, "--check", "--json").data
        assert [one["passes"] for one in told["check"]] == [["strip-training"]]
        assert told["notes"] == ["checked on random weights; convert with -w for the real ones"]


def test_the_solver_trains_rebirth_layers_ten_times_as_fast(cli: Cli, caffe: MeasuringWorker) -> None:
    Path("net.prototxt").write_text(TRAINS, encoding="utf-8")
    assert cli("convert", "net.prototxt", "-o", "out", "--clip-gradients", "0").code == 0
    found = caffe.train(Path("out/solver.prototxt"), 3, rates=True, cwd=Path.cwd())
    assert len(found.losses) == 3 and np.isfinite(found.losses).all() and found.learning_rate == pytest.approx(0.001)
    assert lr_mults("out/net.prototxt") == {"conv_merge": [10, 20], "fc": [1, 2]}
    rates = {name: [round(rate) for rate in values if rate is not None] for name, values in found.rates.items()}
    assert rates == {"conv_merge": [10, 20], "fc": [1, 2]}
