"""Exact rewrites of nets that nothing holds to one size of image, at many sizes in real Caffe."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from nets import conv, data, fc, layer, names, parse, pool, reasons, relu, rewrite

from deeprebirth_caffe.ir.probe import write_probe
from deeprebirth_caffe.nets.exactness import all_exact
from deeprebirth_caffe.passes.exact.drop_identities import DropIdentities
from deeprebirth_caffe.passes.exact.fold_average import FoldAverage

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.caffe.client import CaffeWorker
    from deeprebirth_caffe.ir import Net

SIZES = [(12, 12), *((high, 12 + (7 * high) % 23) for high in range(11, 40))]
PNET = (
    data(1, 3, 12, 12)
    + conv("conv1", "data", 8)
    + pool("pool1", "conv1", 2, 2, "pool: AVE")
    + relu("relu1", "pool1")
    + conv("conv2", "pool1", 2, 1)
)


@pytest.fixture(autouse=True)
def free_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rewrite pays."""
    for module in ("windows", "exact.widen_branches", "exact.join_siblings", "exact.sum_siblings"):
        monkeypatch.setattr(f"deeprebirth_caffe.passes.{module}.no_gain", lambda *costs: None)


def at_all_sizes(caffe: CaffeWorker, folder: Path, before: Net, after: Net) -> Iterator[tuple[dict, dict]]:  # type: ignore[type-arg]
    """What both nets compute, size by size."""
    loaded = []
    for name, net in (("before", before), ("after", after)):
        path, weights = write_probe(folder, name, net, net.view("TEST"))
        loaded.append(caffe.load(path, weights=weights))
    for number, size in enumerate(SIZES):
        batch = 1 + number % 2
        shape = (batch, before.view("TEST").blobs["data"].shape[1], *size)  # type: ignore[index]
        image = np.random.default_rng(number).standard_normal(shape).astype(np.float32)
        found = []
        for net in loaded:
            caffe.reshape(net, {"data": shape})
            found.append(caffe.forward(net, {"data": image}))
        yield found[0], found[1]
    for net in loaded:
        caffe.close(net)


def same_at_all_sizes(caffe: CaffeWorker, folder: Path, before: Net, after: Net, *, blobs: int) -> None:
    for old, new in at_all_sizes(caffe, folder, before, after):
        common = [name for name in old if name in new and name != "data"]
        assert len(common) >= blobs
        for name in common:
            assert old[name].shape == new[name].shape, name
            # Caffe's average of a window that lies outside the image is NaN.
            scale = max(1e-3, np.nanmax(np.abs(old[name])))
            np.testing.assert_allclose(new[name], old[name], rtol=0, atol=1e-4 * scale, err_msg=name)


def averages() -> str:
    text = ""
    for index, (window, kernel, (m, q), mode) in enumerate(
        product(
            ("", "pad: 1", "stride: 2", "stride: 2 pad: 1"), (1, 3), [(1, 2), (2, 2), (3, 1), (3, 3)], ("", "FLOOR")
        )
    ):
        fields = f"pool: AVE{f' round_mode: {mode}' if mode else ''}"
        text += pool(f"p{index}", "data", m, q, fields) + conv(f"pc{index}", f"p{index}", 4, kernel, window)
        text += conv(f"c{index}", "data", 4, kernel, window) + pool(f"cp{index}", f"c{index}", m, q, fields)
    return text


def rows() -> str:
    text = ""
    firsts = ["", "pad: 1", "stride: 2", "bias_term: false", "bias_term: false pad: 1", "bias_term: false pad: 2"]
    for index, (first, second, size) in enumerate(
        product(firsts, ("", "pad: 1", "stride: 2 pad: 1"), [(1, 3), (3, 1), (3, 3), (2, 2)])
    ):
        text += conv(f"a{index}", "data", 4, size[0], first) + conv(f"b{index}", f"a{index}", 6, size[1], second)
    return text


def siblings() -> str:
    text = ""
    pairs = [((1, 0), (3, 1)), ((1, 0), (3, 0)), ((1, 0), (2, 0)), ((3, 1), (5, 2)), ((2, 0), (3, 0)), ((2, 1), (4, 2))]
    for index, ((one, two), stride) in enumerate(product(pairs, (1, 2, 3))):
        for name, (kernel, pad) in (("s", one), ("t", two)):
            bottom = f"abs{index}"
            text += layer("AbsVal", bottom, "data") if name == "s" else ""
            text += conv(f"{name}{index}", bottom, 4, kernel, f"pad: {pad} stride: {stride}")
    return text


def sums() -> str:
    text = ""
    for index, (kernels, stride) in enumerate(product([(1, 3), (3, 5), (1, 3, 5), (1, 1)], (1, 2, 3))):
        parts = [f"u{index}_{number}" for number in range(len(kernels))]
        for name, kernel in zip(parts, kernels, strict=True):
            text += conv(name, "data", 4, kernel, f"pad: {kernel // 2} stride: {stride}")
        text += layer("Eltwise", f"sum{index}", parts)
    return text


