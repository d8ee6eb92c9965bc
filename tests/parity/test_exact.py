"""EXACT rewrites in real Caffe: every surviving blob is what it was, on random input and random weights."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from closeness import between
from exact_tools import Shared, same
from nets import by_name, conv, data, fc, layer, names, parse, pool, relu, rewrite

from deeprebirth_caffe import zoo
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.nets.check import compare_nets
from deeprebirth_caffe.passes.channels import permute_readers, readers_to_permute
from deeprebirth_caffe.passes.exact.fold_batchnorm import FoldBatchNorm
from deeprebirth_caffe.passes.exact.strip_training import StripTraining
from deeprebirth_caffe.passes.patterns import Facts
from deeprebirth_caffe.passes.relearn.merge_branches import MergeBranches
from deeprebirth_caffe.passes.relearn.pool_to_stride import PoolToStride
from deeprebirth_caffe.passes.relearn.prune_batchnorm import PruneBatchNorm
from deeprebirth_caffe.rewrite import AnyPass, Reason, Rewriter

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.caffe.client import CaffeWorker
    from deeprebirth_caffe.engines.caffe.locate import CaffeInstall


@pytest.fixture
def engine(caffe_install: CaffeInstall, caffe: CaffeWorker) -> Shared:
    return Shared(caffe_install, caffe)


def run(net: Net, one: AnyPass) -> tuple[Net, Net]:
    before = net.copy()
    outcome = rewrite(net, one)
    assert outcome.rewrites and not outcome.refusals
    return before, net


# BatchNorm and Scale.

NORMS = [
    ("BatchNorm",),
    ("Scale",),
    ("BatchNorm", "Scale"),
]


def linear(kind: str, name: str, *, bias: bool, group: int, transpose: bool) -> str:
    if kind == "InnerProduct":
        own = f"num_output: 6 bias_term: {str(bias).lower()}{' transpose: true' if transpose else ''}"
        return layer(kind, name, "data", name, f"inner_product_param {{ {own} }}")
    own = f"num_output: 6 kernel_size: 3 group: {group} bias_term: {str(bias).lower()}"
    return layer(kind, name, "data", name, f"convolution_param {{ {own} }}")


def norm_grid(kind: str) -> tuple[str, int]:
    """One net with a branch for each combination; the other is how many blobs survive."""
    text, count = data(2, 4, 5, 5), 0
    groups = [(1, True), (1, False)] if kind == "InnerProduct" else [(1, False), (2, False)]
    grid = product((True, False), groups, NORMS, (True, False), (True, False), ("", "eps: 0.1"))
    for bias, (group, transpose), norms, in_place, shift, eps in grid:
        name = f"x{count}"
        count += 1
        text += linear(kind, name, bias=bias, group=group, transpose=transpose)
        blob = name
        for norm in norms:
            top = blob if in_place else f"{name}_{norm}"
            own = (
                f"batch_norm_param {{ {eps} }}"
                if norm == "BatchNorm"
                else f"scale_param {{ bias_term: {str(shift).lower()} }}"
            )
            text += layer(norm, f"{name}_{norm}", blob, top, own)
            blob = top
        text += relu(f"{name}_relu", blob, f"{name}_out")
    return text, count


@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution", "InnerProduct"])
def test_fold_is_exact_over_the_grid(engine: Shared, kind: str) -> None:
    text, count = norm_grid(kind)
    net = parse(text, weights=True)
    before, after = run(net, FoldBatchNorm())
    assert not any(one.type in ("BatchNorm", "Scale") for one in after.layers)
    result = same(before, after, engine, blobs=2 * count)
    assert result.worst < between(400)


@pytest.mark.parametrize("kind", ["Convolution", "InnerProduct"])
def test_a_scale_factor_of_zero_means_zero_statistics(engine: Shared, kind: str) -> None:
    net = parse(
        data(2, 4, 5, 5) + linear(kind, "x", bias=True, group=1, transpose=False) + layer("BatchNorm", "bn", "x", "x")
    )
    net.weights = random_weights(net)
    mean, variance, factor = net.weights["bn"]
    net.weights.set("bn", [mean, variance, np.zeros_like(factor)])
    before, after = run(net, FoldBatchNorm())
    same(before, after, engine, blobs=1)


def test_pruning_with_inherit_is_exact_in_test(engine: Shared) -> None:
    text, count = norm_grid("Convolution")
    before, after = run(parse(text, weights=True), PruneBatchNorm())
    same(before, after, engine, blobs=2 * count)


def test_a_broken_fold_is_caught_and_its_blob_named(engine: Shared) -> None:
    text = data(2, 3, 9, 9) + conv("a", "data") + layer("BatchNorm", "a_bn", "a", "a") + relu("a_relu", "a")
    text += conv("b", "a") + layer("Scale", "b_scale", "b", "b") + conv("c", "b")
    before, after = run(parse(text, weights=True), FoldBatchNorm())
    assert after.weights is not None
    weight, bias = after.weights["b_fold"]
    bent = weight.copy()
    bent[0] *= 1.01
    after.weights.set("b_fold", [bent, bias])
    result = compare_nets(before, after, engine)
    assert result.failure.startswith('blob "b" differs by ') and "1e-04 is allowed" in result.failure
    assert result.blobs == 3 and result.worst_blob in ("b", "c")


@pytest.mark.parametrize(
    ("weight", "failure"),
    [(np.nan, 'blob "a" is not finite'), (0.0, 'blob "a" is constant, so that it proves nothing')],
)
def test_a_check_that_proves_nothing_fails(engine: Shared, weight: float, failure: str) -> None:
    net = parse(data(2, 3, 9, 9) + conv("a", "data"), weights=True)
    assert net.weights is not None
    net.weights.set("a", [np.full_like(blob, weight) for blob in net.weights["a"]])
    assert compare_nets(net, net.copy(), engine).failure == failure


def test_nets_without_a_common_blob_fail(engine: Shared) -> None:
    first, second = (parse(data(1, 3, 9, 9) + conv(name, "data"), weights=True) for name in "ab")
    assert compare_nets(first, second, engine).failure == "the two nets have no blob in common"


def test_a_result_that_is_gone_fails(engine: Shared) -> None:
    both = data(1, 3, 9, 9) + conv("a", "data") + conv("b", "data")
    for end in ("", layer("EuclideanLoss", "loss", ("a", "b"), "loss")):
        first, second = parse(both + end, weights=True), parse(data(1, 3, 9, 9) + conv("a", "data"), weights=True)
        assert compare_nets(first, second, engine).failure == 'blob "b", a result of the net, is gone'


def test_deploy_nets_of_losses_of_several_blobs_and_of_silenced_results(
    engine: Shared, caffe: CaffeWorker, tmp_path: Path
) -> None:
    """Real Caffe's outputs of a deploy net are its results, and nothing else."""
    source = layer("DummyData", "data", (), ("data", "label"), "dummy_data_param { shape { dim: 2 dim: 8 } }")
    sides = fc("a", "data") + fc("b", "data") + fc("wide", "data", 6)
    cut = layer("Slice", "cut", "wide", ("one", "two"), "slice_param { slice_point: 2 }")
    silence = layer("Silence", "s", ("two", "a"), ())
    for text, ends in [
        (source + sides + layer("EuclideanLoss", "loss", ("a", "b"), "loss"), {"a", "b"}),
        (source + sides + cut + layer("EuclideanLoss", "loss", ("one", "one"), "loss") + silence, {"one"}),
        (data(2, 8) + sides + cut + silence + fc("y", "one"), {"y", "b"}),
        (data(2, 8) + fc("a", "data") + layer("Silence", "s", "a", ()), {"a"}),
    ]:
        net = parse(text, weights=True)
        before, after = run(net, StripTraining(batch=2))
        assert compare_nets(before, after, engine).failure == ""
        path = tmp_path / "deploy.prototxt"
        path.write_text(after.text())
        loaded = caffe.load(path)
        assert set(loaded.outputs) == ends
        caffe.close(loaded)


