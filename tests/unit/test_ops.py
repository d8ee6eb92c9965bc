"""The facts of layer types: what they compute by hand, what they refuse, what they say."""

from __future__ import annotations

import subprocess
import sys
from math import prod

import pytest
from google.protobuf import text_format

from deeprebirth_caffe import ops
from deeprebirth_caffe.ops import Datum, Op, Shape
from deeprebirth_caffe.proto import caffe_pb2 as pb

IMAGE = (2, 6, 8, 9)


def make(type_name: str, body: str = "", bottoms: int = 1, tops: int = 1) -> tuple[Op, pb.LayerParameter]:
    layer = text_format.Parse(body, pb.LayerParameter())
    layer.name, layer.type = "it", type_name
    layer.bottom.extend(f"b{index}" for index in range(bottoms))
    layer.top.extend(f"t{index}" for index in range(tops))
    found = ops.op(type_name)
    assert found is not None
    return found, layer


def shapes(type_name: str, body: str, *bottoms: Shape, tops: int = 1, datum: Datum | None = None) -> list[Shape]:
    found, layer = make(type_name, body, len(bottoms), tops)
    return found.shapes(layer, bottoms, datum=datum)


def error(type_name: str, body: str, *bottoms: Shape, tops: int = 1) -> str:
    with pytest.raises(ops.ShapeError) as caught:
        shapes(type_name, body, *bottoms, tops=tops)
    return str(caught.value)


def work(type_name: str, body: str, *bottoms: Shape, tops: int = 1) -> tuple[int, float, list[Shape]]:
    """MACs, cost and parameter shapes."""
    found, layer = make(type_name, body, len(bottoms), tops)
    out = found.shapes(layer, bottoms)
    return found.macs(layer, bottoms, out), found.cost(layer, bottoms, out), found.params(layer, bottoms)


def test_registry() -> None:
    assert len(ops.all_ops()) == 61
    names = [entry.type for entry in ops.all_ops()]
    assert names == sorted(names)
    assert ops.op("Convolution") is ops.all_ops()[names.index("Convolution")]
    assert ops.op("ROIPooling") is None
    assert ops.op("convolution") is None


def test_importing_the_facts_is_light() -> None:
    code = "import sys, deeprebirth_caffe.ops; print('numpy' in sys.modules, 'google' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]


# What is wrong, in words


def test_errors_name_the_layer_and_the_sizes() -> None:
    text = error("Convolution", "convolution_param { num_output: 1 kernel_size: 7 }", (1, 3, 5, 5))
    assert text == 'layer "it" (Convolution): kernel 7x7 larger than padded input 5x5'
    body = "convolution_param { num_output: 1 kernel_size: 3 dilation: 4 pad: 1 }"
    assert "kernel 3x3 (spanning 9x9) larger than padded input 7x7" in error("Convolution", body, (1, 3, 5, 5))
    assert "4 groups" in error("Convolution", "convolution_param { num_output: 4 kernel_size: 1 group: 4 }", IMAGE)
    assert "num_output" in error("Convolution", "convolution_param { kernel_size: 1 }", IMAGE)
    assert "kernel is not given" in error("Convolution", "convolution_param { num_output: 1 }", IMAGE)
    assert "2x6x8x9 and 2x6x8x8 along axis 1" in error("Concat", "", IMAGE, (2, 6, 8, 8))
    assert "takes 2 or more bottom(s), has 1" in error("Eltwise", "", IMAGE)
    assert "takes 1 bottom(s), has 2" in error("ReLU", "", IMAGE, IMAGE)
    assert "takes 1 to 2 bottom(s), has 3" in error("Scale", "", IMAGE, IMAGE, IMAGE)
    assert "one top a bottom" in error("Convolution", "convolution_param { kernel_size: 1 }", IMAGE, IMAGE)
    assert "axis 4 does not exist in its input 2x6x8x9" in error("Softmax", "softmax_param { axis: 4 }", IMAGE)
    assert "only max pooling" in error("Pooling", "pooling_param { pool: AVE kernel_size: 2 }", IMAGE, tops=2)
    assert "pad 2x2" in error("Pooling", "pooling_param { kernel_size: 2 pad: 2 }", IMAGE)


