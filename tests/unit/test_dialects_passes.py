"""Passes next to layers of forks: what is understood merges, everything else stays as it is, with the reason."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.ir import Net, Weights
from deeprebirth_caffe.passes.exact.fold_batchnorm import FoldBatchNorm
from deeprebirth_caffe.passes.exact.portable import Portable
from deeprebirth_caffe.passes.relearn.pool_to_stride import PoolToStride
from deeprebirth_caffe.rewrite import AnyPass, Rewriter
from deeprebirth_caffe.rewrite.learning import learn_faster
from deeprebirth_caffe.rewrite.pipeline import Outcome, run

DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 6 dim: 20 dim: 20 } } }\n'
CONV = (
    'layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"'
    " convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }\n"
)
DEPTHWISE = (
    'layer { name: "conv" type: "DepthwiseConvolution" bottom: "data" top: "conv"'
    " convolution_param { num_output: 6 group: 6 kernel_size: 3 pad: 1 bias_term: false } }\n"
)
POOL = 'layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 3 stride: 2 } }\n'
BN = (
    'layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" batch_norm_param { use_global_stats: true } }\n'
    'layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }\n'
)
END = 'layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc" inner_product_param { num_output: 3 } }\n'


def convert(text: str, passes: Sequence[AnyPass], weights: bool = False) -> tuple[Net, Outcome, Rewriter]:
    net = Net.parse(text)
    if weights:
        net.weights = random_weights(net)
    rewriter = Rewriter(net)
    return net, run(rewriter, passes), rewriter


def test_a_pool_that_rounds_down_folds_with_its_own_size() -> None:
    floor = POOL.replace("stride: 2", "stride: 2 ceil_mode: false")
    for pool, size in ((POOL, 10), (floor, 9)):
        net, outcome, _ = convert(DATA + CONV + pool + END, [PoolToStride(kernel=5)])
        assert not outcome.refusals, outcome.refusals
        value = net.view().blob("pool")
        assert value is not None and value.shape == (1, 4, size, size)


def test_a_depthwise_type_hosts_a_pool() -> None:
    net, outcome, rewriter = convert(DATA + DEPTHWISE + POOL + END, [PoolToStride(kernel=5)], weights=True)
    assert not outcome.refusals, outcome.refusals
    [host] = [layer for layer in net.layers if layer.name == "conv_merge"]
    assert (host.type, host.param.convolution_param.group) == ("DepthwiseConvolution", 6)
    assert net.weights is not None and net.weights["conv_merge"][0].shape == (6, 1, 5, 5)
    assert outcome.rewrites[0].applied.macs_before == 6 * 400 * 9
    assert learn_faster([host], 10.0)["conv_merge"] == [1.0]
    assert rewriter.origins[host] == ["conv", "pool"]


def test_a_depthwise_type_hosts_batch_norm() -> None:
    net, outcome, _ = convert(DATA + DEPTHWISE + BN, [FoldBatchNorm()], weights=True)
    assert not outcome.refusals, outcome.refusals
    assert [layer.type for layer in net.layers] == ["Input", "DepthwiseConvolution"]
    assert net.weights is not None
    assert [blob.shape for blob in net.weights["conv_fold"]] == [(6, 1, 3, 3), (6,)]
    assert net.layers[1].param.convolution_param.bias_term


def test_relu6_is_pointwise() -> None:
    relu = 'layer { name: "relu" type: "ReLU6" bottom: "conv" top: "conv" }\n'
    net, outcome, _ = convert(DATA + CONV + relu + POOL + END, [PoolToStride(kernel=4)])
    assert not outcome.refusals, outcome.refusals
    assert relu.replace('"conv"', '"pool"') in net.text() or 'type: "ReLU6"' in net.text()


@pytest.mark.parametrize(
    "text, reason",
    [
        (CONV + POOL.replace("stride: 2", "stride: 2 odd: 1"), "has fields that Caffe 1.0 does not have"),
        (CONV.replace("pad: 1", "pad: 1 odd: 1") + POOL, "has fields that Caffe 1.0 does not have"),
        (CONV.replace("pad: 1", "pad: 1 hole: 2") + POOL, "a fork's fields"),
        (CONV + POOL.replace("stride: 2", "stride: 2 avg_include_pad: false"), "a fork's fields"),
        (CONV + 'layer { name: "x" type: "Hologram" bottom: "conv" top: "conv" }\n' + POOL, "has type Hologram"),
        (CONV + 'layer { name: "x" type: "Python" bottom: "conv" top: "conv" }\n' + POOL, "x (Python) stands between"),
        (
            CONV
            + 'layer { name: "x" type: "ShuffleChannel" bottom: "conv" top: "x" }\n'
            + POOL.replace('bottom: "conv"', 'bottom: "x"'),
            "x (ShuffleChannel) stands between",
        ),
        (CONV + 'layer { name: "x" type: "BN" bottom: "conv" top: "conv" }\n' + POOL, "x (BN) stands between"),
    ],
)
def test_next_to_what_is_not_understood_nothing_changes(text: str, reason: str) -> None:
    net, outcome, _ = convert(DATA + text + END, [PoolToStride(kernel=5)])
    assert not outcome.rewrites
    assert any(reason in refused.reason for refused in outcome.refusals), outcome.refusals
    assert net.text() == DATA + text + END


def test_a_batch_norm_of_five_blobs_is_not_folded() -> None:
    text = DATA + CONV + BN.replace("use_global_stats: true", "use_global_stats: true scale_bias: true")
    _, outcome, _ = convert(text, [FoldBatchNorm()], weights=True)
    assert not any("bn" in rewrite.applied.removed for rewrite in outcome.rewrites)
    assert any("batch_norm_param.scale_bias" in refused.reason for refused in outcome.refusals)


def test_a_merged_layer_keeps_what_only_its_fork_knows() -> None:
    conv = CONV.replace(" convolution_param", ' engine: "MKLDNN" convolution_param')
    net, outcome, _ = convert(DATA + conv + POOL + END, [PoolToStride(kernel=5)])
    assert not outcome.refusals, outcome.refusals
    assert 'name: "conv_merge"' in net.text() and 'engine: "MKLDNN"' in net.text()


# Portable.


def test_portable_leaves_plain_caffe_alone() -> None:
    text = DATA + CONV + POOL.replace("stride: 2", "stride: 2 round_mode: FLOOR") + END
    net, outcome, _ = convert(text, [Portable()])
    assert not outcome.rewrites and not outcome.refusals
    assert net.text() == text


def test_portable_keeps_names_and_weights() -> None:
    text = DATA + DEPTHWISE + POOL.replace("stride: 2", "stride: 2 ceil_mode: false") + END
    net = Net.parse(text)
    net.weights = random_weights(net)
    before = {name: net.weights[name] for name in net.weights}
    run(Rewriter(net), [Portable()])
    assert [layer.name for layer in net.layers] == ["data", "conv", "pool", "fc"]
    assert net.text() == text.replace("DepthwiseConvolution", "Convolution").replace(
        "ceil_mode: false", "round_mode: FLOOR"
    )
    assert {name: net.weights[name] for name in net.weights}.keys() == before.keys()
    assert all(a is b for name, blobs in before.items() for a, b in zip(net.weights[name], blobs, strict=True))


@pytest.mark.parametrize(
    "kernel, flag, text",
    [
        (2, "ceil_mode: false", ""),  # 20 is cut by 2 without a rest
        (3, "ceil_mode: true", ""),
        (3, "ceil_mode: false", "round_mode: FLOOR"),
    ],
)
def test_portable_drops_ceil_mode_where_it_makes_no_difference(kernel: int, flag: str, text: str) -> None:
    pool = POOL.replace("kernel_size: 3", f"kernel_size: {kernel}").replace("stride: 2", f"stride: 2 {flag}")
    net, outcome, _ = convert(DATA + CONV + pool + END, [Portable()])
    assert not outcome.refusals
    assert ("round_mode: FLOOR" in net.text()) == bool(text)
    assert "ceil_mode" not in net.text()
    # Without InnerProduct images of other sizes may come.
    net, _, _ = convert(DATA + CONV + pool, [Portable()])
    assert ("round_mode: FLOOR" in net.text()) == ("false" in flag)


def test_portable_without_a_shape_says_what_holds_for_all() -> None:
    text = 'input: "data"\n' + CONV + POOL.replace("stride: 2", "stride: 2 ceil_mode: false")
    net, _, _ = convert(text, [Portable()])
    assert "round_mode: FLOOR" in net.text()


def test_portable_gives_a_depthwise_type_its_groups() -> None:
    conv = DEPTHWISE.replace("group: 6 ", "").replace("DepthwiseConvolution", "ConvolutionDepthwise")
    net, _, _ = convert(DATA + conv, [Portable()])
    own = net.layers[1].param
    assert (own.type, own.convolution_param.group, own.convolution_param.num_output) == ("Convolution", 6, 6)
    _, outcome, _ = convert('input: "data"\n' + conv, [Portable()])
    assert "how many channels it reads is not known" in outcome.refusals[0].reason


def test_portable_writes_segnet_s_folded_bn_as_scale() -> None:
    bn = (
        'layer { name: "bn" type: "BN" bottom: "conv" top: "conv"'
        " bn_param { bn_mode: INFERENCE scale_filler { value: 1 } } }\n"
    )
    net = Net.parse(DATA + CONV + bn)
    net.weights = random_weights(net)
    blobs = [blob.reshape(-1) for blob in net.weights["bn"]]
    outcome = run(Rewriter(net), [Portable()])
    assert not outcome.refusals
    assert 'name: "bn_fold" type: "Scale"' in net.text() and "bn_param" not in net.text()
    assert all(np.array_equal(a, b) for a, b in zip(net.weights["bn_fold"], blobs, strict=True))
    assert "bn" not in net.weights
    run(Rewriter(net), [FoldBatchNorm()])
    assert [layer.type for layer in net.layers] == ["Input", "Convolution"]


@pytest.mark.parametrize(
    "layer, reason",
    [
        ('type: "BN" bn_param { bn_mode: LEARN }', "normalises with its batch in TEST too"),
        ('type: "BN" bn_param { frozen: true }', "BatchNorm and Scale together say it"),
        ('type: "Permute" permute_param { order: 1 }', "plain Caffe has no layer type Permute"),
        ('type: "Interp" interp_param { zoom_factor: 2 }', "Deconvolution"),
        ('type: "Hologram"', "nobody here knows the layer type Hologram"),
        ('type: "ReLU" odd: 1', "odd: nobody here knows what it says"),
        ('type: "ReLU6" relu_param { negative_slope: 0.1 }', "negative_slope"),
        ('type: "BatchNorm" batch_norm_param { scale_filler { type: "xavier" } }', "scale_filler is not a constant"),
        (
            'type: "Convolution" convolution_param { num_output: 1 kernel_size: 1 hole: 2 dilation: 2 }',
            "beside dilation",
        ),
        ('type: "Pooling" pooling_param { kernel_size: 2 ceil_mode: "no" }', "not true or false"),
    ],
)
def test_portable_says_what_it_cannot_say(layer: str, reason: str) -> None:
    text = DATA + f'layer {{ name: "x" bottom: "data" top: "x" {layer} }}\n'
    net, outcome, _ = convert(text, [Portable()])
    assert [(refused.layer, reason in refused.reason) for refused in outcome.refusals] == [("x", True)], outcome
    assert net.text() == text


def test_portable_writes_a_batch_norm_of_five_blobs_as_two_layers() -> None:
    text = (
        DATA + CONV + 'layer {\n  name: "bn"\n  type: "BatchNorm"\n  bottom: "conv"\n  top: "bn"\n'
        "  param { lr_mult: 0 }\n  param { lr_mult: 0 }\n  param { lr_mult: 0 }\n  param { lr_mult: 2 }\n"
        "  batch_norm_param {\n    use_global_stats: false\n    eps: 1e-6\n    scale_bias: true\n"
        "    bias_filler { value: 0.5 }\n  }\n}\n" + POOL.replace('"conv"', '"bn"')
    )
    net = Net.parse(text)
    net.weights = random_weights(net)
    blobs = net.weights["bn"]
    assert len(blobs) == 5
    outcome = run(Rewriter(net), [Portable()])
    assert not outcome.refusals
    bn, scale = net.layers[2:4]
    assert [(one.name, one.type, list(one.bottoms), list(one.tops)) for one in (bn, scale)] == [
        ("bn_fold", "BatchNorm", ["conv"], ["bn"]),
        ("bn_scale", "Scale", ["bn"], ["bn"]),
    ]
    own = bn.param.batch_norm_param
    assert own.eps == np.float32(1e-5) and not own.HasField("use_global_stats") and len(bn.param.param) == 3
    assert scale.param.scale_param.bias_term and scale.param.scale_param.bias_filler.value == 0.5
    assert [spec.lr_mult for spec in scale.param.param] == [2]
    assert bn.understood.fork is False and "scale_bias" not in net.text()
    assert [np.array_equal(a, b) for a, b in zip(net.weights["bn_scale"], blobs[3:], strict=True)] == [True, True]
    assert [blob.shape for blob in net.weights["bn_fold"]] == [(4,), (4,), (1,)]


def test_weights_of_a_fork_are_read_by_name() -> None:
    net = Net.parse(DATA + 'layer { name: "x" type: "Normalize" bottom: "data" top: "x" }\n')
    assert isinstance(random_weights(net), Weights)


@pytest.mark.parametrize("params", ["param { lr_mult: 1 decay_mult: 0 } " * 2, "param { lr_mult: 3 } " * 5, ""])
def test_nvcaffe_learns_no_statistics_whatever_the_file_says(params: str) -> None:
    """Published nets give rates for scale and bias where those of the statistics stand; shapes are known."""
    bn = (
        f'layer {{ name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" {params}'
        "batch_norm_param { use_global_stats: true scale_filler { value: 1 } bias_filler { value: 0 } } }\n"
    )
    net = Net.parse(DATA + CONV + bn + POOL)
    assert net.view().blob("pool").shape is not None  # type: ignore[union-attr]
    net.weights = random_weights(net)
    outcome = run(Rewriter(net), [Portable()])
    assert not outcome.refusals
    norm, scale = net.layers[2:4]
    assert not any(spec.lr_mult or spec.decay_mult for spec in norm.param.param)
    assert [spec.lr_mult for spec in scale.param.param] == ([3, 3] if "3" in params else [])
    run(Rewriter(net), [FoldBatchNorm()])
    assert [layer.type for layer in net.layers] == ["Input", "Convolution", "Pooling"]
