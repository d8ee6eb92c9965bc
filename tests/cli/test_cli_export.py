"""`rebirth export`."""

from __future__ import annotations

from pathlib import Path

import jsondocs
import pytest
from cli_tools import Cli, Everything, SmallNet, complaint

pytest.importorskip("onnx")


def test_writes_a_model(cli: Cli, net28: SmallNet) -> None:
    import onnx

    result = cli("export", net28.deploy, "-w", net28.weights, "-o", "net.onnx")
    assert (result.code, result.err) == (0, ""), result
    assert result.out.startswith("wrote net.onnx: opset 13, any batch, ")
    model = onnx.load("net.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [one.name for one in model.graph.input] == ["data"]


def test_json(cli: Cli, net28: SmallNet) -> None:
    result = cli(
        "export", net28.deploy, "-w", net28.weights, "-o", "net.onnx", "--json", "--opset", "17", "--batch", "4"
    )
    assert (result.code, result.err) == (0, "")
    jsondocs.check(result.data, "export")
    assert (result.data["opset"], result.data["batch"], result.data["check"]) == (17, 4, None)
    assert result.data["inputs"][0]["shape"] == [4, 1, 28, 28]
    assert result.data["bytes"] == Path("net.onnx").stat().st_size


def test_a_training_net_is_deployed_first(cli: Cli, net28: SmallNet) -> None:
    common = ("export", net28.train_val, "-w", net28.weights, "-o", "net.onnx", "--json")
    result = cli(*common, "--input-shape", net28.shape)
    jsondocs.check(result.data, "export")
    assert any("rebirth deploy" in note for note in result.data["notes"])
    assert Path("net.onnx").exists()


def test_refusals_leave_nothing(cli: Cli, net28: SmallNet, everything: Everything) -> None:
    Path("bad.prototxt").write_text(
        Path(net28.deploy).read_text() + 'layer { name: "cols" type: "Im2col" bottom: "data" top: "cols"'
        " convolution_param { kernel_size: 3 } }\n"
    )
    before = everything()
    refused = complaint(cli("export", "bad.prototxt", "-w", net28.weights, "-o", "net.onnx"), 3)
    assert 'layer "cols" (Im2col) has no ONNX form' in refused
    fork = Path(net28.deploy).read_text() + 'layer { name: "odd" type: "Permute" bottom: "data" top: "odd" }\n'
    Path("bad.prototxt").write_text(fork)
    before = everything()
    refused = complaint(cli("export", "bad.prototxt", "-w", net28.weights, "-o", "net.onnx"), 3)
    assert "odd" in refused and "Permute" in refused
    assert "--opset" in complaint(cli("export", net28.deploy, "-w", net28.weights, "-o", "net.onnx", "--opset", "9"), 2)
    assert "no directory" in complaint(cli("export", net28.deploy, "-w", net28.weights, "-o", "no/net.onnx"), 1)
    assert "-w" in complaint(cli("export", net28.deploy, "-o", "net.onnx"), 2)
    assert everything() == before


def test_a_file_that_is_there(cli: Cli, net28: SmallNet) -> None:
    Path("net.onnx").write_text("mine")
    assert "--force" in complaint(cli("export", net28.deploy, "-w", net28.weights, "-o", "net.onnx"), 1)
    assert Path("net.onnx").read_text() == "mine"
    assert cli("export", net28.deploy, "-w", net28.weights, "-o", "net.onnx", "--force").code == 0


@pytest.mark.caffe
def test_check(cli: Cli, net28: SmallNet) -> None:
    pytest.importorskip("onnxruntime")
    common = ("export", net28.deploy, "-w", net28.weights, "--check")
    result = cli(*common, "-o", "net.onnx", "--json")
    jsondocs.check(result.data, "export")
    assert [(one["blob"], one["batch"]) for one in result.data["check"]] == [("prob", 1), ("prob", 3)]
    assert all(one["worst"] < 1e-4 for one in result.data["check"])
    text = cli(*common, "-o", "two.onnx").out
    assert "checked prob at batch 3: agrees to " in text


@pytest.mark.caffe
def test_a_check_that_does_not_hold(cli: Cli, net28: SmallNet, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    from deeprebirth_caffe.to_onnx import table
    from deeprebirth_caffe.to_onnx.graph import Site

    def wrong(site: Site) -> list[str]:
        return [site.op("Relu", site.op("Neg", site.x.name))]

    monkeypatch.setitem(table.TRANSLATORS, "ReLU", wrong)
    result = cli("export", net28.deploy, "-w", net28.weights, "-o", "net.onnx", "--check")
    assert 'output "prob"' in complaint(result, 3)
    assert not Path("net.onnx").exists()


def test_doctor_knows_the_engines(cli: Cli) -> None:
    findings = {one["name"]: one for one in cli("doctor", "--caffe", "nowhere", "--json").data["findings"]}
    for name in ("onnx", "onnxruntime", "opencv-python-headless", "MNN", "ncnn", "pnnx"):
        one = findings[name]
        assert one["found"] == bool(one["version"]) == (not one["fix"])
        assert one["found"] or one["fix"].startswith(f"pip install '{name}")
    assert findings["onnx"]["found"]


def test_without_the_library(cli: Cli, net28: SmallNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    monkeypatch.setattr("deeprebirth_caffe.engines.libraries.importlib.util.find_spec", lambda name: None)
    said = complaint(cli("export", net28.deploy, "-w", net28.weights, "-o", "net.onnx"), 1)
    assert said.startswith("onnx is not installed: pip install '")