@pytest.mark.parametrize(
    ("type_name", "body", "bottoms", "tops"),
    [
        ("Convolution", "convolution_param { num_output: 4 kernel_size: 3 stride: 0 }", [IMAGE], 1),
        (
            "Convolution",
            "convolution_param { num_output: 4 kernel_size: 3 pad: 1 pad: 1 pad: 1 }",
            [IMAGE],
            1,
        ),
        (
            "Convolution",
            "convolution_param { num_output: 4 kernel_size: 3 kernel_h: 3 kernel_w: 3 }",
            [IMAGE],
            1,
        ),
        ("Convolution", "convolution_param { num_output: 4 kernel_h: 3 kernel_w: 3 }", [(1, 2, 3)], 1),
        ("Convolution", "convolution_param { num_output: 4 kernel_size: 3 group: 0 }", [IMAGE], 1),
        ("Convolution", "convolution_param { num_output: 4 kernel_size: 3 }", [IMAGE, (2, 6, 8, 8)], 2),
        ("Deconvolution", "convolution_param { num_output: 4 kernel_size: 2 pad: 9 }", [IMAGE], 1),
        ("Im2col", "convolution_param { kernel_size: 2 axis: 3 }", [IMAGE], 1),
        ("Pooling", "pooling_param { kernel_size: 7 stride: 2 }", [(1, 2, 5, 5)], 1),
        ("Pooling", "pooling_param { kernel_h: 2 }", [IMAGE], 1),
        ("Pooling", "pooling_param { kernel_size: 2 stride_h: 2 }", [IMAGE], 1),
        ("Pooling", "pooling_param { kernel_size: 2 stride: 0 }", [IMAGE], 1),
        ("Pooling", "pooling_param { kernel_size: 3 pad: 1 pool: STOCHASTIC }", [IMAGE], 1),
        ("Pooling", "pooling_param { global_pooling: true kernel_size: 3 }", [IMAGE], 1),
        ("Pooling", "pooling_param { global_pooling: true stride: 2 }", [IMAGE], 1),
        ("Pooling", "pooling_param { kernel_size: 2 }", [(1, 2, 3)], 1),
        ("SPP", "spp_param { pyramid_height: 0 }", [IMAGE], 1),
        ("SPP", "spp_param { pyramid_height: 3 }", [(1, 2, 3, 3)], 1),
        ("SPP", "spp_param { pyramid_height: 2 pool: STOCHASTIC }", [IMAGE], 1),
        ("LRN", "lrn_param { local_size: 4 }", [IMAGE], 1),
        ("LRN", "", [(2, 3)], 1),
        ("BatchNorm", "", [(3,)], 1),
        ("BatchNorm", "param { }", [IMAGE], 1),
        ("MVN", "", [(1, 2, 3, 4, 5)], 1),
        ("PReLU", "", [(1, 2, 3, 4, 5)], 1),
        ("PReLU", "", [(3,)], 1),
        ("Scale", "scale_param { axis: 2 num_axes: 3 }", [IMAGE], 1),
        ("Scale", "scale_param { num_axes: -2 }", [IMAGE], 1),
        ("Scale", "", [IMAGE, (8,)], 1),
        ("Scale", "scale_param { axis: 5 bias_term: true }", [IMAGE, ()], 1),
        ("Exp", "exp_param { base: -2 }", [IMAGE], 1),
        ("Log", "log_param { base: 1 }", [IMAGE], 1),
        ("InnerProduct", "inner_product_param { num_output: 3 }", [(3,)], 1),
        ("InnerProduct", "", [IMAGE], 1),
        ("Embed", "embed_param { num_output: 3 }", [IMAGE], 1),
        ("Concat", "concat_param { axis: 1 concat_dim: 1 }", [IMAGE], 1),
        ("Concat", "", [IMAGE, (2, 6)], 1),
        ("Slice", "slice_param { axis: 1 slice_dim: 1 }", [IMAGE], 1),
        ("Slice", "", [IMAGE], 4),
        ("Slice", "slice_param { slice_point: 2 }", [IMAGE], 3),
        ("Slice", "slice_param { slice_point: 4 slice_point: 2 }", [IMAGE], 3),
        ("Slice", "slice_param { slice_point: 6 }", [IMAGE], 2),
        ("Eltwise", "eltwise_param { coeff: 1 }", [IMAGE, IMAGE], 1),
        ("Eltwise", "eltwise_param { coeff: 1 coeff: 1 operation: PROD }", [IMAGE, IMAGE], 1),
        ("Flatten", "flatten_param { axis: 3 end_axis: 1 }", [IMAGE], 1),
        ("Reshape", "reshape_param { shape { dim: -1 dim: -1 } }", [IMAGE], 1),
        ("Reshape", "reshape_param { shape { dim: 0 dim: 0 dim: 0 dim: 0 dim: 0 } }", [IMAGE], 1),
        ("Reshape", "reshape_param { shape { dim: 5 dim: -1 } }", [IMAGE], 1),
        ("Reshape", "reshape_param { shape { dim: -2 dim: -1 } }", [IMAGE], 1),
        ("Reshape", "reshape_param { axis: 6 shape { dim: 1 } }", [IMAGE], 1),
        ("Reshape", "reshape_param { axis: 2 num_axes: 3 shape { dim: 0 } }", [IMAGE], 1),
        ("Reshape", "reshape_param { num_axes: -2 shape { dim: 0 } }", [IMAGE], 1),
        ("Crop", "crop_param { offset: 6 }", [IMAGE, (1, 1, 3, 4)], 1),
        ("Crop", "crop_param { offset: 1 offset: 1 offset: 1 }", [IMAGE, (1, 1, 3, 4)], 1),
        ("Crop", "", [IMAGE, (1, 1, 3)], 1),
        ("Tile", "", [IMAGE], 1),
        ("ArgMax", "argmax_param { top_k: 0 }", [IMAGE], 1),
        ("ArgMax", "argmax_param { top_k: 7 axis: 1 }", [IMAGE], 1),
        ("BatchReindex", "", [IMAGE, (2, 2)], 1),
        ("Filter", "", [IMAGE, (2, 2)], 1),
        ("Filter", "", [IMAGE, (3,)], 1),
        ("Filter", "", [IMAGE, (2,)], 2),
        ("Accuracy", "accuracy_param { top_k: 6 }", [(4, 5), (4,)], 1),
        ("Accuracy", "", [(4, 5), (5,)], 1),
        ("SoftmaxWithLoss", "", [(4, 5), (1, 4)], 1),
        ("SoftmaxWithLoss", "", [(4, 5), (4,)], 2),
        ("SoftmaxWithLoss", "loss_weight: 1 loss_weight: 1", [(4, 5), (4,)], 1),
        ("InfogainLoss", "", [(4, 5), (4,)], 1),
        ("InfogainLoss", "", [(4, 5), (4,), (5, 6)], 1),
        ("EuclideanLoss", "", [(4, 5), (4, 6)], 1),
        ("MultinomialLogisticLoss", "", [(4, 5), (4, 2)], 1),
        ("ContrastiveLoss", "", [(4, 5), (4, 6), (4,)], 1),
        ("ContrastiveLoss", "", [(4, 5), (4, 5), (4, 2)], 1),
        ("LSTM", "", [(3, 2, 7), (3, 2)], 1),
        ("LSTM", "recurrent_param { num_output: 5 }", [(3, 2), (3, 2)], 1),
        ("LSTM", "recurrent_param { num_output: 5 }", [(3, 2, 7), (3, 3)], 1),
        ("LSTM", "recurrent_param { num_output: 5 }", [(3, 2, 7), (3, 2), (2,)], 1),
        ("LSTM", "recurrent_param { num_output: 5 expose_hidden: true }", [(3, 2, 7), (3, 2)], 3),
        ("LSTM", "recurrent_param { num_output: 5 }", [(3, 2, 7), (3, 2)], 3),
        ("RNN", "recurrent_param { num_output: 5 expose_hidden: true }", [(3, 2, 7), (3, 2), (1, 2, 6)], 2),
        ("LSTMUnit", "", [(1, 2, 5), (1, 2, 19), (1, 2)], 2),
        ("LSTMUnit", "", [(2, 2, 5), (1, 2, 20), (1, 2)], 2),
        ("LSTMUnit", "", [(1, 2, 5), (1, 2, 20), (1, 3)], 2),
        ("DummyData", "", [], 1),
        ("DummyData", "dummy_data_param { num: 2 channels: 3 height: 4 }", [], 1),
        ("DummyData", "dummy_data_param { num: 2 shape { dim: 2 } }", [], 1),
        ("DummyData", "dummy_data_param { shape { dim: 0 } }", [], 1),
        ("DummyData", "dummy_data_param { shape { dim: 1 } data_filler { } data_filler { } }", [], 1),
        ("Input", "input_param { shape { dim: 1 } shape { dim: 2 } }", [], 3),
        ("MemoryData", "memory_data_param { batch_size: 2 channels: 3 height: 4 }", [], 2),
        ("WindowData", "window_data_param { batch_size: 2 }", [], 2),
        ("ImageData", "image_data_param { new_height: 2 }", [], 2),
        ("Data", "", [], 1),
        ("Tile", "tile_param { tiles: 3000000 }", [(1000, 1000)], 1),
        ("Embed", "embed_param { num_output: 1 input_dim: 1 }", [(1,) * 32], 1),
        ("ReLU", "propagate_down: true propagate_down: true", [IMAGE], 1),
    ],
)
def test_what_caffe_would_not_run(type_name: str, body: str, bottoms: list[Shape], tops: int) -> None:
    text = error(type_name, body, *bottoms, tops=tops)
    assert text.startswith(f'layer "it" ({type_name}): ')
    assert "\n" not in text


