"""Windows side by side as one, statistics in one pass, and where sums and parts are left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import by_name, conv, data, fc, layer, names, parse, reasons, relu, rewrite

from deeprebirth_caffe.ir.stages import whole_name
from deeprebirth_caffe.nets.exactness import EXACT_NAMES, preparing
from deeprebirth_caffe.nets.parts import fold_parts
from deeprebirth_caffe.numerics.compose import Axis
from deeprebirth_caffe.numerics.parallel import add_up, around, within
from deeprebirth_caffe.numerics.spread import Spread
from deeprebirth_caffe.ops import conv_output_size
from deeprebirth_caffe.passes.exact.fold_batchnorm import FoldBatchNorm
from deeprebirth_caffe.passes.exact.sum_siblings import SumSiblings
from deeprebirth_caffe.passes.relearn.reparametrize import Reparametrize
from deeprebirth_caffe.rewrite import AnyPass, Kind, Rewriter

DOCS = Path(__file__).parents[2] / "docs"

# The numbers.


def run(weight: np.ndarray, bias: np.ndarray | None, image: np.ndarray, axes: tuple[Axis, Axis]) -> np.ndarray:
    """A convolution of one group, tap by tap, by its definition."""
    outs = [conv_output_size(n, a.kernel, a.stride, a.pad, a.dilation) for n, a in zip(image.shape[1:], axes)]
    padded = np.pad(image, ((0, 0), *((a.pad, a.pad) for a in axes)))
    high, wide = axes
    result = np.zeros((len(weight), *outs))
    for i in range(high.kernel):
        for j in range(wide.kernel):
            rows = np.arange(outs[0]) * high.stride + i * high.dilation
            columns = np.arange(outs[1]) * wide.stride + j * wide.dilation
            result += np.einsum("oc,chw->ohw", weight[:, :, i, j], padded[:, rows[:, None], columns])
    return result if bias is None else result + bias[:, None, None]


AXES = st.builds(Axis, st.integers(1, 5), st.just(1), st.integers(0, 4), st.integers(1, 3))


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.tuples(AXES, AXES), min_size=1, max_size=3), st.integers(1, 3), st.integers(4, 14), st.integers(0, 99)
)
def test_windows_add_up(pairs: list[tuple[Axis, Axis]], stride: int, size: int, seed: int) -> None:
    """Whatever the windows: those that put out images of one size are one window, with the same output."""
    windows = [tuple(Axis(a.kernel, stride, a.pad, a.dilation) for a in pair) for pair in pairs]
    sizes = [tuple(conv_output_size(size, a.kernel, a.stride, a.pad, a.dilation) for a in pair) for pair in windows]
    windows = [w for w, s in zip(windows, sizes) if s == sizes[0] and all(a.fits(size) for a in w)]
    if not windows:
        return
    axes = tuple(around([w[axis] for w in windows], [(size, sizes[0][axis])]) for axis in range(2))
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((2, size, size))
    parts = [
        (rng.standard_normal((3, 2, w[0].kernel, w[1].kernel)), rng.standard_normal(3) if seed % 2 else None)
        for w in windows
    ]
    factors = list(rng.standard_normal(len(parts)))
    weight, bias = add_up(parts, factors, axes)  # type: ignore[arg-type]
    expected = sum(f * run(w, b, image, window) for f, (w, b), window in zip(factors, parts, windows))  # type: ignore[arg-type]
    found = run(weight, bias, image, (axes[0].window, axes[1].window))
    np.testing.assert_allclose(found, expected, atol=1e-12)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(AXES, st.integers(1, 3), st.integers(1, 6), st.integers(4, 20))
def test_a_window_within_another_adds_nothing_to_it(host: Axis, stride: int, kernel: int, size: int) -> None:
    """The joint window of a host and a part of it is the host: that is what lets parts fold to the layer's geometry."""
    host = Axis(host.kernel, stride, host.pad, host.dilation)
    if not host.fits(size):
        return
    sizes = [(size, conv_output_size(size, host.kernel, stride, host.pad, host.dilation))]
    part = within(host, kernel, sizes)
    if part is None:
        return
    found = around([host, part], sizes)
    # With one tap the distance between taps means nothing.
    assert found.window == (host if host.kernel > 1 else Axis(1, stride, host.pad, 1))
    assert found.taps[0] == list(range(host.kernel)) and set(found.taps[1]) <= set(found.taps[0])


