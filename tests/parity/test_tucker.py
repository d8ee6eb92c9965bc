"""Decomposed layers in real Caffe: at ranks that the weights really have, the net computes what it did."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from nets import conv, data, fc, parse, relu, rewrite

from deeprebirth_caffe import zoo
from deeprebirth_caffe.commands.convert import convert
from deeprebirth_caffe.commands.tucker import tucker
from deeprebirth_caffe.engines.caffe.engine import CaffeEngine
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.formats.prototxt import format_message
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.ir.probe import probe, save_weights
from deeprebirth_caffe.nets.check import TOLERANCE, compare_nets
from deeprebirth_caffe.nets.load import load_net
from deeprebirth_caffe.nets.rewriting import Converted
from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.options.tucker import TuckerOptions
from deeprebirth_caffe.passes.patterns import Facts
from deeprebirth_caffe.passes.relearn.factors import Site, find_site
from deeprebirth_caffe.passes.relearn.tucker import Tucker
from deeprebirth_caffe.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    from measured_caffe import MeasuringWorker
    from test_exact import Shared

    from deeprebirth_caffe.engines.caffe.locate import CaffeInstall

RANKS = {"low": (3, 5), "in full": (12, 5), "out full": (3, 16), "uneven": (6, 2)}


@pytest.fixture
def engine(caffe_install: CaffeInstall, caffe: MeasuringWorker) -> Shared:
    from test_exact import Shared

    return Shared(caffe_install, caffe)


def plant(net: Net, ranks: dict[str, tuple[int, ...]]) -> None:
    """Gives layers random weights of exactly these ranks (in each group)."""
    assert net.weights is not None
    facts, rng = Facts(net), np.random.default_rng(7)
    for one in net.layers:
        site = find_site(facts, one) if one.traits.linear else ""
        if not isinstance(site, Site):
            continue
        less, more = (ranks[one.name] * 2)[:2] if not site.kernel else ranks[one.name]
        less, more = less // site.group, more // site.group
        old, *bias = net.weights[one.name]
        groups = []
        for _ in range(site.group):
            core = rng.normal(size=(more, less, site.taps)) if site.kernel else np.eye(less)[:, :, None]
            left, right = rng.normal(size=(site.outputs, more)), rng.normal(size=(less, site.inputs))
            groups.append(
                np.einsum("or,rst,si->oit", left, core, right) / np.sqrt(less * more * site.taps * site.inputs)
            )
        weight = np.concatenate(groups)
        if one.param.inner_product_param.transpose:
            weight = weight[:, :, 0].T
        net.weights.set(one.name, [weight.reshape(old.shape), *bias])


def same(net: Net, ranks: dict[str, tuple[int, ...]], engine: CaffeEngine) -> None:
    plant(net, ranks)
    before = net.copy()
    assert len(rewrite(net, Tucker(ranks, force=True)).rewrites) == len(ranks)
    result = compare_nets(before, net, engine, batch=2)
    assert result.failure == "" and result.blobs == len(ranks) and result.worst < TOLERANCE


@pytest.mark.parametrize("rank", list(RANKS))
def test_kernels_over_a_grid(engine: Shared, rank: str) -> None:
    text, ranks = data(2, 12, 11, 10), {}
    kernels = ["kernel_size: 3", "kernel_size: 5", "kernel_h: 1 kernel_w: 3", "kernel_size: 2"]
    strides, pads = ["", "stride: 2", "stride_h: 1 stride_w: 3"], ["", "pad: 2", "pad_h: 0 pad_w: 1"]
    for kernel, stride, pad, dilation, bias in product(kernels, strides, pads, ["", "dilation: 2"], [True, False]):
        name = f"x{len(ranks)}"
        own = f"{kernel} {stride} {pad} {dilation} bias_term: {str(bias).lower()}"
        text += conv(name, "data", 16, 0, own).replace("kernel_size: 0 ", "") + relu(
            f"{name}_relu", name, f"{name}_out"
        )
        ranks[name] = RANKS[rank]
    net = parse(text, weights=True)
    # The outputs behind the ReLUs count; the layers' own blobs are compared as well.
    before, count = net.copy(), len(ranks)
    plant(net, ranks)
    before = net.copy()
    assert len(rewrite(net, Tucker(ranks, force=True)).rewrites) == count
    result = compare_nets(before, net, engine, batch=2)
    assert result.failure == "" and result.blobs == 2 * count and result.worst < TOLERANCE


def test_one_by_one_and_groups(engine: Shared) -> None:
    text, ranks = data(2, 12, 9, 9), {}
    for kernel, stride, pad, group, bias in product((1, 3), (1, 2), (0, 1), (1, 2, 3), (True, False)):
        name = f"x{len(ranks)}"
        text += conv(
            name, "data", 18, kernel, f"stride: {stride} pad: {pad} group: {group} bias_term: {str(bias).lower()}"
        )
        ranks[name] = (6, 6) if kernel > 1 else (6,)
    same(parse(text, weights=True), ranks, engine)


@pytest.mark.parametrize("axes", [(2, 12), (2, 3, 4, 5), (2, 3, 20)])
def test_inner_products(engine: Shared, axes: tuple[int, ...]) -> None:
    text, ranks = data(*axes), {}
    for axis, transpose, bias in product(range(1 - len(axes), len(axes)), (True, False), (True, False)):
        if axis == 0:
            continue
        name = f"x{len(ranks)}"
        own = f"axis: {axis} transpose: {str(transpose).lower()} bias_term: {str(bias).lower()}"
        text += fc(name, "data", 14, own)
        ranks[name] = (3,)
    same(parse(text, weights=True), ranks, engine)


def test_volumes(engine: Shared) -> None:
    text = data(2, 6, 5, 6, 7) + conv("x", "data", 8, 3, "pad: 1") + conv("y", "data", 8, 1)
    same(parse(text, weights=True), {"x": (3, 4), "y": (4,)}, engine)


def test_full_rank_is_exact(engine: Shared) -> None:
    """Nothing is planted: dense weights, and ranks at which nothing can be lost."""
    text = data(2, 12, 9, 9) + conv("a", "data", 8, 3, "pad: 1") + conv("b", "a", 8, 1) + conv("c", "data", 30, 1)
    net = parse(text + fc("f", "b", 5), weights=True)
    before = net.copy()
    assert len(rewrite(net, Tucker({"a": (12, 8), "b": (8,), "c": (12,), "f": (5,)}, force=True)).rewrites) == 4
    result = compare_nets(before, net, engine, batch=2)
    assert result.failure == "" and result.blobs == 4 and result.worst < TOLERANCE


def test_truncation_is_seen(engine: Shared) -> None:
    net = parse(data(2, 12, 9, 9) + conv("a", "data", 16, 3), weights=True)
    before = net.copy()
    rewrite(net, Tucker({"a": (6, 8)}))
    assert compare_nets(before, net, engine, batch=2).failure.startswith('blob "a" differs by ')


# Whole nets.

NETS = {"googlenet64": (3, 64, 64), "alexnet64": (3, 64, 64), "resnet64": (3, 64, 64)}


def written(name: str, folder: Path, merge: bool) -> Converted:
    """A net of the zoo with random weights, merged or not, decomposed to half its weights, and written."""
    source = folder / "net.prototxt"
    source.write_text(zoo.build(name).train_val)
    shapes = {"data": NETS[name]}
    net = load_net(source, None, shapes)
    save_weights(folder / "w.caffemodel", net, random_weights(net))
    weights = folder / "w.caffemodel"
    if merge:
        convert(ConvertOptions(source, weights, out=folder / "merged", input_shapes=shapes))
        source, weights = folder / "merged" / source.name, folder / "merged" / "init.caffemodel"
    return tucker(TuckerOptions(source, weights, out=folder / "out", input_shapes=shapes))


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("name", list(NETS))
def test_nets_load_and_train(caffe: MeasuringWorker, tmp_path: Path, name: str, merge: bool) -> None:
    result = written(name, tmp_path, merge)
    assert len(result.outcome.rewrites) > 1
    out = tmp_path / "out"
    deploy = caffe.load(out / "deploy.prototxt", "TEST", out / "init.caffemodel")
    blobs = caffe.forward(
        deploy, {"data": np.random.default_rng(0).normal(size=deploy.blobs["data"]).astype(np.float32)}
    )
    caffe.close(deploy)
    assert np.isfinite(blobs["prob"]).all() and blobs["prob"].std() > 0
    net = load_net(out / "net.prototxt", out / "init.caffemodel", {"data": NETS[name]})
    message = probe(net, net.view("TRAIN"), 2).message()
    feed = message.layer[0]
    shapes = [list(shape.dim) for shape in feed.input_param.shape]
    feed.type = "DummyData"
    feed.ClearField("input_param")
    for shape in shapes:
        feed.dummy_data_param.shape.add().dim.extend(shape)
    feed.dummy_data_param.data_filler.add(type="gaussian", std=1)
    feed.dummy_data_param.data_filler.add(type="constant", value=3)
    (tmp_path / "train.prototxt").write_text(format_message(message))
    solver = pb.SolverParameter(
        net=str(tmp_path / "train.prototxt"),
        base_lr=1e-5,
        lr_policy="fixed",
        momentum=0.9,
        solver_mode="CPU",
        random_seed=1,
    )
    (tmp_path / "solver.prototxt").write_text(format_message(solver))
    done = caffe.train(tmp_path / "solver.prototxt", 2, out / "init.caffemodel", seed=1, rates=True, cwd=tmp_path)
    assert all(np.isfinite(loss) for loss in done.losses)
    rebirth = result.manifest.lr_mult
    for rewrite_ in result.outcome.rewrites:
        for layer in rewrite_.applied.rebirth:
            assert done.rates[layer] == pytest.approx([10 * value for value in rebirth[layer]], rel=0.2), layer