def test_unread_layers_run_in_place_are_refused() -> None:
    for type_name in ("Flatten", "Reshape"):
        found, layer = make(type_name)
        layer.top[0] = layer.bottom[0]
        with pytest.raises(ops.ShapeError, match="in place"):
            found.shapes(layer, [IMAGE])


def test_too_many_param_blocks() -> None:
    found, layer = make("ReLU", "param { lr_mult: 1 }")
    with pytest.raises(ops.ShapeError, match="1 param blocks for 0 learnable blobs"):
        found.params(layer, [IMAGE])
    found, layer = make("Python", "param { lr_mult: 1 }")
    assert found.params(layer, [IMAGE]) == []  # what a Python layer learns is not known


# Work


def test_macs_are_weights_times_uses() -> None:
    body = "convolution_param { num_output: 4 kernel_h: 3 kernel_w: 2 group: 2 stride: 2 }"
    macs, cost, params = work("Convolution", body, IMAGE)
    out = shapes("Convolution", body, IMAGE)[0]
    assert macs == prod(params[0]) * out[0] * out[2] * out[3]
    assert cost > macs
    twice, _, _ = work("Convolution", body, IMAGE, IMAGE, tops=2)
    assert twice == 2 * macs
    macs, _, params = work("Deconvolution", body, IMAGE)
    assert macs == prod(params[0]) * IMAGE[0] * IMAGE[2] * IMAGE[3]
    macs, cost, params = work("InnerProduct", "inner_product_param { num_output: 5 }", IMAGE)
    assert macs == prod(params[0]) * IMAGE[0]
    assert cost > macs
    macs, _, params = work("LSTM", "recurrent_param { num_output: 5 }", (3, 2, 7), (3, 2))
    assert macs == 6 * (prod(params[0]) + prod(params[2]))
    macs, _, params = work("LSTM", "recurrent_param { num_output: 5 }", (3, 2, 7), (3, 2), (2, 4))
    assert macs == 6 * (prod(params[0]) + prod(params[3])) + 2 * prod(params[2])
    macs, _, params = work("RNN", "recurrent_param { num_output: 5 }", (3, 2, 7), (3, 2))
    assert macs == 6 * sum(prod(params[place]) for place in (0, 2, 3))


