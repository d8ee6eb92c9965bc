"""What fuzzing found once."""

from __future__ import annotations

import contextlib
import gc
import json
from pathlib import Path

import numpy as np
import pytest

from deeprebirth_caffe.collector import uncollected
from deeprebirth_caffe.commands.convert import convert
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.caffemodel import write_caffemodel
from deeprebirth_caffe.formats.hdf5 import read_hdf5_model
from deeprebirth_caffe.formats.solverstate import read_solverstate
from deeprebirth_caffe.ir import Net, NetError
from deeprebirth_caffe.ir.weights import Weights
from deeprebirth_caffe.nets.strip import strip
from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.wording import json_bytes

CYCLE = """
layer { name: "a" type: "Convolution" bottom: "y" top: "x" convolution_param { num_output: 2 kernel_size: 1 } }
layer { name: "b" type: "ReLU" bottom: "x" top: "y" }
layer { name: "c" type: "Concat" bottom: "z" bottom: "z2" top: "o" }
layer { name: "d" type: "ReLU" bottom: "z2" top: "z" }
layer { name: "e" type: "ReLU" bottom: "z" top: "z2" }
"""


def test_branches_that_go_in_circles() -> None:
    with pytest.raises(RebirthError, match="reads blob"):
        _ = Net.parse(CYCLE).views


def test_counts_are_checked_where_shapes_are_not_known() -> None:
    net = Net.parse(
        'layer { name: "data" type: "Data" top: "data" data_param { source: "x" batch_size: 1 } }'
        'layer { name: "pool" type: "Pooling" top: "pool" pooling_param { kernel_size: 2 } }'
        'layer { name: "cat" type: "Concat" bottom: "pool" bottom: "data" top: "cat" }'
    )
    with pytest.raises(RebirthError, match=r'layer "pool" \(Pooling\): takes 1 bottom'):
        _ = net.views


NORM = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 4 dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 2 kernel_size: 1 } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
"""


@pytest.mark.parametrize(("variance", "folds"), [(1.0, True), (-1.0, False)])
def test_a_negative_variance_is_not_folded(tmp_path: Path, variance: float, folds: bool) -> None:
    (tmp_path / "net.prototxt").write_text(NORM)
    one = np.ones(2, np.float32)
    layers = [
        ("conv", "Convolution", [np.ones((2, 1, 1, 1), np.float32), one]),
        ("bn", "BatchNorm", [one, variance * one, one[:1]]),
    ]
    write_caffemodel(tmp_path / "net.caffemodel", "net", layers)
    made = convert(ConvertOptions(tmp_path / "net.prototxt", tmp_path / "net.caffemodel", dry_run=True))
    assert bool(made.outcome.rewrites) is folds
    assert folds or "negative variance" in made.outcome.refusals[0].reason


def test_doubles_beyond_single_precision_are_not_finite() -> None:
    assert not Weights({"a": (np.array([1e300]),)}).finite("a")
    assert Weights({"a": (np.array([1e30]),)}).finite("a")


@pytest.mark.parametrize("on", [True, False])
def test_the_collector_is_left_as_it_was(on: bool) -> None:
    was = gc.isenabled()
    try:
        (gc.enable if on else gc.disable)()
        assert uncollected(gc.isenabled)() is False
        assert gc.isenabled() is on
    finally:
        (gc.enable if was else gc.disable)()


def test_a_net_whose_numbers_would_overflow_is_not_written(tmp_path: Path) -> None:
    text = NORM.replace('}\nlayer { name: "bn"', 'param { lr_mult: 3e38 } }\nlayer { name: "bn"') + (
        'layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }'
        'layer { name: "loss" type: "EuclideanLoss" bottom: "pool" bottom: "pool" }'
    )
    (tmp_path / "net.prototxt").write_text(text)
    with pytest.raises(RebirthError, match=r"the lr_mult of layer .* times 10 is more than Caffe can hold"):
        convert(ConvertOptions(tmp_path / "net.prototxt", dry_run=True))


def test_json_has_no_word_for_some_numbers() -> None:
    assert json.loads(json_bytes({"a": [float("nan"), (float("-inf"), 1.5)]})) == {"a": [None, [None, 1.5]]}


def test_hdf5_names_that_are_no_utf8(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "w.h5", "w") as file:
        group = file.create_group("data").create_group("conv")
        group["0"] = h5py.SoftLink("/xyz")
        file["data/abc"] = h5py.SoftLink("/xyz")
    data = (tmp_path / "w.h5").read_bytes()
    for name in (b"xyz", b"abc"):
        (tmp_path / "w.h5").write_bytes(data.replace(name, b"\xff" + name[1:]))
        with pytest.raises(RebirthError, match=r"these are weights|cut off or damaged"):
            read_solverstate(tmp_path / "w.h5")
        with contextlib.suppress(RebirthError):
            assert list(read_hdf5_model(tmp_path / "w.h5")) == ["conv"]


REACH = """
input: "data" input_shape { dim: 2 dim: 4 dim: 8 dim: 5 }
layer { name: "crop" type: "Crop" bottom: "data" bottom: "data" top: "crop" }
layer { name: "hinge" type: "HingeLoss" bottom: "data" bottom: "crop" top: "hinge" }
layer { name: "split" type: "Split" bottom: "hinge" top: "split" }
"""
NOTHING = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 0 dim: 8 dim: 31 dim: 0 } } }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 5 } }
layer { name: "norm" type: "LRN" bottom: "data" top: "norm" }
layer { name: "loss" type: "HingeLoss" bottom: "fc" bottom: "norm" top: "loss" }
"""


@pytest.mark.parametrize("text", [REACH, NOTHING], ids=["does not run at other sizes", "a picture of nothing"])
def test_what_cannot_be_judged_stays(tmp_path: Path, text: str) -> None:
    (tmp_path / "net.prototxt").write_text(text)
    convert(ConvertOptions(tmp_path / "net.prototxt", dry_run=True))
    net = Net.read(tmp_path / "net.prototxt")
    net.weights = random_weights(net)
    with contextlib.suppress(NetError):  # of the first nothing is left
        strip(net)


BATCH = """
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: PHASE }
  transform_param { crop_size: 8 mean_value: [1, 2, 3] }
  data_param { source: "none" batch_size: SIZE } }
"""


def test_a_batch_that_the_net_cannot_take(tmp_path: Path) -> None:
    """The net that is written would not run."""
    text = BATCH.replace("PHASE", "TRAIN").replace("SIZE", "1") + BATCH.replace("PHASE", "TEST").replace("SIZE", "1")
    text += 'layer { name: "one" type: "Reshape" bottom: "label" top: "one" }'
    (tmp_path / "net.prototxt").write_text(text)
    with pytest.raises(RebirthError, match=r"a batch of 32 does not go with this net .*choose it with --batch"):
        convert(ConvertOptions(tmp_path / "net.prototxt", batch=32, dry_run=True))


def test_weights_that_are_as_many_as_the_images(tmp_path: Path) -> None:
    """A deploy net of another batch would not load them."""
    text = NORM.replace("dim: 1 dim: 1", "dim: 3 dim: 1") + (
        'layer { name: "shift" type: "Bias" bottom: "conv" top: "shift" bias_param { axis: 0 } }'
    )
    net = Net.parse(text)
    net.weights = random_weights(net)
    with pytest.raises(RebirthError, match=r"shift wants 1.* and the file has 3"):
        strip(net, batch=1)
