"""Weights by layer name, and how they are kept."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from nets import conv, data, fc, layer, parse, pool, relu, rewrite

from deeprebirth_caffe.commands.time import time_nets
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.caffemodel import LayerBlobs, read_caffemodel, write_caffemodel
from deeprebirth_caffe.ir import Weights, WeightsError
from deeprebirth_caffe.ir.probe import save_weights
from deeprebirth_caffe.nets.load import load_net
from deeprebirth_caffe.options.time import TimingOptions
from deeprebirth_caffe.passes.relearn.pool_to_stride import PoolToStride
from deeprebirth_caffe.proto import caffe_pb2 as pb

NET = data(1, 2, 8, 8) + conv("conv", "data", 3) + relu("r", "conv") + pool("p", "conv") + fc("fc", "p", 4)


def test_set_and_drop() -> None:
    weights = Weights()
    weights.set("a", [np.ones((2, 3), dtype=np.float64)])
    assert weights["a"][0].dtype == np.float32 and "a" in weights and list(weights) == ["a"]
    twin = weights.copy()
    twin.drop("a")
    twin.drop("nobody")
    assert len(twin) == 0 and len(weights) == 1


def test_finite() -> None:
    weights = Weights()
    weights.set("good", [np.zeros(3)])
    weights.set("bad", [np.zeros(3), np.array([1.0, np.nan])])
    assert weights.finite("good") and not weights.finite("bad")


def test_what_nobody_set_is_written_byte_for_byte(tmp_path: Path) -> None:
    net = parse(NET, weights=True)
    assert net.weights is not None
    save_weights(tmp_path / "a.caffemodel", net, net.weights)
    read = Weights.read(tmp_path / "a.caffemodel")
    assert isinstance(read.entry("conv"), LayerBlobs)
    save_weights(tmp_path / "b.caffemodel", net, read)
    assert (tmp_path / "a.caffemodel").read_bytes() == (tmp_path / "b.caffemodel").read_bytes()
    read.set("conv", read["conv"])
    assert not isinstance(read.entry("conv"), LayerBlobs)


def test_of_two_layers_of_one_name_the_last_counts(tmp_path: Path) -> None:
    path = tmp_path / "twice.caffemodel"
    write_caffemodel(path, "n", [("a", "Scale", [np.zeros(2)]), ("a", "Scale", [np.ones(2)]), ("a", "ReLU", [])])
    np.testing.assert_array_equal(Weights.read(path)["a"][0], np.ones(2))


def old_file(path: Path) -> None:
    """Weights as files of 2014 have them: V1 layers whose blobs have four dimensions."""
    model = pb.NetParameter(name="old")
    rng = np.random.default_rng(0)
    kinds = {"conv": pb.V1LayerParameter.CONVOLUTION, "fc": pb.V1LayerParameter.INNER_PRODUCT}
    shapes = {"conv": [(3, 2, 3, 3), (1, 1, 1, 3)], "fc": [(1, 1, 4, 27), (1, 1, 1, 4)]}
    for name, kind in kinds.items():
        one = model.layers.add(name=name, type=kind)
        for num, channels, height, width in shapes[name]:
            blob = one.blobs.add(num=num, channels=channels, height=height, width=width)
            blob.data.extend(rng.normal(size=num * channels * height * width).astype(np.float32).tolist())
    path.write_bytes(model.SerializeToString())


def test_old_files_give_todays_shapes(tmp_path: Path) -> None:
    """What a pass writes under a new name must not have the old four dimensions: Caffe would not load it."""
    old_file(tmp_path / "old.caffemodel")
    (tmp_path / "net.prototxt").write_text(NET)
    net = load_net(tmp_path / "net.prototxt", tmp_path / "old.caffemodel")
    assert net.weights is not None
    assert [blob.shape for blob in net.weights["conv"]] == [(3, 2, 3, 3), (3,)]
    assert [blob.shape for blob in net.weights["fc"]] == [(4, 27), (4,)]
    rewrite(net, PoolToStride())
    save_weights(tmp_path / "new.caffemodel", net, net.weights)
    model = read_caffemodel(tmp_path / "new.caffemodel")
    written = {one.name: [blob.shape for blob in one.blobs] for one in model.layers}
    assert written["conv_merge"] == [(3, 2, 3, 3), (3,)]


def test_old_helper_is_old(tmp_path: Path) -> None:
    old_file(tmp_path / "old.caffemodel")
    assert struct.pack("<BB", 0x08, 3) in (tmp_path / "old.caffemodel").read_bytes()
    assert all(all(one.legacy) for one in read_caffemodel(tmp_path / "old.caffemodel").layers)


PHASES = (
    layer(
        "DummyData",
        "data",
        (),
        "data",
        "include { phase: TRAIN } dummy_data_param { shape { dim: 2 dim: 8 dim: 9 dim: 9 } }",
    )
    + layer(
        "DummyData",
        "data",
        (),
        "data",
        "include { phase: TEST } dummy_data_param { shape { dim: 2 dim: 3 dim: 9 dim: 9 } }",
    )
    + conv("conv", "data", 16, 5)
)
TWINS = data(1, 2, 8, 8) + conv("a", "data", 2, 1) + layer("Scale", "a", "a", "b")


def refused(tmp_path: Path, text: str, blobs: list[np.ndarray], name: str) -> str:
    """What reading a net says about weights of one layer."""
    write_caffemodel(tmp_path / "w.caffemodel", "n", [(name, "Convolution", blobs)])
    (tmp_path / "net.prototxt").write_text(text)
    with pytest.raises(WeightsError) as error:
        load_net(tmp_path / "net.prototxt", tmp_path / "w.caffemodel")
    return str(error.value)


@pytest.mark.parametrize(("channels", "state"), [(8, "TEST"), (3, "TRAIN")])
def test_weights_must_fit_every_state(tmp_path: Path, channels: int, state: str) -> None:
    """Caffe shares them between the nets of a training and its tests."""
    said = refused(tmp_path, PHASES, [np.ones((16, channels, 5, 5)), np.ones(16)], "conv")
    assert f"conv wants 16x{11 - channels}x5x5 + 16 in {state} and the file has 16x{channels}x5x5 + 16" in said


def test_two_layers_of_one_name_cannot_both_learn(tmp_path: Path) -> None:
    said = refused(tmp_path, TWINS, [np.ones((2, 2, 1, 1)), np.ones(2)], "a")
    assert 'net.prototxt:3:1: two layers that learn are called "a"' in said
    load_net(tmp_path / "net.prototxt")  # nobody looks for weights


def test_random_weights_for_a_timing_must_fit_too(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(PHASES + layer("EuclideanLoss", "loss", ["conv", "conv"]))
    with pytest.raises(RebirthError, match=r"random weights: the shapes of 1 layer differ: conv wants .* in TEST"):
        time_nets([(tmp_path / "net.prototxt", None)], TimingOptions(engine="torch"))


def test_nvcaffe_015_has_scale_and_bias_first(tmp_path: Path) -> None:
    """All later ones have mean, variance and correction first; told by which blob is a single number."""
    net = tmp_path / "net.prototxt"
    net.write_text(
        'input: "data" input_dim: [1, 3, 4, 4] layer { name: "bn" type: "BatchNorm" bottom: "data" top: "bn" '
        "batch_norm_param { scale_filler { value: 1 } bias_filler { value: 0 } } }"
    )
    mean, variance, one, scale, bias = (np.full(size, at, np.float32) for at, size in enumerate((3, 3, 1, 3, 3)))
    for name, blobs in (("new", [mean, variance, one, scale, bias]), ("old", [scale, bias, mean, variance, one])):
        write_caffemodel(tmp_path / name, "net", [("bn", "BatchNorm", blobs)])
        loaded = load_net(net, tmp_path / name).weights
        assert loaded is not None
        assert [blob[0] for blob in loaded["bn"]] == [0, 1, 2, 3, 4]