def test_known_sizes() -> None:
    """AlexNet's first layer: 105 million multiply-adds and 34,944 numbers."""
    body = "convolution_param { num_output: 96 kernel_size: 11 stride: 4 }"
    macs, _, params = work("Convolution", body, (1, 3, 227, 227))
    assert macs == 105_415_200
    assert sum(map(prod, params)) == 34_944


def test_only_tensor_layers_have_macs_and_all_work_costs() -> None:
    for body, type_name in (
        ("pooling_param { kernel_size: 3 stride: 2 }", "Pooling"),
        ("", "LRN"),
        ("lrn_param { norm_region: WITHIN_CHANNEL }", "LRN"),
        ("", "BatchNorm"),
        ("", "ReLU"),
        ("power_param { power: 0.75 }", "Power"),
        ("", "MVN"),
        ("", "PReLU"),
        ("", "Softmax"),
        ("spp_param { pyramid_height: 2 }", "SPP"),
        ("convolution_param { kernel_size: 3 }", "Im2col"),
        ("argmax_param { }", "ArgMax"),
    ):
        macs, cost, _ = work(type_name, body, IMAGE)
        assert macs == 0
        assert cost > 0
    assert work("Embed", "embed_param { num_output: 4 input_dim: 9 }", (3,))[0] == 0
    assert work("Flatten", "", IMAGE)[1] == 0
    assert work("Split", "", IMAGE, tops=2)[1] == 0


