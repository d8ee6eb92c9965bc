"""Converted nets of the zoo in real Caffe: they load in both phases, shapes and memory are foretold, and they train."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from nets import parse

from deeprebirth_caffe import zoo
from deeprebirth_caffe.commands.convert import convert
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.formats.prototxt import format_message
from deeprebirth_caffe.ir import Net, Weights, summarize
from deeprebirth_caffe.ir.probe import probe, save_weights
from deeprebirth_caffe.nets.load import load_net
from deeprebirth_caffe.nets.rewriting import Converted
from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    from measured_caffe import DescribedNet, MeasuringWorker

NAMES = ["googlenet", "googlenet64", "alexnet", "resnet50", "squeezenet1.0"]
MODES = ["default", "paper", "exact"]
BATCH = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train_val and deploy of every net."""
    path = tmp_path_factory.mktemp("zoo")
    for name in NAMES:
        built = zoo.build(name)
        (path / f"{name}.prototxt").write_text(built.train_val)
        (path / f"{name}_deploy.prototxt").write_text(built.deploy)
    return path


def options(net: Path, name: str, mode: str, **more: object) -> ConvertOptions:
    shape = zoo.build(name).input_shape
    return ConvertOptions(net, paper=mode == "paper", exact=mode == "exact", input_shapes={"data": shape}, **more)  # type: ignore[arg-type]


@lru_cache
def converted(folder: Path, name: str, mode: str) -> Converted:
    return convert(options(folder / f"{name}.prototxt", name, mode, dry_run=True))


def written_view(net: Net, phase: str, path: Path) -> Path:
    """A file of one view that loads without data, and fast: fillers of constants."""
    message = probe(net, net.view(phase), BATCH).message()
    for layer in message.layer:
        assert not layer.include and not layer.exclude
        for own in (layer.convolution_param, layer.inner_product_param):
            own.ClearField("weight_filler")
    path.write_text(format_message(message))
    return path


def load(caffe: MeasuringWorker, net: Net, phase: str, path: Path) -> DescribedNet:
    """Loads one view and compares everything that we foretell of it."""
    loaded = caffe.load(written_view(net, phase, path), phase)
    caffe.close(loaded)
    view = Net.read(path).view(phase)
    cost = summarize(view)
    own = {blob: shape for blob, shape in loaded.blobs.items() if blob not in loaded.copies}
    assert own == {name: value.shape for name, value in view.blobs.items()}
    assert loaded.params == {row.layer.name: row.param_shapes for row in cost.layers if row.param_shapes}
    assert cost.params == sum(prod(shape) for shapes in loaded.params.values() for shape in shapes)
    assert cost.memory_required_for_data == loaded.memory_required_for_data
    return loaded


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_every_file_loads_and_is_foretold(
    caffe: MeasuringWorker, folder: Path, tmp_path: Path, name: str, mode: str
) -> None:
    result = converted(folder, name, mode)
    assert result.deploy is not None
    for phase in ("TRAIN", "TEST"):
        after = load(caffe, result.net, phase, tmp_path / "after.prototxt")
        before = load(caffe, result.original, phase, tmp_path / "before.prototxt")
        common = set(before.blobs) & set(after.blobs)
        assert {blob: after.blobs[blob] for blob in common} == {blob: before.blobs[blob] for blob in common}
        # Weights of the one never load into the other where they would mean something else.
        for layer in set(before.params) & set(after.params):
            assert before.params[layer] == after.params[layer], layer
    deploy = load(caffe, result.deploy, "TEST", tmp_path / "deploy.prototxt")
    assert not {kind for _, kind in deploy.layers} & {"Data", "SoftmaxWithLoss", "Accuracy", "Dropout"}
    assert deploy.outputs == ("prob",)
    if mode != "exact":
        assert "LRN" not in {kind for _, kind in deploy.layers}


def test_the_weights_of_a_converted_net_load(caffe: MeasuringWorker, folder: Path, tmp_path: Path) -> None:
    """Every layer of init.caffemodel is found by its name, and none of the net's is left to its filler."""
    source = folder / "googlenet64.prototxt"
    net = load_net(source, None, {"data": zoo.build("googlenet64").input_shape})
    save_weights(tmp_path / "w.caffemodel", net, random_weights(net))
    out = tmp_path / "out"
    result = convert(options(source, "googlenet64", "default", weights=tmp_path / "w.caffemodel", out=out))
    model = Weights.read(out / "init.caffemodel")
    for file, phase in ((source.name, "TRAIN"), (source.name, "TEST"), ("deploy.prototxt", "TEST")):
        shapes = {} if file == "deploy.prototxt" else {"data": (3, 64, 64)}
        written = load_net(out / file, out / "init.caffemodel", shapes)
        loaded = caffe.load(written_view(written, phase, tmp_path / "probe.prototxt"), phase, out / "init.caffemodel")
        try:
            assert set(loaded.params) <= set(model)
            for layer, arrays in caffe.get_params(loaded, ["conv1/7x7_s2_merge", "inception_3a/3x3_merge"]).items():
                assert [array.tolist() for array in arrays] == [array.tolist() for array in model[layer]]
        finally:
            caffe.close(loaded)
    ledger = result.manifest.ledger
    assert ledger.relearned + ledger.copied == len(model) and ledger.folded == 0


