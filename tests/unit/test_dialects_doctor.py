"""`rebirth doctor NET`: which fork a net is written for, and by what that is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from nets import conv, layer, pool, rewrite

from deeprebirth_caffe.cli import rebirth
from deeprebirth_caffe.commands.dialects import dialects
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.ops import Op
from deeprebirth_caffe.ops.base import same_shape
from deeprebirth_caffe.ops.forks import table
from deeprebirth_caffe.passes.relearn.pool_to_stride import PoolToStride

DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 8 dim: 10 dim: 10 } } }\n'


def net(tmp_path: Path, *layers: str, header: str = "") -> Path:
    """A file in which each layer reads the data."""
    path = tmp_path / "net.prototxt"
    lines = [f'layer {{ name: "x{i}" bottom: "data" top: "x{i}" {fields} }}\n' for i, fields in enumerate(layers)]
    path.write_text(header + DATA + "".join(lines))
    return path


@pytest.mark.parametrize(
    "layers, header, names",
    [
        (['type: "ReLU"'], "", []),
        (['type: "Permute" permute_param { order: 1 }', 'type: "Normalize"'], "", [["ssd"]]),
        (['type: "SmoothL1Loss"'], "", [["ssd", "rcnn"]]),
        (['type: "SmoothL1Loss"', 'type: "ROIPooling"'], "", [["rcnn"]]),
        (['type: "ReLU" engine: "MKLDNN"'], "", [["intel"]]),
        (['type: "BatchNorm" batch_norm_param { scale_bias: true }'], "default_forward_type: FLOAT16\n", [["nvcaffe"]]),
        (['type: "BN" bn_param { bn_mode: INFERENCE }', 'type: "Upsample"'], "", [["segnet"]]),
        (['type: "Interp"', 'type: "BN"'], "", [["deeplab"]]),
        (['type: "BN"'], "", [["segnet", "deeplab", "windows"]]),
        (['type: "Convolution" convolution_param { num_output: 1 kernel_size: 1 hole: 2 }'], "", [["deeplab"]]),
        (['type: "ReLU6"', 'type: "Pooling" pooling_param { kernel_size: 2 ceil_mode: false }'], "", [["mobile"]]),
        (['type: "SoftmaxWithLoss" bottom: "l" loss_param { normalization: PRE_FIXED }'], 'input: "l"\n', [["rcnn"]]),
        (['type: "Convolution" convolution_param { num_output: 1 kernel_size: 1 engine: LIBDNN }'], "", [["opencl"]]),
        (['type: "Eltwise" eltwise_param { operation: MIN }'], "", []),
        (['type: "FcRistretto" quantization_param { bw_params: 8 }'], "", [["ristretto"]]),
        (['type: "InnerProduct" inner_product_param { num_output: 1 normalize: true }'], "", [["windows"]]),
        (['type: "ReLU6"', 'type: "Permute"', 'type: "PriorBox"'], "", [["ssd"], ["mobile"]]),
        (['type: "Hologram"'], "", []),
    ],
)
def test_the_fork_is_named(tmp_path: Path, layers: list[str], header: str, names: list[list[str]]) -> None:
    found = dialects(net(tmp_path, *layers, header=header))
    assert [one.names for one in found.dialects] == names
    assert found.plain == (layers == ['type: "ReLU"'])


def test_the_evidence_has_its_place(tmp_path: Path) -> None:
    path = net(
        tmp_path, 'type: "Pooling"\n  pooling_param { kernel_size: 2 ceil_mode: false twist: 1 }', 'type: "Hologram"'
    )
    found = dialects(path)
    facts = [(one.layer, one.kind, one.what, one.where, one.understood) for one in found.evidence]
    assert facts == [
        ("x0", "field", "pooling_param.ceil_mode", f"{path}:3:34", True),
        ("x0", "field", "pooling_param.twist", f"{path}:3:51", False),
        ("x1", "type", "Hologram", f"{path}:4:45", False),
    ]
    assert found.portable == []
    reasons = {one.layer: one.reason for one in found.not_portable}
    assert "pooling_param.twist: nobody here knows" in reasons["x0"]
    assert "layer type Hologram" in reasons["x1"]


def test_a_net_that_is_not_sound_is_still_named(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text('layer { name: "p" type: "Permute" bottom: "nowhere" top: "p" }\n')
    found = dialects(path)
    assert found.dialects[0].names == ["ssd"]
    assert "nowhere" in found.not_portable[0].reason


def test_a_type_is_said_to_merge_where_passes_go_through_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = table.ForkType("Gate", "a gate", lambda values: Op("Gate", same_shape, pointwise=True))
    monkeypatch.setitem(table._TYPES, "Gate", gate)
    for kind, through in (("Gate", True), ("ReLU6", True), ("ShuffleChannel", False), ("Hologram", False)):
        path = tmp_path / f"{kind}.prototxt"
        path.write_text(DATA + conv("conv", "data") + layer(kind, "x", "conv") + pool("pool", "x"))
        (evidence,) = dialects(path).evidence
        made = rewrite(Net.read(path), PoolToStride())
        assert (evidence.merges, bool(made.rewrites)) == (through, through)


def test_the_command(tmp_path: Path) -> None:
    path = net(tmp_path, 'type: "ReLU6"', 'type: "Permute"', *['type: "Axpy"'] * 7)
    result = CliRunner().invoke(rebirth, ["doctor", str(path)])
    assert result.exit_code == 0, result.output
    assert f"{path}: MobileNet, ShuffleNet, DenseNet and SENet forks, by ReLU6, Axpy" in result.output
    assert "type ReLU6 (min(max(x, 0), 6)): merged as plain Caffe's" in result.output
    assert "    and 2 more" in result.output
    assert "`rebirth convert --portable` says x0 in plain Caffe" in result.output
    assert "not portable: x1 stays a fork's: plain Caffe has no layer type Permute" in result.output
    data = json.loads(CliRunner().invoke(rebirth, ["doctor", "--json", str(path)]).output)
    assert data["version"] == 1 and not data["plain"] and len(data["evidence"]) == 9
    plain = net(tmp_path, 'type: "ReLU"')
    assert CliRunner().invoke(rebirth, ["doctor", str(plain)]).output == f"{plain}: plain Caffe\n"


def test_convert_says_what_it_made_portable(tmp_path: Path) -> None:
    path = net(tmp_path, 'type: "ReLU6"', 'type: "Permute"', header='engine: "MKLDNN"\ngrid: 7\n')
    result = CliRunner().invoke(rebirth, ["convert", "--portable", str(path), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "portable: x0 -> x0" in result.output and "x0: type ReLU6 -> Clip" in result.output
    assert "plain Caffe has no layer type Permute" in result.output
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["options"]["passes"][0] == "portable"
    assert manifest["rewrites"][0]["pass"] == "portable" and manifest["rewrites"][0]["kind"] == "exact"
    assert any("the net's own engine went" in note for note in manifest["notes"])
    assert any("grid stay" in note for note in manifest["notes"])
    text = (tmp_path / "out" / "net.prototxt").read_text()
    assert "engine" not in text and "grid: 7" in text


def test_layers_that_run_code_are_told(tmp_path: Path) -> None:
    """As data and in words; what a net calls them does not reach the terminal."""
    python = r'type: "Python" python_param { module: "mine" layer: "Mi\302\233ne" }'
    path = net(tmp_path, python, r'type: "\033]0;title\007"')
    [found] = dialects(path).python_layers
    assert found.where.startswith(f"{path}:2:") and (found.module, found.class_) == ("mine", "Mi\x9bne")
    said = CliRunner().invoke(rebirth, ["doctor", str(path)])
    assert said.exit_code == 0
    assert "x0 runs the code of mine.Mi\\x9bne in real Caffe" in said.output and "--python-layers" in said.output
    assert said.output.replace("\n", "").isprintable() and "\\x1b]0;title\\x07" in said.output