def identities() -> str:
    text = ""
    for index, dims in enumerate([(0, 0, 0, 0), (0, -1, 12, 12), (1, -1, 12, 12), (0, 4, -1, 0)]):
        shape = " ".join(f"dim: {dim}" for dim in dims)
        if index in (0, 3):
            text += layer("Reshape", f"shaped{index}", "data", fields=f"reshape_param {{ shape {{ {shape} }} }}")
    every = layer("Pooling", "every", "data", fields="pooling_param { global_pooling: true pool: AVE }")
    one = layer("Pooling", "one", "every", fields="pooling_param { global_pooling: true }")
    flat = layer("Flatten", "flat", "one") + layer("Flatten", "flat2", "flat") + fc("fc", "flat2")
    return text + every + one + flat + pool("same", "data", 1, 1)


@pytest.mark.parametrize("make", [averages, rows, siblings, sums, identities])
def test_all_passes_hold_at_every_size(make: object, caffe: CaffeWorker, tmp_path: Path) -> None:
    net = parse(data(1, 4, 12, 12) + make(), weights=True)  # type: ignore[operator]
    before = net.copy()
    assert rewrite(net, all_exact()).rewrites
    same_at_all_sizes(caffe, tmp_path, before, net, blobs=5)


def test_the_grid_tells_right_from_wrong(caffe: CaffeWorker, tmp_path: Path) -> None:
    """A fold that is exact at one size alone is seen to be so, and is made only where the size is said to be fixed."""
    net = parse(PNET, weights=True)
    assert "nothing fixes the size" in reasons(net, FoldAverage())["pool1"]
    before = net.copy()
    net.fixed_size = True
    net.changed()
    assert rewrite(net, FoldAverage()).rewrites
    differ = [old["conv2"].shape != new["conv2"].shape for old, new in at_all_sizes(caffe, tmp_path, before, net)]
    assert not differ[0] and sum(differ) > 10


def test_what_fixes_the_size() -> None:
    one = PNET + layer("Pooling", "all", "conv2", fields="pooling_param { global_pooling: true pool: AVE }")
    reshaped = PNET + layer("Reshape", "r", "conv2", fields="reshape_param { shape { dim: 0 dim: 2 dim: 5 dim: 5 } }")
    for text, fixed in [
        (PNET, False),
        (PNET + fc("fc", "conv2"), True),
        (one + fc("fc", "all"), False),
        (reshaped, True),
    ]:
        assert bool(rewrite(parse(text, weights=True), FoldAverage()).rewrites) == fixed
    header = PNET.replace(data(1, 3, 12, 12), 'input: "data" input_dim: 1 input_dim: 3 input_dim: 12 input_dim: 12\n')
    assert not rewrite(parse(header, weights=True), FoldAverage()).rewrites
    loss = layer("DummyData", "label", (), "label", "dummy_data_param { shape { dim: 1 dim: 1 dim: 5 dim: 5 } }")
    loss += layer("SoftmaxWithLoss", "loss", ("conv2", "label"), "loss")
    assert not rewrite(parse(PNET + loss, weights=True), FoldAverage()).rewrites


@pytest.mark.parametrize(
    ("text", "stays"),
    [
        (layer("Reshape", "x", "data", fields="reshape_param { shape { dim: 0 dim: -1 dim: 12 dim: 12 } }"), True),
        (layer("Reshape", "x", "data", fields="reshape_param { shape { dim: 1 dim: -1 dim: 0 dim: 0 } }"), True),
        (layer("Reshape", "x", "data", fields="reshape_param { shape { dim: 0 dim: 0 dim: -1 dim: 0 } }"), False),
        (layer("Reshape", "x", "data", fields="reshape_param { shape { dim: 0 dim: 4 dim: 12 dim: 12 } }"), False),
    ],
)
def test_what_does_nothing_to_one_shape_alone_stays(text: str, stays: bool) -> None:
    net = parse(data(1, 4, 12, 12) + conv("c", "data", 4, 1) + text.replace('"data"', '"c"') + relu("r", "x", "y"))
    refused = reasons(net, DropIdentities())
    assert ("x" in names(net)) == stays and ("alone" in refused.get("x", "")) == stays


def test_pooling_over_a_nominal_image_of_one_pixel_stays() -> None:
    every = layer("Pooling", "x", "data", "x", "pooling_param { global_pooling: true }") + relu("r", "x", "y")
    net = parse(data(1, 3, 1, 1) + every)
    assert "1x3x1x1 alone" in reasons(net, DropIdentities())["x"]
    net.fixed_size = True
    net.changed()
    assert rewrite(net, DropIdentities()).rewrites
