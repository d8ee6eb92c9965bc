"""Every exact pass in real Caffe, over a grid of windows and positions: what both nets have is the same to 1e-4."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest
from closeness import between
from exact_tools import ZEROS, Shared, same
from nets import by_name, conv, data, fc, layer, names, parse, pool, reasons, relu, rewrite

from deeprebirth_caffe import zoo
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.nets.exactness import all_exact
from deeprebirth_caffe.ops import conv_output_size
from deeprebirth_caffe.passes.exact.compose_convolutions import ComposeConvolutions
from deeprebirth_caffe.passes.exact.drop_identities import DropIdentities
from deeprebirth_caffe.passes.exact.fold_ahead import FoldAhead
from deeprebirth_caffe.passes.exact.fold_average import FoldAverage
from deeprebirth_caffe.passes.exact.fold_batchnorm import FoldBatchNorm
from deeprebirth_caffe.passes.exact.inner_to_convolution import InnerToConvolution
from deeprebirth_caffe.passes.exact.join_siblings import JoinSiblings
from deeprebirth_caffe.passes.exact.widen_branches import WidenBranches
from deeprebirth_caffe.rewrite import AnyPass, Rewriter
from deeprebirth_caffe.rewrite.pipeline import run

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.caffe.client import CaffeWorker
    from deeprebirth_caffe.engines.caffe.locate import CaffeInstall


@pytest.fixture
def engine(caffe_install: CaffeInstall, caffe: CaffeWorker) -> Shared:
    return Shared(caffe_install, caffe)


def changed(text: str, one: AnyPass) -> tuple[Net, Net]:
    """A net with random weights, for images of its own size, before and after a pass, which must find something."""
    net = parse(text, weights=True)
    net.fixed_size = True
    before = net.copy()
    assert rewrite(net, one).rewrites, text
    return before, net


AFFINE = {
    "BatchNorm": 'layer { name: "%s" type: "BatchNorm" bottom: "%s" top: "%s" batch_norm_param { eps: %s } }\n',
    "Scale": 'layer { name: "%s" type: "Scale" bottom: "%s" top: "%s" scale_param { bias_term: true } }\n',
    "Bias": 'layer { name: "%s" type: "Bias" bottom: "%s" top: "%s" }\n',
    "Power": 'layer { name: "%s" type: "Power" bottom: "%s" top: "%s" power_param { scale: -1.5 shift: 0.3 } }\n',
    "Gain": 'layer { name: "%s" type: "Scale" bottom: "%s" top: "%s" }\n',
}
CHAINS = [
    *((kind,) for kind in AFFINE),
    ("Power", "BatchNorm", "Scale"),
    ("Bias", "Gain", "Bias", "Power"),
    ("BatchNorm", "Scale", "BatchNorm"),
]


def affine(kinds: tuple[str, ...], name: str, blob: str, *, in_place: bool, eps: str = "1e-5") -> tuple[str, str]:
    """A chain of affine layers, and the blob that it ends in."""
    text = ""
    for index, kind in enumerate(kinds):
        own = f"{name}_{kind}{index}"
        top = blob if in_place else own
        line = AFFINE[kind]
        text += line % ((own, blob, top, eps) if kind == "BatchNorm" else (own, blob, top))
        blob = top
    return text, blob


def linear(kind: str, name: str, bottom: str, fields: str) -> str:
    if kind == "InnerProduct":
        return fc(name, bottom, 4, fields)
    return conv(name, bottom, 4, 3, fields).replace('"Convolution"', f'"{kind}"')


WINDOWS = ["", "pad: 1", "stride: 2 pad: 1", "dilation: 2 pad: 2 group: 2", "group: 4 bias_term: false"]
DENSE = ["", "bias_term: false", "transpose: true"]


@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution", "InnerProduct"])
def test_affine_chains_behind(engine: Shared, kind: str) -> None:
    """bias x group x dilation x pad x stride x eps x kind and length of the chain, in place or not."""
    text, count = data(2, 4, 7, 7), 0
    for window, chain, in_place in product(DENSE if kind == "InnerProduct" else WINDOWS, CHAINS, (True, False)):
        name = f"x{count}"
        count += 1
        text += linear(kind, name, "data", window)
        own, blob = affine(chain, name, name, in_place=in_place, eps="0.1" if count % 2 else "1e-5")
        text += own + layer("AbsVal", f"{name}_abs", blob, f"{name}_out")
    before, after = changed(text, FoldBatchNorm())
    assert not {one.type for one in after.layers} & {"BatchNorm", "Scale", "Bias", "Power"}
    same(before, after, engine, blobs=2 * count)


@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution", "InnerProduct"])
def test_affine_chains_ahead(engine: Shared, kind: str) -> None:
    """Behind a ReLU, in front of one linear layer or two, through a Flatten; a pad only where nothing shifts."""
    text, count, left = data(2, 4, 7, 7), 0, []
    for window, chain, in_place in product(DENSE if kind == "InnerProduct" else WINDOWS, CHAINS, (True, False)):
        name = f"x{count}"
        count += 1
        text += layer("AbsVal", f"{name}_abs", "data", f"{name}_in")
        own, blob = affine(chain, name, f"{name}_in", in_place=in_place)
        shifts = kind == "Deconvolution" or (kind == "Convolution" and "pad" in window)
        if shifts and chain != ("Gain",):
            left.append(name)
        text += own
        if kind == "InnerProduct" and count % 2:
            text += layer("Flatten", f"{name}_flat", blob)
            blob = f"{name}_flat"
        text += linear(kind, f"{name}_lin", blob, window) + linear(kind, f"{name}_two", blob, "")
        if kind == "InnerProduct" and count % 2:  # a Flatten with two readers stays
            text = text.replace(linear(kind, f"{name}_two", blob, ""), "")
    before, after = changed(text, FoldAhead())
    gone = {one.name for one in before.layers} - {one.name for one in after.layers}
    free = [f"x{i}" for i in range(count) if f"x{i}" not in left]
    for name in free:
        if kind != "Deconvolution":
            assert f"{name}_lin" in gone, name
    same(before, after, engine, blobs=count)


def test_a_shift_goes_into_a_deconvolution_of_one_tap(engine: Shared) -> None:
    text = data(2, 4, 5, 5) + layer("AbsVal", "a", "data") + AFFINE["Scale"] % ("s", "a", "s")
    text += conv("up", "s", 6, 1, "group: 2 pad: 1").replace('"Convolution"', '"Deconvolution"')
    before, after = changed(text, FoldAhead())
    assert names(after) == ["data", "a", "up_fold"]
    same(before, after, engine, blobs=2)


def test_zero_shift_folds_in_front_of_padding(engine: Shared) -> None:
    text = (
        data(2, 4, 5, 5)
        + layer("AbsVal", "a", "data")
        + AFFINE["Scale"] % ("s", "a", "s")
        + conv("c", "s", 3, 3, "pad: 1")
    )
    net = parse(text, weights=True)
    assert net.weights is not None
    net.weights.set("s", [net.weights["s"][0], np.zeros(4)])
    before = net.copy()
    rewrite(net, FoldAhead())
    assert names(net) == ["data", "a", "c_fold"]
    same(before, net, engine, blobs=2)


def test_input_normalisation_folds_into_what_reads_it(engine: Shared) -> None:
    text = (
        data(2, 3, 7, 7) + AFFINE["BatchNorm"] % ("bn", "data", "data", "1e-3") + AFFINE["Power"] % ("p", "data", "p")
    )
    before, after = changed(text + conv("a", "p") + conv("b", "p", 2, 1, "stride: 2"), FoldAhead())
    assert names(after) == ["data", "a_fold", "b_fold"]
    assert list(by_name(after, "a_fold").bottoms) == ["data"]
    same(before, after, engine, blobs=2)


# What does nothing.


def test_identities_go(engine: Shared) -> None:
    text = data(2, 4, 6, 6) + conv("c", "data", 4, 3, "pad: 1")
    blob = "c"
    for kind, fields in ZEROS:
        text += layer(kind, f"n_{kind}", blob, fields=fields)
        blob = f"n_{kind}"
    text += relu("r", blob, "r") + layer("Concat", "one", "r") + layer("Eltwise", "sum", ("one", "r"), "sum")
    text += fc("f", "sum") + layer("Flatten", "flat", "f") + layer("Softmax", "prob", "flat")
    before, after = changed(text, DropIdentities())
    assert names(after) == ["data", "c", "r", "sum", "f", "prob"]
    assert list(by_name(after, "sum").bottoms) == ["r", "r"] and list(by_name(after, "c").tops) == [blob]
    same(before, after, engine, blobs=5)


# Windows in a row.

FIRST = ["", "bias_term: false", "stride: 2 pad: 1", "dilation: 2", "group: 2 pad: 1"]
SECOND = ["", "stride: 2", "dilation: 2", "group: 2 bias_term: false", "pad: 1"]


def free_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets every rewrite pay, so that the algebra is tried where the gate would stop it."""
    for module in ("windows", "exact.join_siblings", "exact.widen_branches", "exact.inner_to_convolution"):
        monkeypatch.setattr(f"deeprebirth_caffe.passes.{module}.no_gain", lambda *costs: None)


