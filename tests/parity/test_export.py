"""The ONNX exporter against real Caffe, by way of ONNX Runtime: each layer type over its parameters, and whole nets."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from nets import REPEATS, conv, data, fc, layer, relu

from deeprebirth_caffe import zoo
from deeprebirth_caffe.commands.convert import convert
from deeprebirth_caffe.commands.export import compare
from deeprebirth_caffe.engines.prepare import plain
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.nets.load import load_net
from deeprebirth_caffe.options.convert import ConvertOptions

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.caffe.client import CaffeWorker

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from deeprebirth_caffe.to_onnx import OPSET, Exported, to_onnx  # noqa: E402
from deeprebirth_caffe.to_onnx.table import TRANSLATORS  # noqa: E402

IMAGE = data(2, 4, 11, 10)
SMALL_BATCH = data(2, 6)


class Shared:
    """The process of real Caffe that all tests share, as an engine; where a test makes it abort, a new one starts."""

    def __init__(self, worker: CaffeWorker) -> None:
        self.worker = worker

    def session(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def forward(
        self, net: Path, weights: Path, inputs: Mapping[str, np.ndarray], blobs: Sequence[str]
    ) -> dict[str, np.ndarray]:
        loaded = self.worker.load(net, weights=weights)
        try:
            return self.worker.forward(loaded, inputs, blobs)
        finally:
            self.worker.close(loaded)


@pytest.fixture
def real(caffe: CaffeWorker) -> Any:
    return Shared(caffe)


def check(real: Any, net: Net, *, opset: int = OPSET, dynamic: bool = True, rounding: bool = False) -> Exported:
    if net.weights is None:
        net.weights = random_weights(net)
    ready = plain(net)
    made = to_onnx(ready.net, opset=opset, dynamic=dynamic, rounding=rounding)
    onnx.checker.check_model(made.model, full_check=True)
    # At any batch the comparison is made at 1 and 3, else at the net's own.
    found = compare(made, ready, real)
    assert {one.blob for one in found} == set(ready.outputs)
    return made


def act(kind: str, fields: str = "") -> str:
    """An input and one layer on it."""
    return IMAGE + layer(kind, "x", "data", fields=fields)


def c(fields: str, image: str = IMAGE) -> str:
    return image + layer("Convolution", "x", "data", fields=f"convolution_param {{ {fields} }}")


def d(fields: str, image: str = IMAGE) -> str:
    return image + layer("Deconvolution", "x", "data", fields=f"convolution_param {{ {fields} }}")


def p(fields: str, image: str = IMAGE, tops: tuple[str, ...] = ("x",)) -> str:
    return image + layer("Pooling", "x", "data", tops, f"pooling_param {{ {fields} }}")


POSITIVE = IMAGE + layer("AbsVal", "abs", "data")
TWO = IMAGE + layer("Power", "b", "data", fields="power_param { scale: -0.7 shift: 0.3 }")
LSTM_IN = data(5, 3, 7) + layer("Input", "cont", (), "cont", "input_param { shape { dim: 5 dim: 3 } }")
STATES = "".join(data(1, 3, 4, name=name) for name in ("h0", "c0"))

LAYERS: dict[str, str] = {
    # windows
    "conv": c("num_output: 6 kernel_size: 3"),
    "conv_pad_stride": c("num_output: 6 kernel_size: 3 pad: 1 stride: 2"),
    "conv_group": c("num_output: 6 kernel_size: 3 group: 2 bias_term: false"),
    "conv_depthwise": c("num_output: 4 kernel_size: 3 group: 4 pad: 1"),
    "conv_dilation": c("num_output: 5 kernel_size: 3 dilation: 2 pad: 2"),
    "conv_rectangle": c("num_output: 5 kernel_h: 1 kernel_w: 5 pad_h: 0 pad_w: 2 stride_h: 2 stride_w: 1"),
    "conv_1x1": c("num_output: 7 kernel_size: 1"),
    "conv_1x1_stride": c("num_output: 7 kernel_size: 1 stride: 2"),
    "conv_sticks_out": c("num_output: 3 kernel_size: 12 stride: 3 pad: 0"),
    "conv_two_inputs": TWO
    + layer("Convolution", "x", ("data", "b"), ("x", "y"), "convolution_param { num_output: 3 kernel_size: 3 }"),
    "conv_one_axis": c("num_output: 5 kernel_size: 3 pad: 1", data(2, 4, 9)),
    "conv_three_axes": c("num_output: 5 kernel_size: 3 pad: 1", data(2, 4, 5, 6, 7)),
    "conv_axis_2": c("num_output: 5 kernel_size: 3 axis: 2", data(2, 3, 4, 9, 8)),
    "deconv": d("num_output: 6 kernel_size: 4 stride: 2 pad: 1"),
    "deconv_group": d("num_output: 4 kernel_size: 4 stride: 2 pad: 1 group: 4 bias_term: false"),
    "deconv_dilation": d("num_output: 6 kernel_size: 3 dilation: 2 stride: 3 group: 2"),
    "deconv_rectangle": d("num_output: 3 kernel_h: 2 kernel_w: 3 stride_h: 2 stride_w: 1 pad_h: 0 pad_w: 1"),
    "spp_max": act("SPP", "spp_param { pyramid_height: 3 pool: MAX }"),
    "spp_average": act("SPP", "spp_param { pyramid_height: 3 pool: AVE }"),
    "spp_one_level": act("SPP", "spp_param { pyramid_height: 1 pool: MAX }"),
    "pool_mask": p("pool: MAX kernel_size: 3 stride: 2", tops=("x", "mask")),
    "pool_mask_pad": p("pool: MAX kernel_size: 3 stride: 2 pad: 1", tops=("x", "mask")),
    "pool_global_max": p("pool: MAX global_pooling: true"),
    "pool_global_average": p("pool: AVE global_pooling: true"),
    "pool_rectangle": p("pool: AVE kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 3 pad_h: 1 pad_w: 0"),
    "pool_rectangle_max": p("pool: MAX kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 3 pad_h: 1 pad_w: 0"),
    "pool_whole_max": p("pool: MAX kernel_h: 11 kernel_w: 10"),
    # outside of the image: -FLT_MAX, and a share of nothing
    "pool_outside_max": p("pool: MAX kernel_size: 1 stride: 2", data(2, 3, 8, 7)),
    "pool_outside_average": p("pool: AVE kernel_size: 1 stride: 2", data(2, 3, 8, 7)),
    "pool_far_outside_average": p("pool: AVE kernel_size: 1 stride: 3", data(2, 3, 8, 9)),
    "pool_outside_mask": p("pool: MAX kernel_size: 2 stride: 5", data(2, 3, 6, 7), ("x", "mask")),
    "pool_outside_below": p("pool: AVE kernel_h: 1 kernel_w: 3 stride_h: 2 stride_w: 2", data(2, 3, 8, 8)),
    # norms
    "lrn": act("LRN", "lrn_param { local_size: 3 alpha: 0.5 beta: 0.6 k: 2 }"),
    "lrn_defaults": act("LRN"),
    "lrn_wide": act("LRN", "lrn_param { local_size: 9 alpha: 0.3 beta: 0.75 }"),
    "lrn_within": act("LRN", "lrn_param { local_size: 5 alpha: 0.9 beta: 0.6 norm_region: WITHIN_CHANNEL k: 3 }"),
    "lrn_within_defaults": act("LRN", "lrn_param { norm_region: WITHIN_CHANNEL }"),
    "batch_norm": act("BatchNorm", "batch_norm_param { eps: 0.01 }"),
    "batch_norm_defaults": act("BatchNorm"),
    "batch_norm_own_statistics": act("BatchNorm", "batch_norm_param { use_global_stats: false eps: 0.001 }"),
    "batch_norm_flat": SMALL_BATCH + layer("BatchNorm", "x", "data"),
    "mvn": act("MVN"),
    "mvn_across": act("MVN", "mvn_param { across_channels: true eps: 0.01 }"),
    "mvn_mean_alone": act("MVN", "mvn_param { normalize_variance: false }"),
    "mvn_flat": data(2, 6, 5) + layer("MVN", "x", "data", fields="mvn_param { across_channels: true }"),
    "scale": act("Scale"),
    "scale_bias": act("Scale", "scale_param { bias_term: true }"),
    "scale_all_axes": act("Scale", "scale_param { axis: 1 num_axes: -1 bias_term: true }"),
    "scale_last_axis": act("Scale", "scale_param { axis: -1 bias_term: true }"),
    "scale_middle_axes": act("Scale", "scale_param { axis: 1 num_axes: 2 bias_term: true }"),
    "scale_whole_batch": act("Scale", "scale_param { axis: 0 num_axes: 2 }"),
    "scale_one_number": act("Scale", "scale_param { num_axes: 0 bias_term: true }"),
    "scale_two_inputs": TWO + layer("Scale", "x", ("data", "b"), fields="scale_param { axis: 0 bias_term: false }"),
    "scale_by_item": IMAGE
    + data(2, 4, name="s")
    + layer("Scale", "x", ("data", "s"), fields="scale_param { axis: 0 }"),
    "scale_by_column": IMAGE
    + layer("Parameter", "s", (), "s", "parameter_param { shape { dim: 10 } }")
    + layer("Scale", "x", ("data", "s"), fields="scale_param { axis: 3 }"),
    "bias": act("Bias"),
    "bias_axes": act("Bias", "bias_param { axis: 1 num_axes: 2 }"),
    "bias_two_inputs": IMAGE + data(2, name="s") + layer("Bias", "x", ("data", "s"), fields="bias_param { axis: 0 }"),
    "softmax": act("Softmax"),
    "softmax_last_axis": act("Softmax", "softmax_param { axis: -1 }"),
    "softmax_axis_2": act("Softmax", "softmax_param { axis: 2 }"),
    # element by element
    "relu": act("ReLU"),
    "relu_slope": act("ReLU", "relu_param { negative_slope: 0.2 }"),
    "relu_negative_slope": act("ReLU", "relu_param { negative_slope: -0.2 }"),
    "prelu": act("PReLU"),
    "prelu_shared": act("PReLU", "prelu_param { channel_shared: true }"),
    "prelu_flat": SMALL_BATCH + layer("PReLU", "x", "data"),
    "elu": act("ELU", "elu_param { alpha: 0.4 }"),
    "elu_defaults": act("ELU"),
    "sigmoid": act("Sigmoid"),
    "tanh": act("TanH"),
    "abs": act("AbsVal"),
    "bnll": act("BNLL"),
    "clip": act("Clip", "clip_param { min: -0.5 max: 0.7 }"),
    "swish": act("Swish", "swish_param { beta: 1.7 }"),
    "swish_defaults": act("Swish"),
    "threshold": act("Threshold", "threshold_param { threshold: 0.3 }"),
    "power": POSITIVE + layer("Power", "x", "abs", fields="power_param { power: 1.7 scale: 0.5 shift: 0.2 }"),
    "power_square": act("Power", "power_param { power: 2 }"),
    "power_cube": act("Power", "power_param { power: 3 shift: 0.1 }"),
    "power_reciprocal": POSITIVE + layer("Power", "x", "abs", fields="power_param { power: -1 shift: 0.5 }"),
    "power_affine": act("Power", "power_param { scale: -2 shift: 1 }"),
    "power_nothing": POSITIVE + layer("Power", "x", "abs"),
    "power_constant": act("Power", "power_param { power: 2 scale: 0 shift: 3 }") + layer("ReLU", "y", "data"),
    "power_zero": act("Power", "power_param { power: 0 }") + layer("ReLU", "y", "data"),
    "exp": act("Exp"),
    "exp_base": act("Exp", "exp_param { base: 2 scale: 0.5 shift: 0.3 }"),
    "exp_shift": act("Exp", "exp_param { shift: -1.5 }"),
    "log": POSITIVE + layer("Log", "x", "abs", fields="log_param { shift: 0.5 }"),
    "log_base": POSITIVE + layer("Log", "x", "abs", fields="log_param { base: 10 scale: 2 shift: 0.5 }"),
    "dropout": act("Dropout", "dropout_param { dropout_ratio: 0.3 }"),
    "dropout_between": IMAGE + layer("Dropout", "d", "data") + layer("TanH", "x", "d"),
    "sum": TWO + layer("Eltwise", "x", ("data", "b")),
    "sum_weighted": TWO
    + layer("Eltwise", "x", ("data", "b", "data"), fields="eltwise_param { coeff: 1 coeff: -1 coeff: 0.5 }"),
    "product": TWO + layer("Eltwise", "x", ("data", "b"), fields="eltwise_param { operation: PROD }"),
    "maximum": TWO + layer("Eltwise", "x", ("data", "b"), fields="eltwise_param { operation: MAX }"),
    # dense
    "inner_product": IMAGE + fc("x", "data"),
    "inner_product_no_bias": IMAGE + fc("x", "data", fields="bias_term: false"),
    "inner_product_transpose": IMAGE + fc("x", "data", fields="transpose: true"),
    "inner_product_axis_2": IMAGE + fc("x", "data", fields="axis: 2"),
    "inner_product_last_axis": IMAGE + fc("x", "data", fields="axis: -1 transpose: true"),
    "inner_product_axis_0": IMAGE + fc("x", "data", fields="axis: 0"),
    "inner_product_flat": SMALL_BATCH + fc("x", "data"),
    "embed": SMALL_BATCH + layer("Embed", "x", "data", fields="embed_param { num_output: 5 input_dim: 9 }"),
    "embed_no_bias": SMALL_BATCH
    + layer("Embed", "x", "data", fields="embed_param { num_output: 5 input_dim: 9 bias_term: false }"),
    "batch_reindex": IMAGE + data(3, name="rows") + layer("BatchReindex", "x", ("data", "rows")),
    # shapes
    "concat": TWO + layer("Concat", "x", ("data", "b")),
    "concat_axis_3": TWO + layer("Concat", "x", ("data", "b"), fields="concat_param { axis: -1 }"),
    "concat_batch": TWO + layer("Concat", "x", ("data", "b"), fields="concat_param { axis: 0 }"),
    "concat_dim": TWO + layer("Concat", "x", ("data", "b"), fields="concat_param { concat_dim: 2 }"),
    "concat_one": IMAGE + layer("Concat", "x", "data"),
    "slice": IMAGE + layer("Slice", "x", "data", ("x", "y")),
    "slice_points": IMAGE
    + layer("Slice", "x", "data", ("x", "y", "z"), "slice_param { axis: 2 slice_point: 3 slice_point: 4 }"),
    "slice_batch": IMAGE + layer("Slice", "x", "data", ("x", "y"), "slice_param { axis: 0 }"),
    "slice_one": IMAGE + layer("Slice", "x", "data"),
    "split": IMAGE + layer("Split", "s", "data", ("a", "b")) + relu("r", "a", "x") + layer("TanH", "y", "b"),
    "split_outputs": IMAGE + layer("Split", "s", "data", ("a", "b")),
    "flatten": act("Flatten"),
    "flatten_middle": act("Flatten", "flatten_param { axis: 1 end_axis: 2 }"),
    "flatten_tail": act("Flatten", "flatten_param { axis: 2 }"),
    "flatten_all": act("Flatten", "flatten_param { axis: 0 }"),
    "reshape": act("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 5 } }"),
    "reshape_middle": act("Reshape", "reshape_param { axis: 1 num_axes: 1 shape { dim: 2 dim: -1 } }"),
    "reshape_insert": act("Reshape", "reshape_param { axis: 1 num_axes: 0 shape { dim: 1 } }"),
    "reshape_batch_away": act("Reshape", "reshape_param { shape { dim: -1 dim: 10 } }"),
    "reshape_fixed_batch": act("Reshape", "reshape_param { shape { dim: 2 dim: 110 dim: 4 } }"),
    "tile": act("Tile", "tile_param { tiles: 3 }"),
    "tile_batch": act("Tile", "tile_param { axis: 0 tiles: 2 }"),
    "tile_last": act("Tile", "tile_param { axis: -1 tiles: 2 }"),
    "crop": IMAGE
    + data(2, 4, 5, 6, name="size")
    + layer("Crop", "x", ("data", "size"), fields="crop_param { axis: 2 offset: 3 offset: 1 }"),
    "crop_one_offset": IMAGE
    + data(2, 3, 5, 6, name="size")
    + layer("Crop", "x", ("data", "size"), fields="crop_param { axis: 1 offset: 1 }"),
    "crop_middle_default": IMAGE + data(2, 4, 5, 6, name="size") + layer("Crop", "x", ("data", "size")),
    "reduction_sum": act("Reduction"),
    "reduction_axis": act("Reduction", "reduction_param { axis: 2 coeff: 0.5 }"),
    "reduction_absolute": act("Reduction", "reduction_param { operation: ASUM axis: 1 }"),
    "reduction_square": act("Reduction", "reduction_param { operation: SUMSQ axis: -1 }"),
    "reduction_mean": act("Reduction", "reduction_param { operation: MEAN axis: 1 coeff: 3 }"),
    "argmax": act("ArgMax"),
    "argmax_top": act("ArgMax", "argmax_param { top_k: 3 }"),
    "argmax_values": act("ArgMax", "argmax_param { top_k: 3 out_max_val: true }"),
    "argmax_axis": act("ArgMax", "argmax_param { axis: 1 }"),
    "argmax_axis_top": act("ArgMax", "argmax_param { axis: -1 top_k: 2 }"),
    "argmax_axis_values": act("ArgMax", "argmax_param { axis: 2 top_k: 2 out_max_val: true }"),
    "argmax_flat": SMALL_BATCH + layer("ArgMax", "x", "data"),
    "argmax_flat_values": SMALL_BATCH + layer("ArgMax", "x", "data", fields="argmax_param { out_max_val: true }"),
    "argmax_five_axes": data(2, 3, 4, 2, 3) + layer("ArgMax", "x", "data", fields="argmax_param { top_k: 2 }"),
    # of equal values the last one: half of them are zero
    "argmax_ties": data(3, 40, 2, 2)
    + layer("Threshold", "t", "data", fields="threshold_param { threshold: 0.4 }")
    + layer("ArgMax", "x", "t", fields="argmax_param { axis: 1 }"),
    "silence": IMAGE + layer("TanH", "x", "data") + layer("AbsVal", "y", "data") + layer("Silence", "s", "y", ()),
    "parameter": IMAGE
    + layer("Parameter", "w", (), "w", "parameter_param { shape { dim: 4 dim: 11 dim: 10 } }")
    + layer("Bias", "x", ("data", "w"), fields="bias_param { axis: 1 }"),
    "parameter_alone": IMAGE
    + relu("x", "data", "x")
    + layer("Parameter", "w", (), "w", "parameter_param { shape { dim: 4 } }"),
    # sequences
    "lstm": LSTM_IN + layer("LSTM", "x", ("data", "cont"), fields="recurrent_param { num_output: 4 }"),
    "lstm_static": LSTM_IN
    + data(3, 2, 2, name="static")
    + layer("LSTM", "x", ("data", "cont", "static"), fields="recurrent_param { num_output: 4 }"),
    "lstm_states": LSTM_IN
    + STATES
    + layer(
        "LSTM",
        "x",
        ("data", "cont", "h0", "c0"),
        ("x", "h", "c"),
        "recurrent_param { num_output: 4 expose_hidden: true }",
    ),
    "lstm_one_step": data(1, 3, 7)
    + layer("Input", "cont", (), "cont", "input_param { shape { dim: 1 dim: 3 } }")
    + layer("LSTM", "x", ("data", "cont"), fields="recurrent_param { num_output: 4 }"),
    "rnn": LSTM_IN + layer("RNN", "x", ("data", "cont"), fields="recurrent_param { num_output: 4 }"),
    "rnn_static_states": LSTM_IN
    + data(3, 6, name="static")
    + data(1, 3, 4, name="h0")
    + layer(
        "RNN",
        "x",
        ("data", "cont", "static", "h0"),
        ("x", "h"),
        "recurrent_param { num_output: 4 expose_hidden: true }",
    ),
    "lstm_unit": data(1, 3, 4)
    + data(1, 3, 16, name="gates")
    + data(1, 3, name="cont")
    + layer("LSTMUnit", "x", ("data", "gates", "cont"), ("c", "h")),
    # names and aliases
    "in_place": IMAGE + conv("x", "data") + relu("r", "x") + layer("Scale", "s", "x", "x"),
    "in_place_on_the_input": IMAGE + relu("r", "data") + conv("x", "data"),
    "input_overwritten_at_the_end": IMAGE + relu("r", "data"),
    "dropout_in_place": IMAGE + conv("x", "data") + layer("Dropout", "d", "x", "x"),
    "names_like_each_other": IMAGE
    + conv("x/Conv", "data")
    + layer("TanH", "x", "x/Conv", "x")
    + relu("data.weight", "x"),
    "odd_names": IMAGE + conv("a b;c $(d) ü", "data") + layer("TanH", "t t", "a b;c $(d) ü", "out 1"),
    "shared_weights": IMAGE
    + conv("one", "data", 4, fields="pad: 1", rest='param { name: "w" } param { name: "b" }')
    + conv("x", "one", 4, fields="pad: 1", rest='param { name: "w" } param { name: "b" }'),
    "header_input": 'name: "n" input: "data" input_shape { dim: 2 dim: 3 dim: 8 dim: 8 }\n' + conv("x", "data"),
    "two_inputs_two_batches": IMAGE + data(5, 3, name="other") + conv("x", "data") + fc("y", "other"),
    "unread_input": IMAGE + data(2, name="label") + conv("x", "data"),
}

POOLS = [
    f"pool: {method} kernel_size: {kernel} stride: {stride} pad: {pad} round_mode: {mode}"
    for method in ("MAX", "AVE")
    for mode in ("CEIL", "FLOOR")
    for kernel, stride, pad in [
        (2, 2, 0),
        (3, 2, 0),
        (3, 2, 1),
        (3, 3, 1),
        (5, 4, 2),
        (2, 1, 0),
        (3, 1, 1),
        (2, 3, 1),
        (4, 3, 3),
        (2, 5, 0),
        (7, 2, 3),
    ]
]


@pytest.mark.parametrize("case", LAYERS)
def test_layer(real: Any, case: str) -> None:
    check(real, Net.parse(LAYERS[case], "net.prototxt"))


@pytest.mark.parametrize("case", LAYERS)
def test_layer_at_a_fixed_batch(real: Any, case: str) -> None:
    made = check(real, Net.parse(LAYERS[case], "net.prototxt"), dynamic=False)
    assert not made.notes


@pytest.mark.parametrize("rounding", [False, True])
@pytest.mark.parametrize("fields", POOLS)
def test_pooling(real: Any, fields: str, rounding: bool) -> None:
    for height, width in ((11, 10), (12, 9), (8, 7)):
        check(real, Net.parse(p(fields, data(2, 2, height, width)), "net.prototxt"), rounding=rounding)


def test_every_translator_was_compared() -> None:
    seen = {one.type for text in LAYERS.values() for one in Net.parse(text, "net.prototxt").layers}
    assert set(TRANSLATORS) | {"Input"} == seen | {"Pooling"}


@pytest.mark.parametrize("opset", [13, 14, 17, 18, 19, 21, 23])
def test_opsets(real: Any, opset: int) -> None:
    if opset > onnx.defs.onnx_opset_version():
        pytest.skip("this onnx is older")
    for case in ("batch_norm_own_statistics", "mvn", "reduction_sum", "reduction_absolute", "slice", "argmax_values"):
        made = check(real, Net.parse(LAYERS[case], "net.prototxt"), opset=opset)
        assert made.model.opset_import[0].version == opset
    check(real, load_net_of("googlenet28"), opset=opset)


BOUND = {
    "scale_whole_batch",
    "slice_batch",
    "inner_product_axis_0",
    "reshape_fixed_batch",
    "lstm",
    "lstm_static",
    "lstm_states",
    "lstm_one_step",
    "rnn",
    "rnn_static_states",
    "lstm_unit",
}


@pytest.mark.parametrize("case", LAYERS)
def test_the_batch_is_open_but_where_the_net_is_bound_to_its_own(case: str) -> None:
    net = Net.parse(LAYERS[case], "net.prototxt")
    net.weights = random_weights(net)
    made = to_onnx(plain(net).net)
    assert (made.batch is not None) == (case in BOUND), made.notes
    assert bool(made.notes) == (case in BOUND)


def load_net_of(name: str, folder: Path | None = None) -> Net:
    net = Net.parse(zoo.build(name).deploy, "deploy.prototxt")
    net.weights = random_weights(net)
    return net


@pytest.mark.parametrize("name", [name for name in zoo.names() if name not in REPEATS])
def test_zoo(real: Any, name: str) -> None:
    made = check(real, load_net_of(name))
    assert made.batch is None


@pytest.mark.parametrize("paper", [False, True])
@pytest.mark.parametrize("name", ["googlenet28", "googlenet64", "alexnet64", "resnet64"])
def test_converted(real: Any, tmp_path: Path, name: str, paper: bool) -> None:
    zoo.write(name, tmp_path / "zoo")
    convert(ConvertOptions(tmp_path / "zoo" / "deploy.prototxt", out=tmp_path / "out", paper=paper))
    check(real, load_net(tmp_path / "out" / "deploy.prototxt"))
