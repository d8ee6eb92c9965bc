"""Phases, levels and stages against real Caffe: which layers live; a rewrite holds in all variants of a file."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deeprebirth_caffe.commands.convert import convert
from deeprebirth_caffe.formats.prototxt import format_message
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    from measured_caffe import DescribedNet, MeasuringWorker

STAGES = ((), ("a",), ("b",), ("a", "b"), ("c",))
LEVELS = (-1, 0, 1, 2)


def rules() -> list[pb.NetStateRule]:
    found = []
    for phase, low, high, stage, not_stage in itertools.product(
        (None, pb.TRAIN, pb.TEST), (None, 0, 1), (None, 0, 1), ((), ("a",), ("a", "b")), ((), ("b",))
    ):
        rule = pb.NetStateRule(stage=stage, not_stage=not_stage)
        if phase is not None:
            rule.phase = phase
        if low is not None:
            rule.min_level = low
        if high is not None:
            rule.max_level = high
        found.append(rule)
    return found


def grid() -> pb.NetParameter:
    """A layer for each rule, as include and as exclude, and for pairs of rules."""
    net = pb.NetParameter()
    net.layer.add(name="data", type="Input", top=["data"]).input_param.shape.add(dim=[1])
    every = rules()
    for index, rule in enumerate(every):
        other = every[(index * 37 + 11) % len(every)]
        for kind, some in (
            ("include", [rule]),
            ("exclude", [rule]),
            ("include", [rule, other]),
            ("exclude", [rule, other]),
        ):
            name = f"{kind}{len(some)}_{index}"
            layer = net.layer.add(name=name, type="Power", bottom=["data"], top=[name])
            getattr(layer, kind).extend(some)
    return net


def own_layers(real: DescribedNet) -> list[str]:
    """The layers that are the file's own: Caffe adds Splits."""
    return [name for name, kind in real.layers if kind != "Split"]


@pytest.mark.parametrize("own", ["", 'state { stage: "b" level: 1 }'])
@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_the_same_layers_live(caffe: MeasuringWorker, tmp_path: Path, phase: str, own: str) -> None:
    text = own + format_message(grid())
    path = tmp_path / "grid.prototxt"
    path.write_text(text)
    net = Net.parse(text)
    for level, stages in itertools.product(LEVELS, STAGES):
        real = caffe.load(path, phase, level=level, stages=stages)
        try:
            if level or stages:
                live = [layer.name for layer in net.view(phase, stages, level).layers]
                assert live == own_layers(real), (level, stages)
        finally:
            caffe.close(real)
    for view in net.views[:20]:
        if view.state.phase == phase:
            real = caffe.load(path, phase, level=view.state.level, stages=sorted(view.state.stages))
            assert [layer.name for layer in view.layers] == own_layers(real), view.state
            caffe.close(real)


BODY = """
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "norm1" type: "LRN" bottom: "pool1" top: "norm1" }
layer { name: "conv2" type: "Convolution" bottom: "norm1" top: "conv2"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "pool2" type: "Pooling" bottom: "conv2" top: "pool2" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool2" top: "fc"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
"""


def source(rule: str, batch: int, *, label: bool = True) -> str:
    shapes = f"shape {{ dim: {batch} dim: 3 dim: 16 dim: 16 }}" + (f" shape {{ dim: {batch} }}" if label else "")
    tops = 'top: "data" top: "label"' if label else 'top: "data"'
    return f'layer {{ name: "data" type: "DummyData" {tops} dummy_data_param {{ {shapes} }} include {{ {rule} }} }}\n'


def head(name: str, kind: str, rule: str) -> str:
    label = "" if kind == "Softmax" else 'bottom: "label"'
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "fc" {label} top: "{name}" {rule} }}\n'


