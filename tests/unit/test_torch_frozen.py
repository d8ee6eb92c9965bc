"""The embedded engine's cache of what never changes: the same to the bit with it and without it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_sources import image, lmdb_of, raw

from deeprebirth_caffe.engines.base import Snapshot
from deeprebirth_caffe.engines.torch.engine import TorchEngine
from deeprebirth_caffe.engines.torch.frozen import Budget, FrozenCache
from deeprebirth_caffe.engines.torch.net import TorchNet
from deeprebirth_caffe.engines.torch.solver import TorchTrainer
from deeprebirth_caffe.formats.caffemodel import read_caffemodel
from deeprebirth_caffe.ir import NetState, Weights
from deeprebirth_caffe.nets.load import load_net

RECORDS, BATCH = 10, 4
"""Batches begin at other images in every pass over the data."""

SOLVER = """net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" max_iter: 100 momentum: 0.9 snapshot_prefix: "s"
test_iter: 3 test_interval: 4 weight_decay: 0.01 random_seed: 3
"""

NET = """
name: "half-frozen"
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  data_param { source: "db" backend: LMDB batch_size: BATCH } transform_param { scale: 0.01 TRANSFORM } }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
  data_param { source: "db" backend: LMDB batch_size: BATCH } transform_param { scale: 0.01 TESTS } }