def test_a_blob_of_another_shape_fails(engine: Shared) -> None:
    first, second = (parse(data(1, 3, 9, 9) + conv("a", "data", out), weights=True) for out in (4, 5))
    assert compare_nets(first, second, engine).failure == 'blob "a" has shape (1, 5, 7, 7) where it had (1, 4, 7, 7)'


# Channels that change their order.

BEHIND = (
    relu("r", "cat", "r")
    + layer("BatchNorm", "bn", "r", "bn")
    + layer("Scale", "scale", "bn", "scale", "scale_param { bias_term: true }")
    + layer("PReLU", "prelu", "scale", "prelu")
    + layer("Bias", "bias", "prelu", "bias")
    + layer("Dropout", "drop", "bias", "bias")
    + conv("out_conv", "bias", 3, 3)
    + pool("pool", "bias", 2, 2)
    + conv("out_later", "pool", 3, 1)
    + fc("out_fc", "pool", 5)
    + fc("out_turned", "pool", 5, "transpose: true")
)
ON_THE_WAY = ["cat", "r", "bn", "scale", "prelu", "bias", "pool"]


def test_permuted_readers_compute_the_same(engine: Shared) -> None:
    text = data(2, 3, 8, 8) + conv("a", "data", 2, 1) + conv("b", "data", 3, 1) + conv("c", "data", 1, 1)
    text += layer("Concat", "cat", ("a", "b", "c")) + BEHIND
    net = parse(text, weights=True)
    before = net.copy()
    concat = by_name(net, "cat")
    readers = readers_to_permute(Facts(net), concat)
    assert not isinstance(readers, Reason)
    rewriter = Rewriter(net)
    rewriter.set_bottoms(concat, ["c", "a", "b"])
    permute_readers(rewriter, readers, np.array([5, 0, 1, 2, 3, 4]))
    for blob in ON_THE_WAY:
        rewriter.rename_blob(blob, f"{blob}_reordered")
    rewriter.commit()
    same(before, net, engine, blobs=7)
    # And the test can fail: without their new order the readers compute something else.
    assert before.weights is not None and net.weights is not None
    net.weights.set("out_fc_fold", before.weights["out_fc"])
    assert compare_nets(before, net, engine).failure.startswith('blob "out_fc" differs')


