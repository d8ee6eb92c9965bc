"""Passes on files of several phases, and with every layer in place or not."""

from __future__ import annotations

from itertools import product

import pytest
from nets import by_name, conv, data, fc, layer, names, parse, pool, reasons, relu, rewrite

from deeprebirth_caffe.passes.exact.fold_batchnorm import FoldBatchNorm
from deeprebirth_caffe.passes.exact.strip_training import StripTraining
from deeprebirth_caffe.passes.relearn.merge_branches import MergeBranches
from deeprebirth_caffe.passes.relearn.pool_to_stride import PoolToStride
from deeprebirth_caffe.passes.relearn.prune_batchnorm import PruneBatchNorm
from deeprebirth_caffe.passes.relearn.remove_lrn import RemoveLrn
from deeprebirth_caffe.rewrite import AnyPass

TWO = layer("Data", "data", (), ("data", "label"), "include { phase: TRAIN } data_param { batch_size: 8 }") + layer(
    "Data", "data", (), ("data", "label"), "include { phase: TEST } data_param { batch_size: 2 }"
)
LOSS = layer("SoftmaxWithLoss", "loss", ("fc", "label"), "loss", "include { phase: TRAIN }") + layer(
    "Accuracy", "acc", ("fc", "label"), "acc", "include { phase: TEST }"
)
DATUM = (3, 17, 17)
TRAIN = "include { phase: TRAIN }"
TEST = "include { phase: TEST }"


def chain(*kinds: str, inside: str = "") -> str:
    """conv, then layers of these kinds, each in place where the kind ends with an exclamation mark; then fc."""
    text, blob = TWO + conv("conv", "data", 4, 3, "pad: 1"), "conv"
    for kind in kinds:
        name = kind.rstrip("!").lower()
        top = blob if kind.endswith("!") else name
        fields = "pooling_param { kernel_size: 3 stride: 2 }" if kind == "Pooling" else ""
        text += layer(kind.rstrip("!"), name, blob, top, fields)
        blob = top
    return text + inside + fc("fc", blob) + LOSS


BETWEEN = [
    kinds
    for order in (("ReLU", "BatchNorm"), ("BatchNorm", "Scale"), ("ReLU", "LRN"), ("Dropout", "ReLU"))
    for kinds in product(*([one, f"{one}!"] if one != "LRN" else [one] for one in order))
]


@pytest.mark.parametrize("kinds", BETWEEN, ids=" ".join)
def test_pooling_moves_across_what_sees_one_position(kinds: tuple[str, ...]) -> None:
    net = parse(chain(*kinds, "Pooling"), datum=DATUM)
    assert reasons(net, PoolToStride()) == {}
    assert names(net)[2:-3] == ["conv_merge", *(kind.rstrip("!").lower() for kind in kinds)]
    assert by_name(net, "fc").bottoms == ["pooling"]
    assert {str(view.state): view.ins[by_name(net, "fc")][0].shape for view in net.views} == {
        "TRAIN": (8, 4, 8, 8),
        "TEST": (2, 4, 8, 8),
    }


@pytest.mark.parametrize("kinds", [*product(("ReLU", "ReLU!"), ("LRN",), ("Pooling",), ("Dropout", "Dropout!"))])
def test_lrn_goes_from_any_place(kinds: tuple[str, ...]) -> None:
    for order in (kinds, (kinds[0], kinds[2], kinds[1], kinds[3])):
        net = parse(chain(*order), datum=DATUM)
        assert reasons(net, RemoveLrn()) == {}
        assert "lrn" not in names(net) and "conv_merge" in names(net)
        for view in net.views:
            assert view.ins[by_name(net, "fc")][0].shape is not None


@pytest.mark.parametrize("one", [FoldBatchNorm(), PruneBatchNorm()], ids=lambda one: one.name)
@pytest.mark.parametrize(
    "kinds",
    [*product(("BatchNorm", "BatchNorm!"), ("Scale", "Scale!")), ("BatchNorm",), ("BatchNorm!",), ("Scale",)],
    ids=" ".join,
)
def test_normalisation_goes_in_place_or_not(kinds: tuple[str, ...], one: AnyPass) -> None:
    text = chain(*kinds).replace('type: "BatchNorm"', 'type: "BatchNorm" batch_norm_param { use_global_stats: true }')
    net = parse(text, weights=True, datum=DATUM)
    reads = list(by_name(net, "fc").bottoms)
    assert reasons(net, one) == {}
    made = "conv_fold" if isinstance(one, FoldBatchNorm) else "conv_merge"
    assert names(net) == ["data", "data", made, "fc", "loss", "acc"]
    assert by_name(net, made).tops == by_name(net, "fc").bottoms == reads


