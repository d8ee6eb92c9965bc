"""Channels that change their order: who must follow, and how."""

from __future__ import annotations

import numpy as np
from nets import by_name, conv, data, fc, layer, names, parse, pool, relu

from deeprebirth_caffe.passes.channels import choose, has_channel_blobs, join, permute_readers, readers_to_permute
from deeprebirth_caffe.passes.patterns import Facts
from deeprebirth_caffe.rewrite import Kind, Reason, Rewriter

ORDER = np.array([2, 0, 3, 1])
TEXT = (
    data(1, 4, 6, 6)
    + relu("first", "data", "x")
    + layer("BatchNorm", "bn", "x", "bn")
    + layer("Scale", "scale", "bn", "scale", "scale_param { bias_term: true }")
    + layer("PReLU", "prelu", "scale", "prelu")
    + layer("PReLU", "shared", "prelu", "shared", "prelu_param { channel_shared: true }")
    + layer("Bias", "bias", "shared", "bias")
    + conv("conv", "bias", 3, 3)
    + pool("pool", "bias", 3, 3)
    + fc("fc", "pool", 5)
    + fc("turned", "pool", 5, "transpose: true")
    + layer("Deconvolution", "up", "data", "up", "convolution_param { num_output: 2 kernel_size: 2 }")
)


def test_followers_are_found_through_what_keeps_channels_apart() -> None:
    net = parse(TEXT)
    found = readers_to_permute(Facts(net), by_name(net, "first"))
    assert [one.name for one in found] == ["bn", "scale", "prelu", "bias", "conv", "fc", "turned"]  # type: ignore[union-attr]
    reason = readers_to_permute(Facts(net), by_name(net, "data"))
    words = "the order of the Concat's channels would change, and up (Deconvolution) reads them in that order"
    assert reason == Reason(words)


def test_every_follower_is_reordered_under_a_new_name() -> None:
    net = parse(TEXT, weights=True)
    assert net.weights is not None
    before = net.weights.copy()
    readers = readers_to_permute(Facts(net), by_name(net, "first"))
    assert not isinstance(readers, Reason)
    rewriter = Rewriter(net)
    made = permute_readers(rewriter, readers, ORDER)
    rewriter.commit()
    assert made == [f"{one.name}_fold" for one in readers]
    assert set(rewriter.made.values()) == {Kind.EXACT}
    after = net.weights
    assert set(made) <= set(names(net)) and not {one.name for one in readers} & set(after)
    for name in ("bn", "scale", "prelu", "bias"):
        for new, old in zip(after[f"{name}_fold"], before[name], strict=True):
            np.testing.assert_array_equal(new, old[ORDER] if old.size == 4 else old)
    np.testing.assert_array_equal(after["conv_fold"][0], before["conv"][0][:, ORDER])
    np.testing.assert_array_equal(after["conv_fold"][1], before["conv"][1])
    by_channel = before["fc"][0].reshape(5, 4, 2, 2)[:, ORDER].reshape(5, 16)
    np.testing.assert_array_equal(after["fc_fold"][0], by_channel)
    turned = before["turned"][0].T.reshape(5, 4, 2, 2)[:, ORDER].reshape(5, 16).T
    np.testing.assert_array_equal(after["turned_fold"][0], turned)
    np.testing.assert_array_equal(after["shared"][0], before["shared"][0])


def test_without_weights_only_names_change() -> None:
    net = parse(TEXT)
    rewriter = Rewriter(net)
    assert permute_readers(rewriter, [by_name(net, "conv")], ORDER) == ["conv_fold"]
    rewriter.commit()
    assert net.weights is None


def test_who_has_a_number_for_each_channel() -> None:
    net = parse(TEXT)
    having = [one.name for one in net.layers if has_channel_blobs(one)]
    assert having == ["bn", "scale", "prelu", "bias"]


def test_choose_and_join_follow_the_channels() -> None:
    net = parse(TEXT)
    bn, scale = by_name(net, "bn"), by_name(net, "scale")
    blobs = [np.array([1.0, 2, 3, 4]), np.array([5.0, 6, 7, 8]), np.array([2.0])]
    assert [blob.tolist() for blob in choose(bn, blobs, np.array([3, 1]))] == [[4, 2], [8, 6], [2]]
    assert [blob.tolist() for blob in choose(scale, blobs[:2], np.array([0]))] == [[1], [5]]
    empty = [np.array([9.0]), np.array([9.0]), np.array([0.0])]
    joined = join(bn, [blobs, empty])
    assert [blob.tolist() for blob in joined] == [[0.5, 1, 1.5, 2, 0], [2.5, 3, 3.5, 4, 0], [1]]
    assert [blob.tolist() for blob in join(scale, [blobs[:2], empty[:2]])] == [[1, 2, 3, 4, 9], [5, 6, 7, 8, 9]]