layer { name: "halve" type: "Power" bottom: "data" top: "half" power_param { scale: 0.5 } }
layer { name: "a" type: "Convolution" bottom: "half" top: "a" param { lr_mult: 0 } param { lr_mult: 0 }
  convolution_param { num_output: 16 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "relu_a" type: "ReLU" bottom: "a" top: "a" }
layer { name: "norm" type: "LRN" bottom: "a" top: "norm" }
layer { name: "pool" type: "Pooling" bottom: "norm" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "b" type: "Convolution" bottom: "pool" top: "b" param { lr_mult: 0 decay_mult: 5 } param { lr_mult: 0 }
  convolution_param { num_output: 8 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "b" top: "b" batch_norm_param { use_global_stats: true } }
layer { name: "join" type: "Concat" bottom: "pool" bottom: "b" top: "join" }
layer { name: "cut" type: "Slice" bottom: "join" top: "one" top: "two" slice_param { slice_point: 5 } }
layer { name: "learns" type: "Convolution" bottom: "one" top: "learns"
  convolution_param { num_output: 6 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "learns" top: "learns" }
layer { name: "moves" type: "BatchNorm" bottom: "two" top: "moves" }
layer { name: "drop" type: "Dropout" bottom: "moves" top: "drop" }
layer { name: "still_ip" type: "InnerProduct" bottom: "b" top: "still_ip" param { lr_mult: 0 } param { lr_mult: 0 }
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "ip" type: "InnerProduct" bottom: "learns" top: "ip"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "ip2" type: "InnerProduct" bottom: "drop" top: "ip2"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "sum" type: "Eltwise" bottom: "ip" bottom: "ip2" bottom: "still_ip" top: "sum" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "sum" bottom: "label" top: "loss" }
""".replace("BATCH", str(BATCH))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with the net, its data and its solver."""
    _write(tmp_path, "")
    return tmp_path


def _write(folder: Path, transform: str) -> None:
    rng = np.random.default_rng(1)
    lmdb_of(folder / "db", [raw(image(rng, 12, 12), number % 4) for number in range(RECORDS)])
    tests = transform if "crop" in transform else ""  # which is always in the middle there
    (folder / "net.prototxt").write_text(NET.replace("TRANSFORM", transform).replace("TESTS", tests))
    (folder / "solver.prototxt").write_text(SOLVER)


def _cache(net: TorchNet) -> FrozenCache:
    assert net.frozen is not None
    return net.frozen


def _run(trainer: TorchTrainer, steps: int) -> list[Any]:
    """What a training shows: every loss and every output, and a test in between."""
    shown: list[Any] = []
    for number in range(steps):
        if number % 4 == 0:
            shown.append(trainer.test())
        step = trainer.step()
        shown.append((step.loss, dict(step.outputs)))
    return shown


def _blobs(snapshot: Snapshot) -> Mapping[str, list[bytes]]:
    return {one.name: [blob.tobytes() for blob in one.blobs] for one in read_caffemodel(snapshot.model).layers}


def test_a_training_is_the_same_to_the_bit(folder: Path) -> None:
    shown, ends = [], []
    for cache in (0, None):
        with TorchEngine(cache=cache).trainer(folder / "solver.prototxt", root=folder) as trainer:
            shown.append(_run(trainer, 13))
            ends.append(_blobs(trainer.snapshot()))
            if cache is None:
                assert _cache(trainer.net).passed > 5 and _cache(trainer.test_nets[0]).passed > 5
                assert not _cache(trainer.net).off
            else:
                assert trainer.net.frozen is None
    assert shown[0] == shown[1]
    assert ends[0] == ends[1]


def test_a_resumed_training_is_the_same_to_the_bit(folder: Path) -> None:
    with TorchEngine(cache=0).trainer(folder / "solver.prototxt", root=folder) as trainer:
        _run(trainer, 5)
        middle = trainer.snapshot()
        rest = _run(trainer, 8)
        end = _blobs(trainer.snapshot())
    with TorchEngine().trainer(folder / "solver.prototxt", resume=middle.state, root=folder) as trainer:
        assert _run(trainer, 8) == rest
        assert _cache(trainer.net).passed
        assert _blobs(trainer.snapshot()) == end


def test_passed_layers_do_not_run_and_others_do(folder: Path) -> None:
    with TorchEngine().trainer(folder / "solver.prototxt", root=folder) as trainer:
        ran: list[str] = []
        for step in trainer.net._steps:
            step.lowered.forward = _told(step.lowered.forward, step.layer.name, ran)  # type: ignore[method-assign]
        for _ in range(2):
            trainer.step()
        assert {"a", "norm", "b", "still_ip"} <= set(ran)
        trainer.step()  # it has images 8, 9, 0 and 1: 0 to 9 are known now
        ran.clear()
        trainer.step()
    assert ran == ["cut", "learns", "relu", "moves", "drop", "ip", "ip2", "sum", "loss"]


def _told(forward: Any, name: str, ran: list[str]) -> Any:
    def told(*given: Any) -> Any:
        ran.append(name)
        return forward(*given)

    return told


@pytest.mark.parametrize(("transform", "gives_up"), [("crop_size: 7", True), ("mirror: true", False)])
def test_pictures_that_do_not_come_again_are_given_up(tmp_path: Path, transform: str, gives_up: bool) -> None:
    # Of 36 crops of 10 images hardly one comes twice in a pass; of two mirrored ones every other.
    _write(tmp_path, transform)
    shown = []
    for cache in (0, None):
        with TorchEngine(cache=cache).trainer(tmp_path / "solver.prototxt", root=tmp_path) as trainer:
            shown.append(_run(trainer, 12))
            if cache is None:
                assert ("no image came twice" in _cache(trainer.net).off) == gives_up
    assert shown[0] == shown[1]


def test_a_small_budget_is_kept(folder: Path) -> None:
    shown = []
    for cache in (0, 60_000, 10):
        with TorchEngine(cache=cache).trainer(folder / "solver.prototxt", root=folder) as trainer:
            shown.append(_run(trainer, 12))
            if cache:
                own = _cache(trainer.net)
                assert 0 <= own.budget.left <= cache
                assert ("not even one batch fits" in own.off) == (cache == 10)
                assert cache == 10 or own.hits
    assert shown[0] == shown[1] == shown[2]


def test_it_stops_at_memory_that_never_serves(folder: Path) -> None:
    rng = np.random.default_rng(0)
    first = _teacher(folder, Budget(1 << 20))
    first.forward({"data": rng.normal(size=(4, 3, 12, 12))}, ["sum"])
    limit = 3 * ((1 << 20) - _cache(first).budget.left)
    net = _teacher(folder, Budget(limit))
    for number in range(16):
        assert not _cache(net).off, number
        net.forward({"data": rng.normal(size=(4, 3, 12, 12))}, ["sum"])
        assert (_cache(net).budget.left == 0) == (2 <= number < 9)  # three batches, then twice as many in vain
        if _cache(net).off:
            break
    assert "do not come together again" in _cache(net).off
    assert _cache(net).budget.left == limit


def test_it_stops_where_batches_are_never_known_as_a_whole(folder: Path) -> None:
    """A part of shuffled data fits: some images of each batch are known, and nothing is won."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(24, 3, 12, 12))
    first = _teacher(folder, Budget(1 << 20))
    first.forward({"data": images[:4]}, ["sum"])
    limit = 3 * ((1 << 20) - _cache(first).budget.left)
    net = _teacher(folder, Budget(limit))
    for _ in range(40):
        net.forward({"data": images[np.r_[rng.choice(12, 3, replace=False), rng.integers(12, 24)]]}, ["sum"])
        if _cache(net).off:
            break
    assert _cache(net).hits and not _cache(net).passed
    assert "do not come together again" in _cache(net).off and _cache(net).budget.left == limit


def _teacher(folder: Path, budget: Budget | None) -> TorchNet:
    return TorchNet(
        load_net(folder / "net.prototxt"), NetState("TEST"), seed=1, sources=False, cache=budget, learns=False
    )


def test_a_net_that_never_learns_is_all_frozen(folder: Path) -> None:
    net, plain = _teacher(folder, Budget(1 << 20)), _teacher(folder, None)
    rng = np.random.default_rng(0)
    pictures = rng.normal(size=(9, 3, 12, 12)).astype(np.float32)
    for start in range(12):
        batch = {"data": np.take(pictures, range(start, start + 4), 0, mode="wrap")}
        found, wanted = net.forward(batch, ["sum", "learns"]), plain.forward(batch, ["sum", "learns"])
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
        assert all(found[name].stride() == wanted[name].stride() for name in wanted)
    assert _cache(net).passed == 6
    # Whatever else is asked for is worked out.
    assert torch.equal(net.forward(batch, ["pool"])["pool"], plain.forward(batch, ["pool"])["pool"])
    # Other weights are another net.
    fresh = Weights({"a": (np.ones((16, 3, 3, 3), np.float32), np.ones(16, np.float32))})
    net.load(fresh)
    plain.load(fresh)
    assert torch.equal(net.forward(batch, ["sum"])["sum"], plain.forward(batch, ["sum"])["sum"])
    # A batch of another size has a layout of its own.
    small = {"data": pictures[:2], "label": np.zeros(2, np.float32)}
    assert torch.equal(net.forward(small, ["sum"])["sum"], plain.forward(small, ["sum"])["sum"])


def test_what_depends_on_the_place_in_a_batch_is_worked_out_anew(folder: Path) -> None:
    """A layer is made to give other bits at other places, as some matrix products do."""

    def placed(net: TorchNet) -> TorchNet:
        layer = next(step.lowered for step in net._steps if step.layer.name == "b")
        honest = layer.forward
        shift = torch.arange(4.0)[:, None, None, None]
        layer.forward = lambda *given: [honest(*given)[0] + shift]  # type: ignore[method-assign]
        return net

    net, plain = placed(_teacher(folder, Budget(1 << 20))), placed(_teacher(folder, None))
    pictures = np.random.default_rng(0).normal(size=(9, 3, 12, 12)).astype(np.float32)
    for start in range(12):
        batch = {"data": np.take(pictures, range(start, start + 4), 0, mode="wrap")}
        assert torch.equal(net.forward(batch, ["sum"])["sum"], plain.forward(batch, ["sum"])["sum"])
    assert _cache(net).passed == 6


@pytest.mark.parametrize(
    "change",
    [
        ('top: "a" param { lr_mult: 0 }', 'top: "a" param { lr_mult: 1 }'),
        ('name: "half-frozen"', 'name: "half-frozen" force_backward: true'),
    ],
)
def test_what_learns_is_not_kept(folder: Path, change: tuple[str, str]) -> None:
    text = (folder / "net.prototxt").read_text()
    assert change[0] in text
    (folder / "net.prototxt").write_text(text.replace(*change))
    with TorchEngine().trainer(folder / "solver.prototxt", root=folder) as trainer:
        assert "stands still" in _cache(trainer.net).off
        trainer.step()


def test_a_test_net_does_not_keep_what_its_training_net_changes(folder: Path) -> None:
    with TorchEngine().trainer(folder / "solver.prototxt", root=folder) as trainer:
        names = {step.layer.name for step in _cache(trainer.test_nets[0])._still}
    assert {"a", "b", "bn", "still_ip"} <= names
    assert names.isdisjoint({"learns", "moves", "ip", "ip2", "loss"})
