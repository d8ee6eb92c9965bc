"""Whole nets in the embedded engine against real Caffe: blobs, losses and gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from closeness import Comparison, assert_near, between, rounding
from measured_torch import train
from nets import REPEATS, conv, data, fc, layer, pool, relu

pytest.importorskip("torch")

import torch
from exact_net import ExactNet, FollowingNet, array

from deeprebirth_caffe import zoo
from deeprebirth_caffe.commands.convert import convert
from deeprebirth_caffe.engines.caffe.engine import CaffeEngine
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.engines.torch.engine import TorchEngine
from deeprebirth_caffe.formats.prototxt import format_message, parse_message
from deeprebirth_caffe.ir import Net, NetState
from deeprebirth_caffe.ir.probe import save_weights
from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    from measured_caffe import DescribedNet, MeasuringWorker
    from numpy.typing import NDArray

    from deeprebirth_caffe.engines.caffe.locate import CaffeInstall

Arrays = dict[str, "NDArray[np.float32]"]


class Pair:
    """One net in both engines with the same weights."""

    def __init__(self, caffe: MeasuringWorker, path: Path, phase: str) -> None:
        self.caffe = caffe
        self.net = net = Net.read(path)
        self.real: DescribedNet = caffe.load(path, phase, seed=1)
        self.ours = FollowingNet(net, NetState(phase), seed=1, sources=False)
        self.ours.load(random_weights(net))
        caffe.set_params(self.real, {name: blobs for name, _, blobs in self.ours.export()[1] if blobs})
        assert set(self.ours.blobs_of) == set(self.real.params)

    def forward(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Compares what each layer makes of the values that Caffe's has before it."""
        real = self.caffe.forward(self.real, inputs)
        ours = self.ours.follow(real, inputs)
        terms = self.ours.terms()
        comparison = Comparison()
        assert set(real) == set(ours)
        for name, values in real.items():
            comparison.near(name, values, ours[name], terms.get(name, 1))
        comparison.verify()
        return real

    def backward(self, diffs: Mapping[str, NDArray[Any]] | None = None) -> dict[str, list[NDArray[np.float32]]]:
        """Compares all gradients, from the values that `forward` left."""
        self.ours.zero_grad()
        self.ours.backward(diffs)
        real = self.caffe.backward(self.real, diffs)
        terms = self.ours.gradient_terms()
        comparison = Comparison()
        largest = max((float(np.abs(g).max(initial=0)) for gs in real.params.values() for g in gs), default=0.0)
        for name, grads in real.params.items():
            for index, grad in enumerate(grads):
                tensor = self.ours.blobs_of[name][index]
                mine = array(torch.zeros_like(tensor) if tensor.grad is None else tensor.grad).reshape(grad.shape)
                # Where a gradient is nothing but rounding (a bias before BatchNorm), any two roundings differ.
                if np.abs(grad).max(initial=0) < rounding(terms) * largest:
                    assert np.abs(mine).max(initial=0) < between(terms) * largest
                else:
                    comparison.near(f"diff of {name}[{index}]", grad, mine, terms)
        for name, diff in real.blobs.items():
            comparison.near(f"diff of {name}", diff, array(self.ours.blob_diff(name)), terms)
        comparison.verify()
        return real.params


@contextmanager
def pair(caffe: MeasuringWorker, folder: Path, text: str, phase: str = "TRAIN") -> Iterator[Pair]:
    path = folder / "net.prototxt"
    path.write_text(text)
    made = Pair(caffe, path, phase)
    try:
        yield made
    finally:
        caffe.close(made.real)


def batched(text: str, batch: int, shape: tuple[int, ...]) -> pb.NetParameter:
    """The net with Input layers for so many images, without randomness."""
    net = parse_message(text, pb.NetParameter)
    for one in net.layer:
        if one.type == "Data":
            one.type = "Input"
            one.ClearField("data_param")
            one.ClearField("transform_param")
            one.input_param.shape.add(dim=(batch, *shape))
            one.input_param.shape.add(dim=(batch,))
        elif one.type == "Input":
            one.input_param.shape[0].dim[0] = batch
        elif one.type == "Dropout":
            one.dropout_param.dropout_ratio = 0
    return net