def test_costs_rank_as_measured() -> None:
    """Max pooling costs more than the average, pow more than ReLU, unrolling more than a plain 1x1."""
    cost = {
        name: work(type_name, body, IMAGE)[1]
        for name, type_name, body in (
            ("max", "Pooling", "pooling_param { kernel_size: 3 }"),
            ("ave", "Pooling", "pooling_param { kernel_size: 3 pool: AVE }"),
            ("relu", "ReLU", ""),
            ("lrn", "LRN", ""),
            ("within", "LRN", "lrn_param { norm_region: WITHIN_CHANNEL }"),
            ("linear", "Power", "power_param { scale: 2 }"),
            ("pow", "Power", "power_param { power: 2.5 }"),
            ("scale", "Scale", ""),
            ("affine", "Scale", "scale_param { bias_term: true }"),
            ("plain", "Convolution", "convolution_param { num_output: 4 kernel_size: 1 }"),
            (
                "strided",
                "Convolution",
                "convolution_param { num_output: 4 kernel_size: 1 dilation: 1 pad: 1 }",
            ),
        )
    }
    assert cost["max"] > cost["ave"] > cost["relu"]
    assert cost["within"] > cost["lrn"] > cost["affine"] > cost["scale"]
    assert cost["pow"] > cost["linear"]
    assert cost["strided"] > cost["plain"]


# Traits


def test_traits() -> None:
    by_trait = {
        trait: {entry.type for entry in ops.all_ops() if getattr(entry, trait)}
        for trait in ("tensor", "data", "loss", "metric", "custom", "equal_counts")
    }
    assert by_trait == {
        "tensor": {"Convolution", "Deconvolution", "InnerProduct", "LSTM", "RNN"},
        "data": {"Data", "DummyData", "HDF5Data", "ImageData", "Input", "MemoryData", "WindowData"},
        "loss": {
            "ContrastiveLoss",
            "EuclideanLoss",
            "HingeLoss",
            "InfogainLoss",
            "MultinomialLogisticLoss",
            "SigmoidCrossEntropyLoss",
            "SoftmaxWithLoss",
        },
        "metric": {"Accuracy"},
        "custom": {"Python"},
        "equal_counts": {"Convolution", "Deconvolution"},
    }
    for entry in ops.all_ops():
        assert not entry.pointwise or entry.channelwise
        assert not entry.data or entry.max_bottoms == 0


@pytest.mark.parametrize(
    ("type_name", "body", "keeps"),
    [
        ("ReLU", "", True),
        ("Pooling", "pooling_param { kernel_size: 2 }", True),
        ("LRN", "", False),
        ("LRN", "lrn_param { norm_region: WITHIN_CHANNEL }", True),
        ("MVN", "", True),
        ("MVN", "mvn_param { across_channels: true }", False),
        ("Softmax", "", False),
        ("Softmax", "softmax_param { axis: 2 }", True),
        ("Crop", "", True),
        ("Crop", "crop_param { axis: 1 }", False),
        ("Convolution", "convolution_param { num_output: 6 kernel_size: 1 group: 6 }", False),
        ("InnerProduct", "", False),
    ],
)
def test_keeps_channels(type_name: str, body: str, keeps: bool) -> None:
    found, layer = make(type_name, body)
    assert found.keeps_channels(layer) is keeps


def test_a_nameless_loss_has_one_more_blob() -> None:
    found, layer = make("SoftmaxWithLoss", bottoms=2, tops=0)
    assert found.shapes(layer, [(4, 5), (4,)]) == []
    assert found.auto_tops(layer) == 1
    found, layer = make("SoftmaxWithLoss", bottoms=2)
    assert found.shapes(layer, [(4, 5), (4,)]) == [()]
    assert found.auto_tops(layer) == 0
    found, layer = make("Silence", tops=0)
    assert found.auto_tops(layer) == 0


def test_memory() -> None:
    assert ops.count(()) == 1
    assert ops.count((2, 3, 4), 1) == 12
    assert ops.count((2, 3, 4), 0, 2) == 6
    assert ops.nbytes((2, 3)) == 24
    assert ops.total_bytes([(2, 3), ()]) == 28
