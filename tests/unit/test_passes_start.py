"""What rebirth layers start with: inherited weights, or Xavier noise."""

from __future__ import annotations

import numpy as np
import pytest
from nets import by_name, conv, data, fc, layer, names, parse, pool, relu, rewrite

from deeprebirth_caffe.ir import Weights
from deeprebirth_caffe.numerics.inherit import embed, strongest
from deeprebirth_caffe.passes.batchnorm import chain_affine
from deeprebirth_caffe.passes.relearn.merge_branches import MergeBranches
from deeprebirth_caffe.passes.relearn.pool_to_stride import PoolToStride
from deeprebirth_caffe.passes.relearn.prune_batchnorm import PruneBatchNorm
from deeprebirth_caffe.passes.relearn.remove_lrn import RemoveLrn
from deeprebirth_caffe.passes.relearn.start import Start
from deeprebirth_caffe.rewrite import AnyPass
from deeprebirth_caffe.rewrite.pipeline import Outcome

XAVIER = Start("xavier", seed=3)
BIAS = 'weight_filler { type: "gaussian" } bias_filler { type: "constant" value: 0.2 }'


def run(text: str, one: AnyPass) -> tuple[Weights, Weights, Outcome]:
    """The weights before and after, and what was done."""
    net = parse(text, weights=True)
    assert net.weights is not None
    before = net.weights.copy()
    outcome = rewrite(net, one)
    assert outcome.rewrites and not outcome.refusals
    assert set(net.weights) <= set(names(net)), "no weights are left of layers that are gone"
    return before, net.weights, outcome


STEM = data(1, 3, 28, 28) + conv("conv", "data", 4, 7, f"stride: 2 pad: 3 {BIAS}") + pool("pool", "conv", 3, 2)


@pytest.mark.parametrize(
    ("kernel", "size", "offset"), [("keep", 7, 0), ("receptive", 11, 3), (12, 12, 3), (5, 5, 0), (3, 3, -1)]
)
def test_pool_to_stride_keeps_the_taps(kernel: str | int, size: int, offset: int) -> None:
    before, after, outcome = run(STEM, PoolToStride(kernel=kernel))
    (weight, bias), (old, old_bias) = after["conv_merge"], before["conv"]
    assert weight.shape == (4, 3, size, size)
    np.testing.assert_array_equal(weight, embed(old, (size, size), (offset, offset)))
    np.testing.assert_array_equal(bias, old_bias)
    (note,) = outcome.rewrites[0].applied.notes
    assert note.startswith(f"conv_merge: kernel {size}, stride 4, pad ") and "grid shifted by" in note


def test_the_note_tells_both_axes_and_the_shift() -> None:
    text = data(1, 3, 28, 28) + conv("conv", "data", 4, 3, "pad: 1")
    text += layer(
        "Pooling", "pool", "conv", "pool", "pooling_param { kernel_h: 2 kernel_w: 3 stride_h: 2 stride_w: 3 }"
    )
    _, _, outcome = run(text, PoolToStride())
    assert outcome.rewrites[0].applied.notes == ["conv_merge: kernel 3, stride 2x3, pad 1, grid shifted by -0.5x-1 px"]


@pytest.mark.parametrize(
    ("one", "kind"),
    [
        (PoolToStride(start=XAVIER), "Pooling"),
        (RemoveLrn(start=XAVIER), "LRN"),
        (PruneBatchNorm(start=XAVIER), "Scale"),
    ],
)
def test_xavier_as_in_the_paper(one: AnyPass, kind: str) -> None:
    text = STEM if kind == "Pooling" else STEM.split('layer { name: "pool"')[0] + layer(kind, "x", "conv")
    before, after, _ = run(text, one)
    weight, bias = after["conv_merge"]
    bound = np.sqrt(3 / (3 * 49))
    assert 0.9 * bound < np.abs(weight).max() <= bound
    assert not np.array_equal(weight, before["conv"][0])
    np.testing.assert_array_equal(bias, np.full(4, 0.2, np.float32))


def test_noise_depends_on_name_and_seed_alone() -> None:
    twice = STEM + conv("next", "pool", 4, 3) + pool("pool2", "next")
    _, one, _ = run(STEM, PoolToStride(start=XAVIER))
    _, two, _ = run(twice, PoolToStride(start=XAVIER))
    np.testing.assert_array_equal(one["conv_merge"][0], two["conv_merge"][0])
    assert not np.array_equal(two["conv_merge"][0][:, :, :3, :3], two["next_merge"][0][:, :3])
    _, other, _ = run(STEM, PoolToStride(start=Start("xavier", seed=4)))
    assert not np.array_equal(one["conv_merge"][0], other["conv_merge"][0])