def random_inputs(net: DescribedNet, labels: int = 10) -> Arrays:
    rng = np.random.default_rng(5)
    return {
        name: rng.integers(0, labels, net.blobs[name]).astype(np.float32)
        if name.startswith("label")
        else rng.standard_normal(net.blobs[name]).astype(np.float32)
        for name in net.inputs
    }


# ---------------------------------------------------------------- the zoo


@pytest.mark.parametrize("name", [name for name in zoo.names() if name not in REPEATS])
def test_deploy(caffe: MeasuringWorker, tmp_path: Path, name: str) -> None:
    built = zoo.build(name)
    batch = 1 if max(built.input_shape) > 100 else 2
    text = format_message(batched(built.deploy, batch, built.input_shape))
    with pair(caffe, tmp_path, text, "TEST") as both:
        both.forward(random_inputs(both.real))


TRAINED = ["googlenet", "googlenet64", "googlenet28", "alexnet", "alexnet64", "resnet64", "squeezenet1.1"]


def trained(name: str) -> pb.NetParameter:
    """A net of the zoo for training on a small batch."""
    built = zoo.build(name)
    batch = 2 if max(built.input_shape) > 100 else 8
    return batched(built.train_val, batch, built.input_shape)


@pytest.mark.parametrize("name", TRAINED)
def test_training(caffe: MeasuringWorker, tmp_path: Path, name: str) -> None:
    with pair(caffe, tmp_path, format_message(trained(name))) as both:
        both.forward(random_inputs(both.real))
        both.backward()


@pytest.mark.parametrize("name", ["googlenet28", "resnet64"])
def test_a_net_that_runs_by_itself_is_as_exact_as_caffes(caffe: MeasuringWorker, tmp_path: Path, name: str) -> None:
    """Each blob behind all layers before it, against double precision."""
    with pair(caffe, tmp_path, format_message(trained(name))) as both:
        inputs = random_inputs(both.real)
        exact = ExactNet(both.net, NetState("TRAIN"), both.ours)
        real = caffe.forward(both.real, inputs)
        ours = both.ours.forward(inputs, keep=both.ours.blobs, retain=True)
        true = exact.forward(inputs, keep=exact.blobs)
        terms = sum(both.ours.terms().values())
    comparison = Comparison()
    for name, values in real.items():
        comparison.near(name, values, array(ours[name]), terms, array(true[name]))
    comparison.verify()


@pytest.mark.parametrize("offset", [0, 1, 10])
@pytest.mark.parametrize("size", [5, 31, 32, 200])
def test_batch_statistics(caffe: MeasuringWorker, tmp_path: Path, size: int, offset: int) -> None:
    """Of few and many pixels, near zero and far from it: what is added up, what comes out and its gradient."""
    text = (
        data(2, 3, size, size)
        + conv("c", "data", 20, 1, "bias_term: false")
        + layer("BatchNorm", "bn", "c")
        + layer("TanH", "bent", "bn")
        + layer("Reduction", "loss", "bent", "loss", "loss_weight: 1 reduction_param { operation: SUMSQ }")
    )
    with pair(caffe, tmp_path, text) as both:
        inputs = {name: values + np.float32(offset) for name, values in random_inputs(both.real).items()}
        exact = ExactNet(both.net, NetState("TRAIN"), both.ours)
        real = caffe.forward(both.real, inputs)
        ours = both.ours.forward(inputs, keep=both.ours.blobs, retain=True)
        true = exact.forward(inputs, keep=exact.blobs, retain=True)
        both.ours.backward()
        exact.backward()
        diff = caffe.backward(both.real).blobs["c"]
        statistics = caffe.get_params(both.real)["bn"]
    comparison = Comparison()
    pixels = 2 * size * size
    for name, values in real.items():
        # What is far from zero loses digits when the mean is taken off; the loss adds up all channels.
        terms = pixels * (20 if name == "loss" else 1) * (1 + offset) ** 2
        comparison.near(name, values, array(ours[name]), terms, array(true[name]))
    for index, values in enumerate(statistics):
        mine, right = both.ours.blobs_of["bn"][index], exact.blobs_of["bn"][index]
        comparison.near(f"bn[{index}]", values, array(mine), pixels * (1 + offset) ** 2, array(right))
    comparison.near(
        "diff", diff, array(both.ours.blob_diff("c")), pixels * (1 + offset) ** 2, array(exact.blob_diff("c"))
    )
    comparison.verify()