def test_layers_of_one_phase_in_between() -> None:
    """A TRAIN-only Dropout between convolution and pooling makes the pool read two different layers."""
    text = TWO + conv("conv", "data") + layer("Dropout", "drop", "conv", "conv", TRAIN) + pool("pool", "conv")
    net = parse(text + fc("fc", "pool") + LOSS, datum=DATUM)
    assert reasons(net, PoolToStride()) == {"pool": "pool reads conv from different layers in different phases"}
    text = TWO + conv("conv", "data") + pool("pool", "conv") + layer("Dropout", "drop", "pool", "pool", TRAIN)
    net = parse(text + fc("fc", "pool") + LOSS, datum=DATUM)
    assert reasons(net, PoolToStride()) == {}
    assert [[one.name for one in view.layers] for view in net.views] == [
        ["data", "conv_merge", "drop", "fc", "loss"],
        ["data", "conv_merge", "fc", "acc"],
    ]


@pytest.mark.parametrize("phase", [TRAIN, TEST])
def test_a_whole_chain_of_one_phase_is_rewritten(phase: str) -> None:
    text = TWO + fc("fc", "data") + conv("conv", "data", rest=phase)
    text += layer("LRN", "norm", "conv", "norm", phase) + pool("pool", "norm", rest=phase) + LOSS
    net = parse(text, datum=DATUM)
    rewrite(net, [RemoveLrn(), PoolToStride()])
    assert names(net) == ["data", "data", "fc", "conv_merge", "loss", "acc"]
    assert list(by_name(net, "conv_merge").tops) == ["pool"]
    assert len(by_name(net, "conv_merge").param.include) == 1


def test_two_batchnorms_of_one_name_for_the_two_phases_stay() -> None:
    """Files of 2016 switch use_global_stats by phase, with two layers of one name."""
    text = TWO + conv("conv", "data")
    for phase, value in (("TRAIN", "false"), ("TEST", "true")):
        fields = f"include {{ phase: {phase} }} batch_norm_param {{ use_global_stats: {value} }}"
        text += layer("BatchNorm", "bn", "conv", "conv", fields)
    text += fc("fc", "conv") + LOSS
    for one in (FoldBatchNorm(), PruneBatchNorm()):
        net = parse(text, weights=True, datum=DATUM)
        found = reasons(net, one)
        assert set(found) == {"bn"} and net.text() == text
    net = parse(text, weights=True, datum=DATUM)
    rewrite(net, [StripTraining(), FoldBatchNorm()])
    assert names(net) == ["data", "conv_fold", "fc", "prob"]


def test_stages_are_rewritten_together() -> None:
    deploy = 'include { stage: "deploy" }'
    text = layer("Input", "data", (), "data", f"{deploy} input_param {{ shape {{ dim: 1 dim: 3 dim: 17 dim: 17 }} }}")
    text += layer(
        "DummyData",
        "data",
        (),
        ("data", "label"),
        'exclude { stage: "deploy" } dummy_data_param { shape { dim: 4 dim: 3 dim: 17 dim: 17 } shape { dim: 4 } }',
    )
    text += conv("conv", "data") + relu("relu", "conv") + pool("pool", "conv") + fc("fc", "pool")
    text += layer("SoftmaxWithLoss", "loss", ("fc", "label"), "loss", 'exclude { stage: "deploy" }')
    text += layer("Softmax", "prob", "fc", "prob", deploy)
    net = parse(text)
    assert reasons(net, PoolToStride()) == {}
    assert {str(view.state): view.blobs["pool"].shape for view in net.views} == {
        "TRAIN": (4, 4, 8, 8),
        "TRAIN deploy": (1, 4, 8, 8),
        "TEST": (4, 4, 8, 8),
        "TEST deploy": (1, 4, 8, 8),
    }


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (relu("a_r", "a", "a_r"), relu("b_r", "b", "b_r")),
        (relu("a_r", "a"), relu("b_r", "b")),
        (relu("a_r", "a"), relu("b_r", "b", "b_r")),
        (relu("a_r", "a") + layer("Dropout", "a_d", "a", "a"), relu("b_r", "b") + layer("Dropout", "b_d", "b", "b_d")),
    ],
)
def test_branches_merge_whatever_is_in_place(a: str, b: str) -> None:
    last_a, last_b = (parse(text.join([data(1, 1, name=x), ""])).layers[-1].tops[0] for text, x in ((a, "a"), (b, "b")))
    text = TWO + conv("x", "data", 8, 1) + conv("a", "x", 4, 1) + a + conv("b", "x", 4, 3, "pad: 1") + b
    text += layer("Concat", "out", (last_a, last_b)) + fc("fc", "out") + LOSS
    net = parse(text, datum=DATUM)
    assert reasons(net, MergeBranches(force=True)) == {}
    assert "b_merge" in names(net) and "a_r" not in names(net)
    assert list(by_name(net, "out").bottoms) == [last_b]
    assert all(view.blobs["out"].shape == (view.blobs["data"].shape[0], 8, 17, 17) for view in net.views)  # type: ignore[index]


def test_a_branch_of_one_phase_is_no_branch() -> None:
    text = data(1, 8, 9, 9) + conv("a", "data", 4, 1) + conv("b", "data", 4, 3, "pad: 1")
    text += layer("Concat", "out", ("a", "b"), "out", TRAIN) + layer("Softmax", "end", "b", "end", TEST)
    net = parse(text)
    assert reasons(net, MergeBranches(force=True)) == {} and net.text() == text