VARIANTS = (
    source("phase: TRAIN", 4)
    + source('phase: TEST stage: "val"', 2)
    + source('phase: TEST stage: "on-train"', 3)
    + source('stage: "deploy"', 1, label=False).replace('"data" type', '"input" type')
    + BODY
    + head("loss", "SoftmaxWithLoss", 'exclude { stage: "deploy" }')
    + head("accuracy", "Accuracy", 'include { phase: TEST stage: "val" }')
    + head("prob", "Softmax", 'include { phase: TEST stage: "deploy" }')
)
LEVELLED = (
    source("max_level: 0", 4)
    + source("min_level: 1", 2)
    + BODY
    + head("loss", "SoftmaxWithLoss", "include { phase: TRAIN }")
    + head("accuracy", "Accuracy", "include { phase: TEST min_level: 1 }")
    + head("prob", "Softmax", "include { phase: TEST max_level: 0 }")
)
TWO_STAGES = (
    source('stage: "small"', 2)
    + source('stage: "large"', 4)
    + BODY
    + head("loss", "SoftmaxWithLoss", 'include { stage: "learn" }')
    + head("accuracy", "Accuracy", 'include { stage: "measure" phase: TEST }')
)
OWN_STATE = 'state { stage: "small" }\n' + TWO_STAGES.replace('include { stage: "learn" }', "")
FILES = {
    "variants": (VARIANTS, {"TRAIN", "TEST val", "TEST on-train", "TEST deploy"}),
    "levels": (LEVELLED, {"TRAIN", "TRAIN level 1", "TEST", "TEST level 1"}),
    "two": (TWO_STAGES, {"TRAIN learn small", "TRAIN large learn", "TEST measure small", "TEST large measure"}),
    "own": (OWN_STATE, {"TRAIN small", "TEST small", "TEST measure small"}),
}


@pytest.mark.parametrize("name", FILES)
def test_a_rewrite_holds_in_every_variant(caffe: MeasuringWorker, tmp_path: Path, name: str) -> None:
    text, states = FILES[name]
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    made = convert(ConvertOptions(path, out=tmp_path / "out"))
    found = {str(view.state): view.state for view in made.original.views}
    assert states <= set(found)
    assert [layer.name for layer in made.net.layers if layer.name.endswith("_merge")] == ["conv1_merge", "conv2_merge"]
    converted = Net.read(tmp_path / "out/net.prototxt")
    extra = set(made.original.header.state.stage)
    for state in found.values():
        for net, file in ((made.original, path), (converted, tmp_path / "out/net.prototxt")):
            real = caffe.load(file, state.phase, level=state.level, stages=sorted(state.stages - extra))
            view = net.view(state.phase, state.stages, state.level)
            assert [layer.name for layer in view.layers if layer.type != "Split"] == own_layers(real), str(state)
            shapes = {blob: shape for blob, shape in real.blobs.items() if blob not in real.copies}
            assert {blob: value.shape for blob, value in view.blobs.items()} == shapes
            caffe.close(real)


NET = 'net: "net.prototxt"'
TESTS = 'test_iter: 1 test_iter: 1 test_interval: 10 test_state { stage: "val" } test_state { stage: "on-train" }'
ONE_TEST = 'test_iter: 1 test_interval: 10 test_state { stage: "val" }'
RATE = 'base_lr: 0.1 lr_policy: "fixed" max_iter: 5 solver_mode: CPU snapshot_prefix: "s"'
SOLVERS = {
    "net": f"{NET} {TESTS} {RATE}",
    "state": f'{NET} {TESTS} {RATE} train_state {{ level: 2 stage: "extra" }}',
    "train": f'train_net: "net.prototxt" {RATE}',
    "inline": f"net_param {{ {VARIANTS} }} {TESTS} {RATE}",
    "inline-train": f"train_net_param {{ {VARIANTS} }} {RATE}",
    "both": f'train_net: "net.prototxt" test_net: "net.prototxt" test_net: "net.prototxt" {TESTS} {RATE}',
    "inline-test": f"train_net_param {{ {VARIANTS} }} test_net_param {{ {VARIANTS} }} {ONE_TEST} {RATE}",
    "train-inline-test": f'train_net: "net.prototxt" test_net_param {{ {VARIANTS} }} {ONE_TEST} {RATE}',
    "net-inline-test": f"{NET} test_net_param {{ {VARIANTS} }} {TESTS} {RATE}",
}


@pytest.mark.parametrize("name", SOLVERS)
def test_the_solver_of_a_converted_net(caffe: MeasuringWorker, tmp_path: Path, name: str) -> None:
    """Real Caffe builds the training net and every test net that the written solver asks for, and trains."""
    (tmp_path / "net.prototxt").write_text(VARIANTS)
    (tmp_path / "solver.prototxt").write_text(SOLVERS[name])
    out = tmp_path / "out"
    convert(ConvertOptions(tmp_path / "net.prototxt", solver=tmp_path / "solver.prototxt", out=out))
    result = caffe.train(out / "solver.prototxt", 1, rates=True, cwd=tmp_path)
    assert "conv1_merge" in result.rates
    assert result.learning_rate == pytest.approx(0.001)