def test_fillers_become_xavier_and_biases_keep_theirs() -> None:
    net = parse(STEM)
    rewrite(net, PoolToStride())
    param = by_name(net, "conv_merge").param.convolution_param
    assert param.weight_filler.type == "xavier" and not param.weight_filler.HasField("std")
    assert param.bias_filler.value == pytest.approx(0.2)


def test_lrn_removal_inherits_everything() -> None:
    text = data(1, 3, 8, 8) + conv("conv", "data") + pool("pool", "conv") + layer("LRN", "norm", "pool")
    before, after, outcome = run(text, RemoveLrn())
    for new, old in zip(after["conv_merge"], before["conv"], strict=True):
        np.testing.assert_array_equal(new, old)
    assert outcome.rewrites[0].applied.removed == ["norm", "conv"]
    assert outcome.rewrites[0].applied.rebirth == ["conv_merge"]


def test_pruning_inherits_the_global_statistics() -> None:
    text = data(1, 3, 8, 8) + conv("conv", "data", fields="bias_term: false")
    text += layer("BatchNorm", "bn", "conv", "conv") + layer("Scale", "scale", "conv", "conv")
    before, after, _ = run(text, PruneBatchNorm())
    net = parse(text)
    both = chain_affine(before, [by_name(net, "bn"), by_name(net, "scale")])
    weight, bias = after["conv_merge"]
    np.testing.assert_allclose(weight, before["conv"][0] * both.scale[:, None, None, None], rtol=1e-5)
    np.testing.assert_allclose(bias, both.shift, rtol=1e-5)


# Branches.

RELUS = relu("a_relu", "a"), relu("b_relu", "b")
HEAD = fc("next", "out", 5)


def module(a: str, b: str, order: str = "ab", channels: int = 12) -> str:
    joined = layer("Concat", "out", list(order))
    return data(1, channels, 6, 6) + a + RELUS[0] + b + RELUS[1] + joined + HEAD


SMALL = conv("a", "data", 8, 1)
PLAIN = conv("b", "data", 4, 3, "pad: 1")
REDUCED = conv("b_reduce", "data", 6, 1) + relu("b_reduce_relu", "b_reduce") + conv("b", "b_reduce", 4, 3, "pad: 1")


def test_a_small_branch_sits_on_the_centre_tap() -> None:
    before, after, outcome = run(module(SMALL, PLAIN), MergeBranches(force=True))
    weight, bias = after["b_merge"]
    assert weight.shape == (12, 12, 3, 3)
    np.testing.assert_array_equal(weight[:8, :, 1, 1], before["a"][0][:, :, 0, 0])
    assert np.count_nonzero(weight[:8]) == 8 * 12
    np.testing.assert_array_equal(weight[8:], before["b"][0])
    np.testing.assert_array_equal(bias, np.concatenate([before["a"][1], before["b"][1]]))
    assert set(after) == {"b_merge", "next"}
    applied = outcome.rewrites[0].applied
    assert applied.removed == ["a", "a_relu", "b"] and applied.rebirth == ["b_merge"]


def test_parts_follow_the_order_of_the_concat() -> None:
    before, after, _ = run(module(SMALL, PLAIN, "ba"), MergeBranches(force=True))
    np.testing.assert_array_equal(after["b_merge"][0][:4], before["b"][0])
    np.testing.assert_array_equal(after["b_merge"][1], np.concatenate([before["b"][1], before["a"][1]]))
    np.testing.assert_array_equal(after["next"][0], before["next"][0])