def test_converted_googlenet(caffe: MeasuringWorker, tmp_path: Path) -> None:
    built = zoo.build("googlenet")
    path = tmp_path / "googlenet.prototxt"
    path.write_text(format_message(batched(built.train_val, 2, built.input_shape)))
    with pair(caffe, tmp_path, convert(ConvertOptions(path, out=tmp_path / "slim")).net.text()) as both:
        both.forward(random_inputs(both.real))
        both.backward()


# ---------------------------------------------------------------- how gradients flow

XAVIER = 'weight_filler { type: "xavier" }'
FROZEN = "param { lr_mult: 0 } param { lr_mult: 0 }"
LABEL = data(4, name="label")


def loss(name: str, bottom: str, rest: str = "") -> str:
    return layer("SoftmaxWithLoss", name, [bottom, "label"], name, rest)


def shared(*names: str, rest: str = "") -> str:
    return " ".join(f'param {{ name: "{name}" {rest} }}' for name in names)


NETS = {
    "two losses": conv("c", "data")
    + relu("r", "c")
    + fc("one", "c", 5)
    + fc("two", "c", 7)
    + loss("first", "one", "loss_weight: 0.3")
    + loss("second", "two", "loss_weight: 2"),
    "loss of a blob that is read": conv("c", "data")
    + pool("p", "c", rest="loss_weight: 0.01")
    + fc("f", "p")
    + loss("loss", "f"),
    "loss that is no loss layer": conv("c", "data")
    + layer("Reduction", "sum", "c", "sum", "loss_weight: -0.5 reduction_param { operation: SUMSQ }"),
    "loss without a top": fc("f", "data") + layer("SoftmaxWithLoss", "loss", ["f", "label"], []),
    "loss weight 0": fc("f", "data", 5) + fc("g", "data", 5) + loss("on", "f") + loss("off", "g", "loss_weight: 0"),
    "loss in place": fc("f", "data", 5) + layer("ReLU", "r", "f", "f", "loss_weight: 0.5") + loss("loss", "f"),
    "frozen start": conv("c", "data", rest=FROZEN) + relu("r", "c") + fc("f", "c") + loss("loss", "f"),
    "frozen middle": conv("a", "data") + conv("b", "a", rest=FROZEN) + fc("f", "b") + loss("loss", "f"),
    "half frozen": conv("a", "data", rest="param { lr_mult: 1 } param { lr_mult: 0 }")
    + fc("f", "a")
    + loss("loss", "f"),
    "propagate_down false": conv("a", "data")
    + conv("b", "a", rest="propagate_down: false")
    + fc("f", "b")
    + loss("loss", "f"),
    "propagate_down on one branch": conv("a", "data")
    + conv("b", "a", rest="propagate_down: false")
    + conv("c", "a")
    + layer("Eltwise", "sum", ["b", "c"])
    + fc("f", "sum")
    + loss("loss", "f"),
    "propagate_down into the data": conv("a", "data", rest="propagate_down: true") + fc("f", "a") + loss("loss", "f"),
    "cut above in place": conv("a", "data")
    + relu("r", "a", rest="propagate_down: false")
    + fc("f", "a")
    + loss("loss", "f"),
    "not under the loss": conv("a", "data")
    + conv("b", "a")
    + layer("Silence", "quiet", "b", [])
    + fc("f", "a")
    + loss("loss", "f"),
    "accuracy beside": conv("a", "data")
    + fc("f", "a")
    + loss("loss", "f")
    + layer("Accuracy", "top", ["f", "label"], "top", "accuracy_param { top_k: 2 }"),
    "siamese": fc("one", "data", 5, rest=shared("w", "b"))
    + fc("two", "other", 5, rest=shared("w", "b"))
    + layer("EuclideanLoss", "loss", ["one", "two"])
    + loss("other_loss", "two"),
    "shared and frozen in one": fc("one", "data", 5, rest=shared("w", "b", rest="lr_mult: 2"))
    + fc("two", "other", 5, rest=shared("w", "b"))
    + loss("first", "one")
    + loss("second", "two"),
    "shared with another shape": fc("one", "data", 6, rest='param { name: "w" }')
    + layer(
        "InnerProduct",
        "two",
        "data",
        "two",
        "inner_product_param { num_output: 6 transpose: true bias_term: false } "
        'param { name: "w" share_mode: PERMISSIVE }',
    )
    + loss("first", "one")
    + loss("second", "two"),
    "in place chain": conv("c", "data")
    + layer("BatchNorm", "bn", "c", "c")
    + layer("Scale", "scale", "c", "c", "scale_param { bias_term: true }")
    + relu("r", "c")
    + layer("Dropout", "drop", "c", "c", "dropout_param { dropout_ratio: 0 }")
    + fc("f", "c")
    + loss("loss", "f"),
    "explicit split": layer("Split", "split", "data", ["a", "b"])
    + conv("c", "a")
    + conv("d", "b")
    + layer("Concat", "join", ["c", "d"])
    + fc("f", "join")
    + loss("loss", "f"),
    "read three times": conv("c", "data")
    + relu("r", "c")
    + layer("Eltwise", "product", ["c", "c"], "product", "eltwise_param { operation: PROD }")
    + layer("Eltwise", "sum", ["product", "c"])
    + fc("f", "sum")
    + loss("loss", "f"),
    "sliced and in place": layer("Slice", "cut", "data", ["a", "b", "c"])
    + conv("d", "a")
    + layer("Eltwise", "sum", ["b", "c"])
    + relu("r", "sum")
    + fc("f", "d")
    + fc("g", "sum")
    + loss("first", "f")
    + loss("second", "g"),
    "reshaped": fc("f", "data", 6)
    + layer("Reshape", "shaped", "f", "shaped", "reshape_param { shape { dim: 0 dim: 2 dim: 3 } }")
    + relu("r", "shaped", "rectified")
    + layer("Flatten", "flat", "rectified")
    + loss("loss", "flat"),
    "normalised": conv("c", "data")
    + relu("r", "c")
    + layer("LRN", "across", "c", "across", "lrn_param { local_size: 3 alpha: 0.5 }")
    + layer("LRN", "within", "across", "within", "lrn_param { local_size: 3 alpha: 0.5 norm_region: WITHIN_CHANNEL }")
    + fc("f", "within")
    + loss("loss", "f"),
    "learnt input": layer("Parameter", "w", [], "w", "parameter_param { shape { dim: 3 } }")
    + layer("Bias", "moved", ["data", "w"], "moved", "bias_param { axis: 1 }")
    + fc("f", "moved")
    + loss("loss", "f"),
}