# Merges that lose nothing: what `inherit` promises where the old function still fits.

SUFFIXES = {
    "nothing": "",
    "relu": relu("%s_relu", "%s"),
    "norms": layer("BatchNorm", "%s_bn", "%s", "%s")
    + layer("Scale", "%s_s", "%s", "%s", "scale_param { bias_term: true }")
    + layer("PReLU", "%s_p", "%s", "%s"),
}


@pytest.mark.parametrize("suffix", list(SUFFIXES))
@pytest.mark.parametrize("order", ["abc", "bca", "cab"])
def test_branches_that_read_the_fork_merge_without_loss(engine: Shared, order: str, suffix: str) -> None:
    """1x1 into 3x3 into 5x5, no reducer between: the new kernel holds the old ones."""
    behind = {name: SUFFIXES[suffix].replace("%s", name) for name in "abc"}
    text = data(2, 3, 8, 8) + conv("a", "data", 2, 1, "bias_term: false") + behind["a"]
    text += conv("b", "data", 3, 3, "pad: 1") + behind["b"] + conv("c", "data", 4, 5, "pad: 2") + behind["c"]
    text += layer("Concat", "out", list(order)) + relu("r", "out", "end")
    before, after = run(parse(text, weights=True), MergeBranches(force=True))
    assert len([one for one in after.layers if one.type == "Convolution"]) == 1
    # The last branch's own blob has more channels now.
    after_names = Rewriter(after)
    after_names.rename_blob("c", "c_merge")
    after_names.commit()
    same(before, after, engine, blobs=2)


