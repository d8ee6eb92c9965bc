"""Every reason for which an exact pass leaves a place alone, and states in which it must hold."""

from __future__ import annotations

import numpy as np
import pytest
from nets import by_name, conv, data, fc, layer, names, parse, pool, reasons, relu, rewrite

from deeprebirth_caffe.nets.exactness import all_exact
from deeprebirth_caffe.passes.exact.compose_convolutions import ComposeConvolutions
from deeprebirth_caffe.passes.exact.drop_identities import DropIdentities
from deeprebirth_caffe.passes.exact.fold_ahead import FoldAhead
from deeprebirth_caffe.passes.exact.fold_average import FoldAverage
from deeprebirth_caffe.passes.exact.fold_batchnorm import FoldBatchNorm
from deeprebirth_caffe.passes.exact.inner_to_convolution import InnerToConvolution
from deeprebirth_caffe.passes.exact.join_siblings import JoinSiblings
from deeprebirth_caffe.passes.exact.widen_branches import WidenBranches
from deeprebirth_caffe.rewrite import AnyPass

D = data(1, 4, 16, 16)
TRAIN, TEST = "include { phase: TRAIN }", "include { phase: TEST }"
TWO = "".join(
    layer("Data", "data", (), ("data", "label"), f"{phase} data_param {{ batch_size: 2 }}") for phase in (TRAIN, TEST)
)
LOSS = layer("SoftmaxWithLoss", "loss", ("fc", "label"), "loss")
SHARED = 'param { name: "w" }'
IN = relu("r", "data", "x")
BN = layer("BatchNorm", "bn", "x", "y")
SHIFT = layer("Bias", "b", "x", "y")
AVE = "pool: AVE"
OWNED = D + conv("c", "data", rest=SHARED)
GATE = "its predicted time would not fall"
ONE = "only without that pad are they one convolution"


def deconv(name: str, bottom: str) -> str:
    return conv(name, bottom, 4, 2).replace('"Convolution"', '"Deconvolution"')