@pytest.mark.parametrize("force", [False, True], ids=["", "force_backward"])
@pytest.mark.parametrize("name", NETS)
def test_gradients(caffe: MeasuringWorker, tmp_path: Path, name: str, force: bool) -> None:
    if force and name == "accuracy beside":
        pytest.skip("Caffe aborts: it has no gradient of Accuracy")
    inputs = data(4, 3, 6, 6) + data(4, 3, 6, 6, name="other") + LABEL
    text = f"force_backward: {str(force).lower()}\n{inputs}{NETS[name]}".replace("num_output", f"{XAVIER} num_output")
    with pair(caffe, tmp_path, text) as both:
        fed = random_inputs(both.real, 5)
        # Nothing may be left over from the pass before.
        for _ in range(2):
            both.forward(fed)
            both.backward()
        real = caffe.forward(both.real, fed)
        assert sorted(both.real.outputs) == both.ours.outputs
        assert all(np.isfinite(real[name]).all() for name in real)
        both.ours.forward(fed, retain=True)
        both.ours.zero_grad()
        both.ours.backward()
        once = {
            name: [None if t.grad is None else t.grad.clone() for t in ts] for name, ts in both.ours.blobs_of.items()
        }
        both.ours.forward(fed)  # with memory used again and written over
        both.ours.zero_grad()
        both.ours.backward()
        for name, grads in once.items():
            for before, tensor in zip(grads, both.ours.blobs_of[name], strict=True):
                assert (before is None) == (tensor.grad is None)
                assert before is None or (tensor.grad is not None and torch.equal(before, tensor.grad))


