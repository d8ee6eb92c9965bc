"""Files of one phase, as SSD's and Intel Caffe's are published: each alone, and the two of a solver together."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from deeprebirth_caffe.cli import rebirth
from deeprebirth_caffe.commands.convert import convert
from deeprebirth_caffe.commands.deploy import deploy
from deeprebirth_caffe.commands.diff import diff
from deeprebirth_caffe.commands.inspect import inspect
from deeprebirth_caffe.commands.tucker import tucker
from deeprebirth_caffe.engines.plan import read_plan
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.formats.files import atomic_file
from deeprebirth_caffe.ir import Net, NetError
from deeprebirth_caffe.ir.probe import save_weights
from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.options.deploy import DeployOptions
from deeprebirth_caffe.options.tucker import TuckerOptions
from deeprebirth_caffe.training.solver_nets import solver_nets

DATA = """layer {{ name: "data" type: "DummyData" top: "data" top: "label" {rule}
  dummy_data_param {{ shape {{ dim: {batch} dim: 3 dim: 16 dim: 16 }} shape {{ dim: {batch} }} }} }}
"""
BODY = """layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv" {rate}
  convolution_param {{ num_output: 8 kernel_size: 3 bias_term: false {filler} }} }}
layer {{ name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }}  # {phase}'s
layer {{ name: "relu" type: "ReLU" bottom: "conv" top: "conv" }}
layer {{ name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param {{ kernel_size: 2 stride: 2 }} }}
layer {{ name: "fc" type: "InnerProduct" bottom: "pool" top: "fc" inner_product_param {{ num_output: 3 }} }}
"""
ENDS = {
    "TRAIN": 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }\n',
    "TEST": 'layer { name: "accuracy" type: "Accuracy" bottom: "fc" bottom: "label" top: "accuracy" }\n',
}
SOLVER = """train_net: "train.prototxt"
test_net: "test.prototxt"
test_iter: 2
test_interval: 5
base_lr: 0.01
lr_policy: "fixed"
max_iter: 10
solver_mode: CPU
"""


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    for name, phase, batch in (("train", "TRAIN", 8), ("test", "TEST", 4)):
        train = phase == "TRAIN"
        body = BODY.format(
            phase=phase,
            rate="param { lr_mult: 2 }" if train else "",
            filler='weight_filler { type: "xavier" }' if train else "",
        )
        data = DATA.format(rule=f"include {{ phase: {phase} }}", batch=batch)
        (tmp_path / f"{name}.prototxt").write_text(f'name: "{name}"\n{data}{body}{ENDS[phase]}')
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    net = Net.read(tmp_path / "train.prototxt")
    with atomic_file(tmp_path / "w.caffemodel") as file:
        save_weights(file, net, random_weights(net))
    return tmp_path


@pytest.mark.parametrize(("name", "phase", "absent"), [("train", "TRAIN", "TEST"), ("test", "TEST", "TRAIN")])
def test_each_file_alone(pair: Path, name: str, phase: str, absent: str) -> None:
    net, weights = pair / f"{name}.prototxt", pair / "w.caffemodel"
    said = inspect(net)
    assert (said.state.phase, said.states) == (phase, [phase])
    assert said.notes[0].startswith(f"this file has no {absent}: {net}:4:1: ")
    with pytest.raises(NetError, match=f"no layer produces in {absent}"):
        inspect(net, phase=absent)
    made = deploy(DeployOptions(net, weights, pair / "deploy"))
    assert made.notes == said.notes
    deployed = Net.read(pair / "deploy" / "deploy.prototxt")
    assert [layer.type for layer in deployed.layers][:2] == ["Input", "Convolution"]
    assert not any(layer.param.include for layer in deployed.layers)
    converted = convert(ConvertOptions(net, weights, out=pair / "out"))
    assert bool(converted.manifest.outputs.solver) == (phase == "TRAIN")
    assert converted.deploy is not None
    assert Net.read(pair / "out" / net.name).absent.keys() == {absent}


def test_a_comparison_of_both(pair: Path) -> None:
    found = diff(pair / "train.prototxt", pair / "test.prototxt")
    assert [one.name for one in found.removed] == ["loss"]
    assert [one.name for one in found.new] == ["accuracy"]


@pytest.mark.parametrize("first", ["train", "test"])
def test_a_solver_that_names_both_has_both_converted(pair: Path, first: str) -> None:
    """BatchNorm is the trap: in TEST alone it folds, and the weights of one file would not be the other's."""
    out = pair / "out"
    options = ConvertOptions(pair / f"{first}.prototxt", pair / "w.caffemodel", pair / "solver.prototxt", out)
    made = convert(options)
    assert made.manifest.outputs.net == "train.prototxt"
    assert made.manifest.outputs.test_net == "test.prototxt"
    assert not made.manifest.notes
    train, test = (Net.read(out / f"{name}.prototxt") for name in ("train", "test"))
    assert ([*train.absent], [*test.absent]) == (["TEST"], ["TRAIN"])
    shared = [[layer.name for layer in net.layers[1:-1]] for net in (train, test)]
    assert shared[0] == shared[1] == ["conv_merge", "bn", "relu", "fc"]
    assert (train.header.name, test.header.name) == ("train", "test")
    # What no pass changed is each file's own.
    for net, phase, batch in ((train, "TRAIN", 8), (test, "TEST", 4)):
        assert DATA.format(rule=f"include {{ phase: {phase} }}", batch=batch) in net.text()
        assert f'name: "bn" type: "BatchNorm" bottom: "pool" top: "pool" }}  # {phase}\'s' in net.text()
        assert ENDS[phase] in net.text()
    nets = solver_nets(read_plan(out / "solver.prototxt", Path()))
    assert [view.state.phase for view in nets.views] == ["TRAIN", "TEST"]
    deployed = Net.read(out / "deploy.prototxt")
    assert [layer.name for layer in deployed.layers] == ["data", "conv_merge", "bn", "relu", "fc", "prob"]