@pytest.mark.parametrize(
    ("host", "kernel", "pad"),
    [
        (Axis(3, 1, 1, 1), 1, 0),
        (Axis(5, 1, 4, 2), 3, 2),
        (Axis(3, 1, 0, 1), 1, None),  # without pad a smaller kernel puts out more
        (Axis(4, 2, 1, 1), 2, 0),
        (Axis(2, 1, 1, 1), 1, None),  # an even kernel has no middle
        (Axis(3, 1, 1, 1), 5, None),
        (Axis(3, 1, 1, 1), 3, 1),
    ],
)
def test_where_a_part_lies(host: Axis, kernel: int, pad: int | None) -> None:
    out = conv_output_size(12, host.kernel, host.stride, host.pad, host.dilation)
    found = within(host, kernel, [(12, out)])
    assert (found.pad if found is not None else None) == pad


def test_spread_is_that_of_all_batches_together() -> None:
    rng = np.random.default_rng(0)
    batches = [rng.normal(1000, 0.01, (n, 3, 4, 5)).astype(np.float32) for n in (1, 5, 2)]
    spread = Spread(3)
    for batch in batches:
        spread.add(batch)
    whole = np.concatenate(batches).astype(np.float64)
    np.testing.assert_allclose(spread.mean, whole.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(spread.variance, whole.var(axis=(0, 2, 3)), rtol=1e-9)
    assert spread.count == 8 * 20
    assert not Spread(2).variance.any()


# Names.


def test_what_parts_are_parts_of() -> None:
    assert whole_name("conv1_merge_main") == "conv1_merge" == whole_name("conv1_merge_1x3")
    assert whole_name("conv1_merge2_sum") == "conv1_merge2"
    assert whole_name("conv1_main") == "conv1_main" and whole_name("conv1_merge") == "conv1_merge"


def test_a_part_is_the_layer_only_where_no_layer_is_called_so() -> None:
    text = data(1, 4, 8, 8) + conv("c_merge_main", "data", fields="pad: 1") + layer("Bias", "b", "c_merge_main")
    free = parse(text + relu("r", "b", "c_merge"), weights=True)
    rewrite(free, FoldBatchNorm())
    assert names(free) == ["data", "c_merge", "r"], "a blob of that name is no layer"
    taken = parse(text + relu("c_merge", "b", "r"), weights=True)
    rewrite(taken, FoldBatchNorm())
    assert names(taken) == ["data", "c_fold", "c_merge"]


def test_a_layer_that_takes_more_in_is_not_called_like_its_parts_together() -> None:
    text = data(1, 4, 8, 8) + conv("c_merge_main", "data", fields="pad: 1") + conv("c_merge_1x1", "data", 4, 1)
    text += layer("Eltwise", "c_merge_sum", ("c_merge_main", "c_merge_1x1"), "s") + layer("Bias", "b", "s", "t")
    net = parse(text, weights=True)
    rewrite(net, preparing())
    assert names(net) == ["data", "c_fold"]


# What is left alone.

D = data(1, 4, 9, 9)
PAIR = conv("a", "data", 4, 3, "pad: 1") + conv("b", "data", 4, 1)
SUM = layer("Eltwise", "s", ("a", "b"), "s")
LOSS = fc("fc", "s") + layer("SoftmaxWithLoss", "loss", ("fc", "label"), "loss")
LEARN = layer("Data", "data", (), ("data", "label"), "data_param { batch_size: 2 }")
SHARED = 'param { name: "w" }'
R = Reparametrize(layers=frozenset({"c", "fc"}))

CASES: list[tuple[AnyPass, str, str, str]] = [
    (SumSiblings(), "s", D + conv("a", "data", 4, 3, "group: 2") + conv("b", "data", 4, 3) + SUM,
     "a and b have different groups"),
    (SumSiblings(), "s", D + conv("a", "data", 4, 1, "stride: 8") + conv("b", "data", 4, 3, "stride: 6") + SUM,
     "a and b have different strides"),
    (SumSiblings(), "s", D + conv("a", "data", 4, 10, "stride: 2") + conv("b", "data", 4, 9, "stride: 2") + SUM,
     "the kernel of a and b reaches beyond its image"),
    (SumSiblings(), "s", D + conv("a", "data", 4, 3, rest=SHARED) + conv("b", "data", 4, 3, rest=SHARED) + SUM,
     'a shares its weights "w" with another layer'),
    (SumSiblings(), "s", D + layer("Convolution", "a", "data", "a", "convolution_param { num_output: 4 kernel_h: 1 "
     "kernel_w: 9 pad_w: 4 }") + layer("Convolution", "b", "data", "b", "convolution_param { num_output: 4 "
     "kernel_h: 9 kernel_w: 1 pad_h: 4 }") + SUM, "its predicted time would not fall"),
    (R, "c", D + conv("c", "data", rest=SHARED) + conv("d", "data", rest=SHARED),
     'c shares its weights "w" with another layer'),
    (R, "fc", D + fc("fc", "data"), "fc is no Convolution (InnerProduct): it learns as one layer"),
    (R, "c", D + conv("c", "data") + layer("BatchNorm", "bn", "c", "c"), "c has a BatchNorm behind it already"),
    (R, "c", data(1, 4, 9) + conv("c", "data"),
     "c is not a 2-d convolution over channels"),
    (R, "c", LEARN + conv("c", "data", rest="param { lr_mult: 0 } param { lr_mult: 0 }") + LOSS.replace('"s"', '"c"'),
     "c is frozen (lr_mult 0)"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "where", "text", "reason"), CASES)
def test_left_alone(one: AnyPass, where: str, text: str, reason: str) -> None:
    net = parse(text, weights=True, datum=(4, 9, 9))
    before = net.text()
    found = reasons(net, one)
    assert reason in found[where] and net.text() == before


def test_sums_that_are_none() -> None:
    """No place for the pass at all: a product, a maximum, a blob twice, other readers, other inputs, in place."""
    for kind in ("PROD", "MAX"):
        assert not reasons(
            D + PAIR + layer("Eltwise", "s", ("a", "b"), "s", f"eltwise_param {{ operation: {kind} }}"),
            SumSiblings(),
            weights=True,
        )
    others = [
        conv("a", "data", 4, 3, "pad: 1") + layer("Eltwise", "s", ("a", "a"), "s"),
        PAIR + SUM + relu("r", "a", "r"),
        relu("x", "data", "x") + conv("a", "data", 4, 1) + conv("b", "x", 4, 1) + SUM,
        PAIR + layer("Eltwise", "s", ("a", "b"), "a"),
    ]
    for text in others:
        net = parse(D + text, weights=True)
        before = net.text()
        assert not rewrite(net, SumSiblings()).rewrites and net.text() == before


def test_rates_that_differ_keep_convolutions_apart_while_they_learn() -> None:
    text = conv("a", "data", 4, 3, "pad: 1", "param { lr_mult: 3 }") + conv("b", "data", 4, 1) + SUM
    found = parse(LEARN + text + LOSS, weights=True, datum=(4, 9, 9))
    assert reasons(found, SumSiblings()) == {"s": "a and b learn at different rates"}
    # Of the biases too; those of parts, whose step is over, do not count.
    rest = "param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }"
    biases = conv("a", "data", 4, 3, "pad: 1", rest) + conv("b", "data", 4, 1, rest="param { lr_mult: 1 }") + SUM
    found = parse(LEARN + biases + LOSS, weights=True, datum=(4, 9, 9))
    assert reasons(found, SumSiblings()) == {"s": "a and b learn at different rates"}
    assert rewrite(found, SumSiblings(layers=frozenset({"s"}))).rewrites
    assert rewrite(parse(D + text, weights=True), SumSiblings()).rewrites


def test_numbers_that_overflow_stay_apart() -> None:
    net = parse(D + PAIR + SUM, weights=True)
    assert net.weights is not None
    net.weights.set("a", [np.full((4, 4, 3, 3), 3e38, np.float32), np.zeros(4, np.float32)])
    net.weights.set("b", [np.full((4, 4, 1, 1), 3e38, np.float32), np.zeros(4, np.float32)])
    assert reasons(net, SumSiblings()) == {"s": "a and b together give numbers that are not finite"}


# Parts whose step is over.


def test_batch_statistics_of_parts_alone_are_folded_in_a_net_that_learns() -> None:
    text = LEARN + conv("c_merge", "data", 4, 3, "pad: 1") + conv("d", "c_merge") + layer("BatchNorm", "bn", "d", "s")
    net = parse(text + LOSS, weights=True, datum=(4, 9, 9))
    before = net.text()
    (made,) = rewrite(net, Reparametrize(layers=frozenset({"c_merge"}))).rewrites
    assert not rewrite(net, preparing()).rewrites, "as long as nobody says that their step is over"
    outcome = fold_parts(Rewriter(net), {"c_merge": made.applied.rebirth})
    assert {one.kind for one in outcome.rewrites} == {Kind.EXACT}
    assert net.text() == before
    assert "use_global_stats" not in by_name(net, "bn").param.batch_norm_param.ListFields()
    assert not fold_parts(Rewriter(net), {}).rewrites


def test_docs_name_every_exact_pass() -> None:
    table = (DOCS / "exact.md").read_text("utf-8").partition("\n## ")[0]
    rows = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert rows == list(EXACT_NAMES)