# ---------------------------------------------------------------- what the engines have in common


def same_rates(ours: Mapping[str, tuple[float | None, ...]], real: Mapping[str, tuple[float | None, ...]]) -> None:
    assert set(ours) == set(real)
    for name, values in real.items():
        for mine, theirs in zip(ours[name], values, strict=True):
            assert mine == pytest.approx(theirs, rel=2e-3, abs=1e-6), name


def test_rates_are_read_off_the_step(caffe: MeasuringWorker, tmp_path: Path) -> None:
    fillers = f'{XAVIER} bias_filler {{ type: "uniform" min: 0.1 }}'
    shape = "shape { dim: 4 dim: 3 dim: 6 dim: 6 } shape { dim: 4 }"
    dummy = f'dummy_data_param {{ {shape} data_filler {{ type: "gaussian" }} data_filler {{ value: 1 }} }}'
    rates = "param {{ lr_mult: {} decay_mult: {} }} param {{ lr_mult: {} decay_mult: 0 }}"
    net = tmp_path / "net.prototxt"
    net.write_text(
        layer("DummyData", "source", [], ["data", "label"], dummy)
        + conv("c", "data", fields=fillers, rest=rates.format(10, 1, 20))
        + relu("r", "c")
        # Without a bias: before BatchNorm its gradient is nothing but rounding, which may be too small to move it.
        + conv("d", "c", fields=f"{XAVIER} bias_term: false", rest="param { lr_mult: 3 decay_mult: 1 }")
        + layer("BatchNorm", "bn", "d", "d")
        + layer("Scale", "scale", "d", "d")
        + relu("s", "d")
        + fc("frozen", "d", fields=fillers, rest=rates.format(0, 1, 0))
        + fc("f", "d", fields=fillers, rest=rates.format(1, 0.5, 2))
        + loss("loss", "f")
        + layer("Silence", "quiet", "frozen", [])
    )
    solver = tmp_path / "solver.prototxt"
    solver.write_text(
        f'train_net: "{net}" base_lr: 0.01 lr_policy: "fixed" momentum: 0 weight_decay: 0.1 random_seed: 3 '
        f'max_iter: 10 snapshot_prefix: "{tmp_path}/snap"'
    )
    ours = train(TorchEngine(), solver, 3)
    real = caffe.train(solver, 3, rates=True)
    assert len(ours.losses) == 3 == len(ours.outputs["loss"])
    assert ours.learning_rate == pytest.approx(real.learning_rate)
    same_rates(ours.rates, real.rates)
    assert ours.rates["c"] == pytest.approx((10, 20), rel=1e-2)
    assert ours.decays["f"][0] == pytest.approx(0.05, rel=2e-2) == pytest.approx(real.decays["f"][0], rel=2e-2)


def test_forward_gives_the_same_dictionary(caffe_install: CaffeInstall, tmp_path: Path) -> None:
    path, weights = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    path.write_text(
        data(1, 3, 8, 8)
        + conv("c", "data")
        + relu("r", "c")
        + pool("p", "c")
        + layer("Eltwise", "sum", ["p", "p"])
        + fc("f", "sum")
        + layer("Softmax", "prob", "f")
    )
    net = Net.read(path)
    save_weights(weights, net, random_weights(net))
    images = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
    for blobs in (None, ["c", "prob"]):
        real = CaffeEngine(caffe_install, threads=1).forward(path, weights, images, blobs)
        ours = TorchEngine().forward(path, weights, {"data": images}, blobs)
        assert list(real) == list(ours)
        assert_near(real, ours, terms=27)
        assert all(array.dtype == np.float32 for array in ours.values())