CASES = [
    (FoldBatchNorm(), "p", D + conv("c", "data") + layer("Power", "p", "c", fields="power_param { power: 2 }"),
     "p raises to the power 2, which is not affine"),
    (FoldBatchNorm(), "s", D + conv("c", "data") + relu("r", "c") + layer("Scale", "s", "c"),
     "no convolution directly in front: r (ReLU) stands between"),
    (FoldBatchNorm(), "b", OWNED + layer("Bias", "b", "c") + conv("d", "data", rest=SHARED),
     'c shares its weights "w" with another layer'),
    (FoldBatchNorm(), "s", D + conv("c", "data") + layer("Scale", "s", "c", "s", "loss_weight: 1"),
     "s is part of the loss itself (loss_weight)"),
    (FoldAhead(), "b", D + IN + SHIFT + conv("c", "y", 4, 3, "pad: 1"),
     "c pads with zeros, which b does not shift (pad 1x1): in front of padding only a scale folds"),
    (FoldAhead(), "b", D + IN + SHIFT + deconv("c", "y"),
     "b shifts, and the outputs of c (Deconvolution) do not all see the same taps"),
    (FoldAhead(), "bn", D + IN + BN + conv("c", "y") + relu("o", "y", "o"), "o (ReLU) reads y too"),
    (FoldAhead(), "bn", D + IN + BN + conv("c", "y", rest=SHARED) + conv("d", "x", rest=SHARED),
     'c shares its weights "w" with another layer'),
    (FoldAhead(), "s", D + IN + layer("Scale", "s", "x", "y", "scale_param { axis: 2 }") + conv("c", "y"),
     "s does not work by channel (axis 2, num_axes 1)"),
    (FoldAhead(), "s", data(2, 3, 6) + layer("Scale", "s", "data", "y") + fc("f", "y", 4, "axis: 2"),
     "f does not read channels (axis 2)"),
    (DropIdentities(), "d", D + layer("Dropout", "d", "data"),
     "d is an output of the net, and data is read by others too, or fed"),
    (DropIdentities(), "d", D + layer("Dropout", "d", "data") + relu("r", "d"),
     "r overwrites d, and others read data"),
    (DropIdentities(), "d", D + conv("c", "data") + layer("Split", "d", "c", "d", "loss_weight: 1") + fc("f", "d"),
     "d is part of the loss itself (loss_weight)"),
    (ComposeConvolutions(), "b", D + conv("a", "data", 4, 1) + conv("b", "a", 4, 3, "pad: 1"),
     f"b pads with zeros what a puts out, which would have its bias there: {ONE}"),
    (ComposeConvolutions(), "b", D + conv("a", "data", 4, 3, "bias_term: false") + conv("b", "a", 4, 3, "pad: 1"),
     f"b pads with zeros what a puts out, which would have part of the image there: {ONE}"),
    (ComposeConvolutions(), "b", D + conv("a", "data", 4, 3) + conv("b", "a", 4, 3), GATE),
    (ComposeConvolutions(), "b", OWNED + conv("b", "c", 4, 3) + conv("d", "data", rest=SHARED),
     'c shares its weights "w" with another layer'),
    (FoldAverage(), "p", D + pool("p", "data", 2, 2, f"{AVE} pad: 1") + conv("c", "p"),
     "p pads: Caffe does not divide all its windows by the same number"),
    (FoldAverage(), "p", D + pool("p", "data", 3, 2, AVE) + conv("c", "p"),
     "the last window of p hangs over: Caffe divides it by what lies on the image"),
    (FoldAverage(), "p", D + pool("p", "data", 2, 1, AVE) + conv("c", "p", 4, 3, "pad: 1"),
     f"c pads with zeros what p puts out, which would have part of the image there: {ONE}"),
    (FoldAverage(), "p", D + pool("p", "data", 2, 2, AVE) + conv("c", "p", 64), GATE),
    (JoinSiblings(), "a", D + conv("a", "data", 64, 1) + conv("b", "data", 64, 1), GATE),
    (JoinSiblings(), "a", D + conv("a", "data", 2, 1, "group: 2") + conv("b", "data", 2, 1), "a works in 2 groups"),
    (JoinSiblings(), "a", D + conv("a", "data", 2, 1, rest=SHARED) + conv("b", "data", 2, 1, rest=SHARED),
     'a shares its weights "w" with another layer'),
    (WidenBranches(), "a", D + conv("a", "data", 4, 1) + conv("b", "data", 4, 3, "pad: 1"), GATE),
    (WidenBranches(), "a", D + conv("a", "data", 1, 1) + conv("b", "data", 4, 3),
     "a and b put out images of different sizes"),
    (WidenBranches(), "a", D + conv("a", "data", 1, 1, "stride: 2") + conv("b", "data", 4, 3, "pad: 1"),
     "a and b have different strides"),
    (WidenBranches(), "a", D + conv("a", "data", 1, 1) + conv("b", "data", 4, 4, "pad: 3 dilation: 2"),
     "the taps of a do not lie on those of b"),
    (InnerToConvolution(), "f", data(1, 64) + fc("f", "data"), "f does not read a C x H x W image"),
    (InnerToConvolution(), "f", data(8, 64, 1, 1) + fc("f", "data", 512), GATE),
    (InnerToConvolution(), "f", data(1, 4, 1, 1) + fc("f", "data", 4), GATE),
]  # fmt: skip


@pytest.mark.parametrize(("one", "name", "text", "reason"), CASES, ids=lambda value: getattr(value, "name", None))
def test_what_stays(one: AnyPass, name: str, text: str, reason: str) -> None:
    net = parse(text, weights=True)
    found = reasons(net, one)
    assert net.text() == text
    assert found[name].startswith(reason)


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (FoldBatchNorm(), D + conv("c", "data") + layer("Scale", "s", "c")),
        (FoldAhead(), D + IN + BN + conv("c", "y")),
        (ComposeConvolutions(), D + conv("a", "data", 4, 1) + conv("b", "a")),
        (FoldAverage(), D + pool("p", "data", 2, 2, AVE) + conv("c", "p")),
        (JoinSiblings(), D + conv("a", "data", 1, 1) + conv("b", "data", 1, 1)),
        (WidenBranches(), D + conv("a", "data", 1, 1) + conv("b", "data", 1, 3, "pad: 1")),
        (InnerToConvolution(), D + fc("f", "data")),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_without_weights_nothing_folds(one: AnyPass, text: str) -> None:
    found = reasons(text, one)
    assert "folding needs weights: give -w" in found.values()
    net = parse(text, weights=True)
    assert net.weights is not None
    for name in list(net.weights):
        net.weights.set(name, [np.full_like(blob, np.nan) for blob in net.weights[name]])
    assert any("are not finite" in why for why in reasons(net, one).values())
    assert net.text() == text


def test_a_relu_in_place_stands_between() -> None:
    text = D + conv("a", "data", 8, 1, "bias_term: false") + relu("r", "a") + conv("b", "a", 1, 1)
    text += relu("r2", "b") + pool("p", "b", 2, 2, AVE)
    for one in (ComposeConvolutions(), FoldAverage()):
        net = parse(text, weights=True)
        assert reasons(net, one) == {} and net.text() == text