@pytest.mark.parametrize("name", ["resnet50", "googlenet64"])
def test_deploy_nets_convert_exactly(caffe: MeasuringWorker, folder: Path, tmp_path: Path, name: str) -> None:
    source = folder / f"{name}_deploy.prototxt"
    net = load_net(source)
    net.weights = random_weights(net)
    save_weights(tmp_path / "w.caffemodel", net, net.weights)
    result = convert(ConvertOptions(source, weights=tmp_path / "w.caffemodel", exact=True, dry_run=True))
    after = load(caffe, result.net, "TEST", tmp_path / "after.prototxt")
    kinds = {kind for _, kind in after.layers}
    if name == "resnet50":
        assert not kinds & {"BatchNorm", "Scale"}
        # Of 53 convolutions, those of two blocks share one with a sibling; and the classifier is one now.
        joined = [one for one in result.manifest.rewrites if one.pass_ == "join-siblings"]
        assert len(joined) == 3 and result.manifest.ledger.folded == 53 - len(joined) + 1
    else:
        # One convolution a module where there were three, and the classifiers.
        assert result.manifest.ledger.folded == len(result.manifest.rewrites)
        assert {one.pass_ for one in result.manifest.rewrites} == {"join-siblings", "inner-to-convolution"}


def trainable(net: Net, path: Path, classes: int) -> Path:
    """The TRAIN view with random images and labels made in the net."""
    message = probe(net, net.view("TRAIN"), 4).message()
    first = message.layer[0]
    shapes = [list(shape.dim) for shape in first.input_param.shape]
    first.type = "DummyData"
    first.ClearField("input_param")
    for shape in shapes:
        first.dummy_data_param.shape.add().dim.extend(shape)
    first.dummy_data_param.data_filler.add(type="gaussian", std=1)
    first.dummy_data_param.data_filler.add(type="constant", value=classes // 2)
    path.write_text(format_message(message))
    return path


def lr_mults(net: Net) -> dict[str, list[float]]:
    """What each learned blob's lr_mult is, by the text."""
    found = {}
    for row in summarize(net.view("TRAIN")).layers:
        if row.param_shapes:
            specs = row.layer.param.param
            found[row.layer.name] = [
                specs[index].lr_mult if index < len(specs) else 1.0 for index in range(len(row.param_shapes))
            ]
    return found


@pytest.mark.parametrize("mode", ["default", "paper"])
def test_rebirth_layers_learn_ten_times_as_fast(
    caffe: MeasuringWorker, folder: Path, tmp_path: Path, mode: str
) -> None:
    """Read off what the solver did to the weights, not off the text."""
    result = converted(folder, "googlenet64", mode)
    net = trainable(result.net, tmp_path / "train.prototxt", zoo.build("googlenet64").classes)
    solver = pb.SolverParameter(
        net=str(net), base_lr=0.01, lr_policy="fixed", momentum=0.9, solver_mode="CPU", random_seed=1
    )
    (tmp_path / "solver.prototxt").write_text(format_message(solver))
    done = caffe.train(tmp_path / "solver.prototxt", 3, seed=1, rates=True, cwd=tmp_path)
    assert len(done.losses) == 3 and all(0 < loss < 100 for loss in done.losses)

    before, after = lr_mults(result.original), lr_mults(result.net)
    rebirth = result.manifest.lr_mult
    assert len(rebirth) >= 20
    for name, mults in after.items():
        if name in rebirth:
            assert name not in before
            assert mults == [10 * value for value in rebirth[name]]
            assert rebirth[name] == [1, 2]
        else:
            assert mults == before[name]
        measured = done.rates[name]
        for rate, mult in zip(measured, mults, strict=True):
            assert rate == pytest.approx(mult, rel=0.2), name


def test_a_second_conversion_puts_the_rates_back(folder: Path, tmp_path: Path) -> None:
    source = folder / "googlenet64.prototxt"
    shape = zoo.build("googlenet64").input_shape
    first = tmp_path / "first"
    convert(options(source, "googlenet64", "paper", out=first, only=("conv1", "conv2")))
    again = convert(options(first / source.name, "googlenet64", "default", dry_run=True))
    rates = lr_mults(again.net)
    assert rates["conv1/7x7_s2_merge"] == [1, 2], "its step is over"
    assert rates["inception_3a/3x3_merge"] == [10, 20]
    whole = converted(folder, "googlenet64", "default")
    assert set(rates) == set(lr_mults(whole.net))
    assert parse(again.net.text(), datum=shape).blob_shapes() == again.net.blob_shapes()