def test_convolutions_in_a_row(engine: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    free_cost(monkeypatch)
    text, count, padded = data(2, 4, 15, 13), 0, 0
    for one, two, (k1, k2) in product(FIRST, SECOND, [(1, 3), (3, 1), (3, 3), (2, 3)]):
        name = f"x{count}"
        count += 1
        exact = "pad" not in two or (k1 == 1 and one == "bias_term: false")
        padded += not exact
        if not exact and count % 5:
            continue
        text += conv(f"{name}a", "data", 4, k1, one) + conv(f"{name}b", f"{name}a", 6, k2, two)
    before, after = changed(text, ComposeConvolutions())
    left = [one for one in after.layers if one.name.startswith("x") and one.name.endswith("a")]
    refused = reasons(after, ComposeConvolutions())
    assert padded > 0 and len(left) == len(refused) and all("pads with zeros" in why for why in refused.values())
    same(before, after, engine, blobs=50)


@pytest.mark.parametrize("order", ["pool first", "convolution first"])
def test_averages(engine: Shared, monkeypatch: pytest.MonkeyPatch, order: str) -> None:
    free_cost(monkeypatch)
    text, count = data(2, 4, 14, 14), 0
    # A stride beyond the kernel only where no window lies outside the image: there Caffe's average is NaN.
    last = (2, 3) if order == "pool first" else (3, 3)
    for window, kernel, (m, q) in product(WINDOWS, (1, 2), [(2, 2), (2, 1), (3, 1), last]):
        name = f"x{count}"
        count += 1
        own = window.replace("dilation: 2 pad: 2", "dilation: 2")
        if order == "pool first":
            own = own if q >= m else own.replace("pad: 1", "")
            text += pool(f"{name}p", "data", m, q, "pool: AVE") + conv(f"{name}c", f"{name}p", 4, kernel, own)
        else:
            text += conv(f"{name}c", "data", 4, kernel, own) + pool(f"{name}p", f"{name}c", m, q, "pool: AVE")
    before, after = changed(text, FoldAverage())
    refused = reasons(after, FoldAverage())
    assert all("hangs over" in why or "pads with zeros" in why for why in refused.values()), refused
    assert len(after.layers) < len(before.layers) - count // 2
    same(before, after, engine, blobs=count)


# Siblings.


def test_siblings_become_one(engine: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal windows: into a Slice, or straight into the Concat where that takes them side by side."""
    text, count = data(2, 32, 9, 9), 0
    for window in ("", "stride: 2", "pad: 1", "dilation: 2", "bias_term: false"):
        for kernel in (1, 3):
            text += layer("AbsVal", f"in{count}", "data")
            for name, out in (("a", 3), ("b", 2), ("c", 2)):
                own = window if name != "c" or "bias" in window else f"{window} bias_term: false"
                text += conv(f"{name}{count}", f"in{count}", out, kernel, own)
            text += relu(f"r{count}", f"b{count}") + layer("Concat", f"cat{count}", (f"c{count}", f"a{count}"))
            count += 1
    before, after = changed(text, JoinSiblings())
    assert len([one for one in after.layers if one.type == "Convolution"]) < 2 * count
    same(before, after, engine, blobs=2 * count)


def test_siblings_side_by_side_need_no_slice(engine: Shared) -> None:
    text = (
        data(2, 8, 9, 9)
        + conv("a", "data", 3, 1)
        + conv("b", "data", 4, 1, "bias_term: false")
        + conv("c", "data", 2, 3, "pad: 1")
    )
    text += layer("Concat", "out", ("c", "b", "a")) + relu("r", "out", "end")
    before, after = changed(text, JoinSiblings())
    assert {one.type for one in after.layers} == {"Input", "Convolution", "Concat", "ReLU"}
    assert list(by_name(after, "out").bottoms) == ["c", "a_fold_whole"]
    same(before, after, engine, blobs=3)


def test_small_kernels_in_large_ones(engine: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    free_cost(monkeypatch)
    text, count = data(2, 4, 11, 11), 0
    grid = product([(1, 3), (1, 5), (3, 5), (2, 4), (1, 2)], (1, 2), (1, 2), (0, 1, 2, 3, 4))
    for (small, large), stride, dilation, pad in grid:
        own = f"stride: {stride}"
        sizes = [
            conv_output_size(11, small, stride, 0, dilation),
            conv_output_size(11, large, stride, pad, dilation),
        ]
        if sizes[0] == sizes[1] and pad < large:
            text += layer("AbsVal", f"in{count}", "data")
            text += conv(f"a{count}", f"in{count}", 2, small, f"{own} dilation: {dilation} bias_term: false")
            text += conv(f"b{count}", f"in{count}", 3, large, f"{own} dilation: {dilation} pad: {pad}")
            count += 1
    assert count >= 10
    before, after = changed(text, WidenBranches())
    kept = [one.name for one in after.layers if one.name.startswith("a") and "fold" not in one.name]
    assert len(kept) == len(reasons(after, WidenBranches())) < count / 2
    same(before, after, engine, blobs=2 * count)


@pytest.mark.parametrize("shape", [(8, 1, 1), (4, 3, 5)])
@pytest.mark.parametrize("fields", DENSE)
def test_inner_products_become_convolutions(
    engine: Shared, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], fields: str
) -> None:
    free_cost(monkeypatch)
    text = data(1, *shape) + fc("f", "data", 6, fields) + relu("r", "f", "r") + layer("Softmax", "prob", "r")
    before, after = changed(text, InnerToConvolution())
    assert [one.type for one in after.layers] == ["Input", "Convolution", "Flatten", "ReLU", "Softmax"]
    same(before, after, engine, blobs=3)


# Whole nets.


@pytest.mark.parametrize("name", ["googlenet28", "googlenet64", "alexnet64", "resnet64"])
def test_the_zoo(engine: Shared, name: str) -> None:
    net = parse(zoo.build(name).deploy, weights=True)
    before = net.copy()
    assert rewrite(net, all_exact()).rewrites
    assert not {one.type for one in net.layers} & {"BatchNorm", "Scale", "Dropout"}
    same(before, net, engine, blobs=8)
    text = net.text()
    assert not rewrite(net, all_exact()).rewrites and net.text() == text


def test_table_7_of_resnet50_changes_nothing(engine: Shared) -> None:
    """The rows of the paper's Table 7: conv1 and the convolutions of res2a lose BatchNorm and Scale at no loss."""
    net = parse(zoo.build("resnet50").deploy, weights=True)
    before = net.copy()
    rows = {"conv1", "res2a_branch1", "res2a_branch2a", "res2a_branch2b", "res2a_branch2c"}
    done = run(Rewriter(net), [FoldBatchNorm()], lambda stage: stage in rows)
    assert {rewrite.stage for rewrite in done.rewrites} == rows
    result = same(before, net, engine, blobs=50)
    # Five convolutions, and what the layers behind them make of their rounding.
    assert result.worst < between(20_000)