# Nets for two phases.


def test_statistics_of_the_batch_never_fold() -> None:
    text = TWO + IN + BN + conv("c", "y") + fc("fc", "c") + LOSS
    net = parse(text, weights=True, datum=(3, 16, 16))
    assert reasons(net, FoldAhead())["bn"].startswith("it uses batch statistics in TRAIN")
    behind = TWO + conv("c", "data") + layer("Scale", "s", "c") + layer("BatchNorm", "bn", "s") + fc("fc", "bn") + LOSS
    net = parse(behind, weights=True, datum=(3, 16, 16))
    rewrite(net, all_exact())
    assert "bn" in names(net) and "s" not in names(net)


def test_dropout_stays_where_it_drops() -> None:
    text = TWO + conv("c", "data") + layer("Dropout", "d", "c", "c") + fc("fc", "c") + LOSS
    net = parse(text, datum=(3, 16, 16))
    assert reasons(net, DropIdentities()) == {
        "d": "it drops in TRAIN: relearn with it, and `rebirth deploy` takes it out"
    }
    assert net.text() == text
    test_only = parse(
        text.replace('top: "c" }\n' + fc("fc", "c"), f'top: "c" {TEST} }}\n' + fc("fc", "c")), datum=(3, 16, 16)
    )
    assert reasons(test_only, DropIdentities()) == {} and "d" not in names(test_only)


def test_identities_of_one_phase_stay() -> None:
    text = (
        TWO
        + conv("c", "data")
        + layer("Power", "p", "c", "p", TEST)
        + relu("p2", "c", "p", TRAIN)
        + fc("fc", "p")
        + LOSS
    )
    net = parse(text, datum=(3, 16, 16))
    assert reasons(net, DropIdentities()) == {"p": "c and p are not the same in all phases"}


def test_a_scale_that_may_still_learn_stays() -> None:
    text = conv("c", "data") + relu("r", "c") + layer("Scale", "s", "c", "c") + relu("r2", "c") + fc("fc", "c")
    for whole, gone in ((D + text, True), (TWO + text + LOSS, False)):
        net = parse(whole, weights=True, datum=(3, 16, 16))
        assert net.weights is not None
        net.weights.set("s", [np.ones(4)])
        rewrite(net, DropIdentities())
        assert ("s" not in names(net)) == gone


def test_siblings_that_learn_at_different_rates_stay_apart() -> None:
    rates = ["param { lr_mult: 1 }", "param { lr_mult: 2 }", "param { lr_mult: 1 }"]
    text = "".join(conv(name, "data", 1, 1, "bias_term: false", rest) for name, rest in zip("abc", rates, strict=True))
    text += layer("Eltwise", "sum", ("a", "b", "c"), "sum") + fc("fc", "sum")
    net = parse(TWO.replace("batch_size: 2", "batch_size: 64") + text + LOSS, weights=True, datum=(64, 14, 14))
    rewrite(net, JoinSiblings())
    assert names(net)[2:5] == ["a_fold", "a_fold_slice", "b"]
    net = parse(data(1, 64, 14, 14) + text, weights=True)
    rewrite(net, JoinSiblings())
    assert "b" not in names(net)


def test_siblings_of_one_phase_keep_their_rules() -> None:
    text = conv("a", "data", 2, 1, rest=TEST) + conv("b", "data", 2, 1, rest=TEST) + conv("c", "data", 2, 1)
    text += layer("Silence", "s", ("a", "b"), (), TEST) + fc("fc", "c")
    net = parse(TWO + text + LOSS, weights=True, datum=(64, 14, 14))
    rewrite(net, JoinSiblings())
    assert "c" in names(net) and by_name(net, "a_fold_slice").param.include == by_name(net, "a_fold").param.include
    assert [len(view.layers) for view in net.views] == [4, 7]


def test_windows_of_different_sizes_in_the_phases_stay() -> None:
    """A global average is a window of another size where the image is."""
    source = layer("Input", "data", (), "data", "%s input_param { shape { dim: 1 dim: 64 dim: %d dim: %d } }")
    text = source % (TRAIN, 4, 4) + source % (TEST, 6, 6)
    text += layer("Pooling", "p", "data", fields="pooling_param { pool: AVE global_pooling: true }") + conv(
        "c", "p", 1, 1
    )
    net = parse(text, weights=True)
    assert reasons(net, FoldAverage()) == {"p": "p and c have other windows in another phase"}
