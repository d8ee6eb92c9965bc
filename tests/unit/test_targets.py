"""What rebirth layers are to put out, as blobs of the net that they come from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from closeness import assert_within, between
from nets import data, layer

from deeprebirth_caffe import zoo
from deeprebirth_caffe.commands.convert import passes_of
from deeprebirth_caffe.engines import engine
from deeprebirth_caffe.engines.caffe.locate import CaffeInstall
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.ir import Net, View
from deeprebirth_caffe.ir.probe import save_weights
from deeprebirth_caffe.ir.subnet import ancestors
from deeprebirth_caffe.nets.load import load_net
from deeprebirth_caffe.nets.rewriting import rebirth_origins
from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.relearn.targets import RELU, Recipe, Target, find_targets, taught, value_names
from deeprebirth_caffe.rewrite import Rewriter
from deeprebirth_caffe.rewrite.pipeline import run

TERMS = 20_000
"""About what googlenet28 adds up for one value of its last layer, and for one of the student's, all layers together."""


@dataclass
class Case:
    """A converted net."""

    teacher: Net
    view: View
    student: Net
    targets: dict[str, Target]
    reasons: dict[str, str]

    def outputs(
        self, blobs: Sequence[str], name: str = "torch", **options: Any
    ) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Blobs of the teacher as it was, and as it is taught, on the same random input."""
        made = taught(self.teacher, self.view, recipes(self.targets.values()), [self.view.outputs[-1]])
        assert self.teacher.weights is not None
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / "w.caffemodel"
            save_weights(weights, self.teacher, self.teacher.weights)
            found = []
            runner = engine(name, **options)
            for number, text in enumerate((self.teacher.text(), made.text())):
                path = Path(folder) / f"{number}.prototxt"
                path.write_text(text)
                with runner.loaded(path, weights) as forward:
                    value = self.view.blobs["data"]
                    image = np.random.default_rng(0).normal(size=value.shape or ()).astype(np.float32)
                    found.append(forward({"data": image}, list(blobs) if number == 0 else None))
        return found[0], found[1]


def recipes(targets: Iterable[Target]) -> list[Recipe]:
    return [recipe for target in targets for recipe in target.recipes]


def converted(net: Net, **options: Any) -> Case:
    net.weights = net.weights or random_weights(net)
    teacher = net.copy()
    rewriter = Rewriter(net)
    run(rewriter, passes_of(ConvertOptions(net=Path("net.prototxt"), **options)))
    view = teacher.view("TEST")
    targets, reasons = find_targets(view, net, rebirth_origins(rewriter))
    return Case(teacher, view, net, {target.layer: target for target in targets}, reasons)


@cache
def of_zoo(name: str, paper: bool = False, file: str = "deploy.prototxt") -> Case:
    with tempfile.TemporaryDirectory() as folder:
        zoo.write(name, Path(folder))
        shapes = {"data": (1, 28, 28) if name == "googlenet28" else (3, 64, 64)} if file != "deploy.prototxt" else {}
        return converted(load_net(Path(folder) / file, shapes=shapes), paper=paper)


@pytest.mark.parametrize("name", ["googlenet28", "googlenet64", "alexnet64", "resnet64", "squeezenet1.1"])
@pytest.mark.parametrize("paper", [False, True])
def test_every_rebirth_layer_of_the_zoo_has_a_target_or_a_reason(name: str, paper: bool) -> None:
    case = of_zoo(name, paper)
    for layer_name, target in case.targets.items():
        made = next(layer for layer in case.student.layers if layer.name == layer_name)
        shape = case.student.view("TEST").outs[made][0].shape
        assert shape is not None
        channels = sum(
            value.shape[1]
            for part in target.parts
            for value in case.view.outs[next(one for one in case.view.layers if one.name == part)]
            if value.shape
        )
        assert channels == shape[1] and (target.before is None) == (target.activation is None)
    for reason in case.reasons.values():
        assert reason.startswith("it puts out")
    if name.startswith("googlenet"):
        assert len(case.targets) == {"googlenet28": 8, "googlenet64": 20}[name]
    assert all("reduce" in name for name in case.reasons)


@pytest.mark.parametrize("file", ["deploy.prototxt", "train_val.prototxt"])
def test_parts_come_in_the_order_of_the_channels(file: str) -> None:
    case = of_zoo("googlenet28", False, file)
    parts = {name: target.parts for name, target in case.targets.items()}
    assert parts["inception_3a/5x5_merge"] == ("inception_3a/5x5", "inception_3a/pool_proj")
    assert parts["inception_3b/3x3_merge"] == ("inception_3b/1x1", "inception_3b/3x3")
    assert parts["conv2/3x3_merge"] == ("conv2/3x3",)
    assert {target.activation for target in case.targets.values()} == {RELU}
    assert parts["conv1/5x5_merge"] == ("conv1/5x5",)
    assert set(case.reasons) == {
        *(f"inception_{module}/3x3_reduce_merge" for module in ("3a", "3b", "4a")),
    }


def check_googlenet28(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """The targets' blobs are what the teacher's own say."""
    targets = of_zoo("googlenet28").targets

    def is_same(name: str, wanted: Any) -> None:
        assert_within(name, wanted, after[targets[name].after], between(TERMS))

    is_same("conv2/3x3_merge", before["pool2/3x3_s2"])
    module = before["inception_3a/output"]
    split = before["inception_3a/1x1"].shape[1] + before["inception_3a/3x3"].shape[1]
    is_same("inception_3a/3x3_merge", module[:, :split])
    is_same("inception_3a/5x5_merge", module[:, split:])
    module = before["pool3/3x3_s2"]
    split = before["inception_3b/1x1"].shape[1] + before["inception_3b/3x3"].shape[1]
    is_same("inception_3b/3x3_merge", module[:, :split])
    is_same("inception_3b/5x5_merge", module[:, split:])
    for name, target in targets.items():
        raw = after[target.before]
        assert (raw < 0).any(), f"{name} is in front of the ReLU"
        if not name.startswith("conv"):  # there an LRN comes in between
            np.testing.assert_array_equal(np.maximum(raw, 0), after[target.after])
    for name in before:
        assert_within(name, before[name], after[name], between(TERMS))


BLOBS = ["pool2/3x3_s2", "pool3/3x3_s2"] + [
    f"inception_{module}/{part}" for module in ("3a", "3b") for part in ("output", "1x1", "3x3")
]


def test_the_blobs_are_those_of_the_teacher() -> None:
    pytest.importorskip("torch")
    check_googlenet28(*of_zoo("googlenet28").outputs(BLOBS, threads=1))


def test_real_caffe_gives_them_too(caffe_install: CaffeInstall) -> None:
    check_googlenet28(*of_zoo("googlenet28").outputs(BLOBS, "caffe"))


def test_no_value_is_overwritten() -> None:
    case = of_zoo("googlenet28")
    names = value_names(case.view)
    assert len(set(names.values())) == len(names) == len(case.view.values)
    assert all(names[value] == name for name, value in case.view.blobs.items())
    message = taught(case.teacher, case.view, recipes(case.targets.values())).message()
    tops = [top for one in message.layer for top in one.top]
    assert len(tops) == len(set(tops)) and not any(set(one.top) & set(one.bottom) for one in message.layer)
    assert len({one.name for one in message.layer}) == len(message.layer)


def test_only_what_is_needed_is_kept() -> None:
    case = of_zoo("googlenet28", False, "train_val.prototxt")
    one = case.targets["conv2/3x3_merge"]
    message = taught(case.teacher, case.view, one.recipes).message()
    kept = {layer.name for layer in message.layer}
    assert "conv2/3x3" in kept and not any("inception" in name or "loss" in name for name in kept)
    assert not any(layer.include or layer.exclude for layer in message.layer)
    needed = ancestors(case.view, [case.view.blobs["pool2/3x3_s2"]])
    assert {layer.name for layer in needed} <= kept


def test_a_net_input_keeps_its_name() -> None:
    text = 'input: "data" input_shape { dim: 1 dim: 2 dim: 4 dim: 4 }\n' + layer("ReLU", "relu", "data", "data")
    view = Net.parse(text).view("TEST")
    assert list(value_names(view).values()) == ["data", "data/relu"]


CONV = "convolution_param { num_output: 4 kernel_size: 3 pad: 1 }"
POOL = "pooling_param { kernel_size: 2 stride: 2 }"


def small(*layers: str, **options: Any) -> Case:
    front = (
        data(2, 3, 16, 16)
        + layer("Convolution", "conv0", "data", "conv0", CONV)
        + layer("ReLU", "relu0", "conv0", "conv0")
    )
    return converted(Net.parse(front + "".join(layers)), **options)


def test_lrn_in_front_of_the_activation() -> None:
    case = small(
        layer("Convolution", "conv", "conv0", "conv", CONV),
        layer("LRN", "norm", "conv", "norm"),
        layer("ReLU", "relu", "norm", "norm"),
    )
    target = case.targets["conv_merge"]
    assert (target.before, target.activation, target.blob) == ("norm/norm", RELU, "norm")
    assert target.after == "norm"


def test_without_an_activation_there_is_one_blob() -> None:
    case = small(layer("Convolution", "conv", "conv0", "conv", CONV), layer("Pooling", "pool", "conv", "pool", POOL))
    target = case.targets["conv_merge"]
    assert (target.before, target.after, target.activation, target.recipes[0].copies) == (None, "pool", None, ())


@pytest.mark.parametrize(
    ("kind", "fields", "activation"),
    [("Sigmoid", "", "Sigmoid"), ("ReLU", "relu_param { negative_slope: 0.1 }", "leaky ReLU")],
)
def test_other_activations_are_told(kind: str, fields: str, activation: str) -> None:
    case = small(
        layer("Convolution", "conv", "conv0", "conv", CONV),
        layer(kind, "act", "conv", "conv", fields),
        layer("Pooling", "pool", "conv", "pool", POOL),
    )
    target = case.targets["conv_merge"]
    assert target.activation == activation and target.after == "pool"
    assert [one.name for one in target.recipes[1].copies] == ["pool"]


def test_what_is_left_alone_in_between_is_skipped() -> None:
    case = small(
        layer("Convolution", "conv", "conv0", "conv", CONV),
        layer("ReLU", "relu", "conv", "conv"),
        layer("LRN", "norm", "conv", "norm"),
        layer("Pooling", "pool", "norm", "pool", POOL),
        skip_passes=("remove-lrn",),
    )
    target = case.targets["conv_merge"]
    after = target.recipes[0]
    assert [one.name for one in after.copies] == ["pool"]
    assert target.activation == RELU and after.sources[0].producer is not None
    assert after.sources[0].producer.name == "relu"


@pytest.mark.parametrize("kind", ["MAX", "AVE"])
def test_maxima_behind_what_may_turn_signs_are_no_target(kind: str) -> None:
    case = small(
        layer("Convolution", "conv", "conv0", "conv", CONV),
        layer("Scale", "scale", "conv", "scale"),
        layer("Pooling", "pool", "scale", "pool", POOL.replace("{", f"{{ pool: {kind}", 1)),
        skip_passes=("fold-batchnorm", "fold-ahead"),
    )
    if kind == "AVE":
        assert case.targets["conv_merge"].activation == "Scale"
    else:
        assert "takes maxima behind a Scale" in case.reasons["conv_merge"]


@pytest.mark.parametrize("join", ["Concat", "Eltwise"])
def test_a_pool_behind_a_join_is_copied(join: str) -> None:
    case = small(
        layer("Convolution", "left", "conv0", "left", CONV),
        layer("Convolution", "right", "conv0", "right", CONV),
        layer(join, "join", ["left", "right"], "join"),
        layer("Pooling", "pool", "join", "pool", POOL),
        branch=False,
        skip_passes=("sum-siblings",),
    )
    assert set(case.targets) == {"left_merge", "right_merge"}
    for name, target in case.targets.items():
        assert target.parts == (name.removesuffix("_merge"),) and target.before is None
        assert [one.name for one in target.recipes[0].copies] == ["pool"]


def test_frozen_layers_and_those_without_weights_are_left() -> None:
    conv = layer("Convolution", "conv", "conv0", "conv", CONV + " param { lr_mult: 0 } param { lr_mult: 0 }")
    pool = layer("Pooling", "pool", "conv", "pool", POOL)
    assert small(conv, pool).reasons == {"conv_merge": "it is frozen (lr_mult 0)"}
    case = small(conv.replace("lr_mult: 0", "lr_mult: 1"), pool)
    assert case.student.weights is not None
    case.student.weights.drop("conv_merge")
    _, reasons = find_targets(case.view, case.student, {"conv_merge": ["conv", "pool"]})
    assert reasons == {"conv_merge": "it has no weights"}


def test_origins_that_are_not_there() -> None:
    case = of_zoo("googlenet28")
    _, reasons = find_targets(case.view, case.student, {"conv2/3x3_merge": ["nothing"]})
    assert "the teacher has none" in reasons["conv2/3x3_merge"]
    wrong = ["inception_3a/1x1", "inception_3b/1x1"]
    _, reasons = find_targets(case.view, case.student, {"inception_3a/3x3_merge": wrong})
    assert reasons["inception_3a/3x3_merge"] == "inception_3a/1x1, inception_3b/1x1 do not meet in one Concat"