def test_a_branch_goes_through_the_reducer() -> None:
    before, after, _ = run(module(SMALL, REDUCED), MergeBranches(reduce=1.0, force=True))
    reducer, guest = before["b_reduce"][0][:, :, 0, 0], before["a"][0][:, :, 0, 0]
    new = after["b_merge"][0][:8, :, 1, 1]
    best, *_ = np.linalg.lstsq(reducer.T.astype(np.float64), guest.T.astype(np.float64), rcond=None)
    np.testing.assert_allclose(new, best.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(after["b_reduce"][0], before["b_reduce"][0])


def test_the_strongest_reducer_channels_stay() -> None:
    net = parse(module(SMALL, REDUCED), weights=True)
    assert net.weights is not None
    weight, bias = net.weights["b_reduce"]
    net.weights.set("b_reduce", [weight * np.array([1, 9, 1, 9, 1, 9]).reshape(6, 1, 1, 1), bias])
    before, after = net.weights.copy(), net.weights
    outcome = rewrite(net, MergeBranches(reduce=0.5))
    kept = strongest(before["b_reduce"][0], before["b"][0], 3)
    assert kept.tolist() == [1, 3, 5]
    for new, old in zip(after["b_reduce_merge"], before["b_reduce"], strict=True):
        np.testing.assert_array_equal(new, old[kept])
    np.testing.assert_array_equal(after["b_merge"][0][8:], before["b"][0][:, kept])
    assert outcome.rewrites[0].applied.notes == ["b_reduce: 6 to 3 channels"]
    assert outcome.rewrites[0].applied.rebirth == ["b_merge", "b_reduce_merge"]


@pytest.mark.parametrize(("ratio", "keep"), [(0.5, 3), (0.25, 2), (0.01, 1), (0.9, 5)])
def test_reduce_rounds_and_leaves_one(ratio: float, keep: int) -> None:
    _, after, _ = run(module(SMALL, REDUCED), MergeBranches(reduce=ratio, force=True))
    assert after["b_reduce_merge"][0].shape == (keep, 12, 1, 1)


def test_reduce_patterns_come_first() -> None:
    patterns = (("nobody", 0.1), ("b_*", 1.0), ("*", 0.5))
    _, after, _ = run(module(SMALL, REDUCED), MergeBranches(patterns=patterns, force=True))
    assert "b_reduce" in after


def test_xavier_leaves_normalisation_alone() -> None:
    """BatchNorm and Scale have no filler of Xavier's kind: what stands behind the parts is joined."""
    extra = layer("BatchNorm", "a_bn", "a", "a") + layer("Scale", "a_s", "a", "a", "scale_param { bias_term: true }")
    text = module(SMALL + extra, PLAIN + extra.replace('"a', '"b'))
    before, after, _ = run(text, MergeBranches(force=True, start=XAVIER))
    for index in range(2):
        np.testing.assert_array_equal(
            after["b_s_merge"][index], np.concatenate([before["a_s"][index], before["b_s"][index]])
        )
    mean, variance, factor = after["b_bn_merge"]
    assert factor.tolist() == [1]
    for which, joined in enumerate((mean, variance)):
        parts = [before[name][which] / before[name][2][0] for name in ("a_bn", "b_bn")]
        np.testing.assert_allclose(joined, np.concatenate(parts), rtol=1e-6)


def test_missing_weights_leave_a_layer_to_its_filler() -> None:
    net = parse(module(SMALL, REDUCED), weights=True)
    assert net.weights is not None
    net.weights.drop("a")
    rewrite(net, MergeBranches())
    assert "b_merge" not in net.weights, "half inherited is worse than the filler"
    assert "b_reduce_merge" in net.weights


def test_several_small_branches_and_one_host_in_a_row() -> None:
    """1x1 into 3x3 into 5x5: who is taken in passes its guests on."""
    text = data(1, 12, 6, 6) + conv("a", "data", 8, 1) + conv("b", "data", 4, 3, "pad: 1")
    text += conv("c", "data", 4, 5, "pad: 2") + layer("Concat", "out", list("abc")) + HEAD
    before, after, _ = run(text, MergeBranches(force=True))
    weight = after["c_merge"][0]
    assert weight.shape == (16, 12, 5, 5)
    np.testing.assert_array_equal(weight[:8, :, 2, 2], before["a"][0][:, :, 0, 0])
    np.testing.assert_array_equal(weight[8:12, :, 1:4, 1:4], before["b"][0])
    np.testing.assert_array_equal(weight[12:], before["c"][0])


def test_bias_appears_where_one_part_has_one() -> None:
    text = module(SMALL, conv("b", "data", 4, 3, "pad: 1 bias_term: false"))
    before, after, _ = run(text, MergeBranches(force=True))
    np.testing.assert_array_equal(after["b_merge"][1], np.concatenate([before["a"][1], np.zeros(4, np.float32)]))