def test_a_reducer_of_full_rank_loses_nothing(engine: Shared) -> None:
    """Without a ReLU behind it and with as many channels as it reads, the guest goes through it exactly."""
    text = data(2, 3, 8, 8) + conv("a", "data", 2, 1, "bias_term: false")
    text += conv("b_reduce", "data", 5, 1, "bias_term: false") + conv("b", "b_reduce", 3, 3, "pad: 1")
    text += layer("Concat", "out", ("a", "b")) + relu("r", "out", "end")
    before, after = run(parse(text, weights=True), MergeBranches(force=True, reduce=1.0))
    rewriter = Rewriter(after)
    rewriter.rename_blob("b", "b_merge")
    rewriter.commit()
    same(before, after, engine, blobs=3)


def test_a_new_order_is_followed_by_its_readers(engine: Shared) -> None:
    """The 3x3 branch at the end takes the 1x1 of the start in, across the 5x5 in the middle."""
    text = data(2, 3, 8, 8) + conv("a", "data", 2, 1)
    text += conv("b_reduce", "data", 2, 1) + conv("b", "b_reduce", 3, 5, "pad: 2")
    text += conv("c_reduce", "data", 4, 1, "bias_term: false") + conv("c", "c_reduce", 1, 3, "pad: 1")
    text += layer("Concat", "cat", ("a", "b", "c")) + BEHIND
    before, after = run(parse(text, weights=True), MergeBranches(force=True, reduce=1.0))
    assert list(by_name(after, "cat").bottoms) == ["b", "c"]
    assert {"out_conv_fold", "out_later_fold", "out_fc_fold", "out_turned_fold", "scale_fold"} <= set(names(after))
    rewriter = Rewriter(after)
    for blob in [*ON_THE_WAY, "c"]:
        rewriter.rename_blob(blob, f"{blob}_new")
    rewriter.commit()
    same(before, after, engine, blobs=7)


@pytest.mark.parametrize("kernel", ["keep", 5])
def test_picking_every_second_pixel_is_a_stride(engine: Shared, kernel: str | int) -> None:
    """Pooling with a window of one pixel only subsamples, so the merge is exact, and the taps must sit right."""
    text = data(2, 3, 13, 13) + conv("a", "data", 4, 3, "pad: 1") + relu("r", "a") + pool("p", "a", 1, 2)
    before, after = run(parse(text + fc("f", "p"), weights=True), PoolToStride(kernel=kernel, force=True))
    same(before, after, engine, blobs=2)


# Deploy nets.


@pytest.mark.parametrize("name", ["googlenet64", "alexnet64", "resnet64"])
def test_strip_training_is_exact_on_the_zoo(engine: Shared, name: str) -> None:
    built = zoo.build(name)
    net = parse(built.train_val, weights=True, datum=built.input_shape)
    before, after = run(net, StripTraining())
    kinds = {one.type for one in after.layers}
    assert not kinds & {"Data", "Dropout", "SoftmaxWithLoss", "Accuracy"}
    assert "prob" in {value.name for value in after.view("TEST").outputs}
    same(before, after, engine, blobs=10)
    if name == "resnet64":
        folded = after.copy()
        rewrite(folded, FoldBatchNorm())
        assert "BatchNorm" not in {one.type for one in folded.layers}
        same(after, folded, engine, blobs=10)


def test_strip_training_with_dropout_in_every_place(engine: Shared) -> None:
    source = 'layer { name: "data" type: "Data" top: "data" top: "label" %s data_param { batch_size: 2 } }\n'
    text = source % "include { phase: TRAIN }" + source % "include { phase: TEST }"
    text += layer("Dropout", "d0", "data", "d0") + conv("a", "d0") + layer("Dropout", "d1", "a", "a")
    text += layer("Dropout", "d2", "a", "d2") + fc("b", "a") + fc("c", "d2") + layer("Dropout", "d3", "c", "d3")
    text += layer("Eltwise", "score", ("b", "d3")) + layer("SoftmaxWithLoss", "loss", ("score", "label"), "loss")
    text += layer("Accuracy", "acc", ("score", "label"), "acc", "include { phase: TEST }")
    before, after = run(parse(text, weights=True, datum=(3, 8, 8)), StripTraining())
    assert names(after) == ["data", "a", "b", "c", "score", "prob"]
    same(before, after, engine, blobs=4)