def test_tucker_of_both(pair: Path) -> None:
    pytest.importorskip("tensorly")
    out = pair / "out"
    tucker(TuckerOptions(pair / "train.prototxt", pair / "w.caffemodel", pair / "solver.prototxt", out, force=True))
    names = [[layer.name for layer in Net.read(out / f"{name}.prototxt").layers[1:-1]] for name in ("train", "test")]
    assert names[0] == names[1]


def test_a_file_that_holds_more_is_not_joined(pair: Path) -> None:
    with (pair / "train.prototxt").open("a") as file:
        file.write(ENDS["TEST"].replace('top: "accuracy"', 'top: "accuracy" include { phase: TEST }'))
    made = convert(ConvertOptions(pair / "train.prototxt", None, pair / "solver.prototxt", pair / "out"))
    assert any("test_net test.prototxt is another file: convert it as well" in note for note in made.manifest.notes)
    assert not (pair / "out" / "test.prototxt").exists()


def test_a_deploy_net_with_a_stray_rule_may_be_called_so(tmp_path: Path) -> None:
    net = tmp_path / "deploy.prototxt"
    rule = 'bottom: "data" top: "conv" include { phase: TEST }'
    body = BODY.format(phase="TEST", rate="", filler="").replace('bottom: "data" top: "conv"', rule)
    net.write_text('input: "data" input_dim: [1, 3, 16, 16]\n' + body)
    result = CliRunner().invoke(rebirth, ["convert", str(net), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == ["deploy.prototxt", "manifest.json"]


@pytest.mark.parametrize(("name", "missing"), [("train", "TEST"), ("test", "TRAIN")])
def test_a_schedule_needs_both_phases(pair: Path, name: str, missing: str) -> None:
    pytest.importorskip("pydantic")
    pytest.importorskip("yaml")
    net = pair / f"{name}.prototxt"
    schedule = pair / "s.yaml"
    schedule.write_text(f"net: {net.name}\nweights: w.caffemodel\nsteps: [{{stages: conv}}]\n")
    for arguments in (["run", str(schedule)], ["plan", str(net), "-w", str(pair / "w.caffemodel"), "-o", "p.yaml"]):
        result = CliRunner().invoke(rebirth, arguments)
        assert f"{net} has no {missing}, and a schedule trains and tests" in str(result.exception)
