"""Shapes, learnable blobs and memory of every layer type, against real Caffe."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from google.protobuf import text_format

from deeprebirth_caffe import ops
from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.engines.caffe.client import CaffeWorker
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    from measured_caffe import DescribedNet

IMAGE = (2, 6, 8, 9)


@dataclass(frozen=True)
class Case:
    """One layer: its type, the text of its parameters, its inputs' shapes, how many tops it names."""

    type: str
    body: str
    bottoms: tuple[Shape, ...]
    tops: int = 1

    def layer(self, name: str) -> pb.LayerParameter:
        message = text_format.Parse(self.body, pb.LayerParameter())
        message.name = name
        message.type = self.type
        message.bottom.extend(f"{name}_b{index}" for index in range(len(self.bottoms)))
        message.top.extend(f"{name}_t{index}" for index in range(self.tops))
        return message

    def inputs(self, name: str) -> Iterator[pb.LayerParameter]:
        for index, shape in enumerate(self.bottoms):
            blob = f"{name}_b{index}"
            source = pb.LayerParameter(name=f"in_{blob}", type="Input", top=[blob])
            source.input_param.shape.add().dim.extend(shape)
            yield source


def one(type_name: str, body: str, *bottoms: Shape, tops: int = 1) -> Case:
    return Case(type_name, body, bottoms, tops)


def write(path: Path, cases: list[Case]) -> Path:
    net = pb.NetParameter(name="cases")
    for index, case in enumerate(cases):
        net.layer.extend(case.inputs(f"c{index}"))
        net.layer.append(case.layer(f"c{index}"))
    path.write_text(text_format.MessageToString(net))
    return path


def convolutions() -> Iterator[Case]:
    for kernel, stride, pad, size in itertools.product((1, 2, 3, 5), (1, 2, 3), (0, 1, 2), (5, 8)):
        yield one(
            "Convolution",
            f"convolution_param {{ num_output: 4 kernel_size: {kernel} stride: {stride} pad: {pad} }}",
            (1, 3, size, size + 1),
        )
    fields = (
        "kernel_size: 3 kernel_size: 2",
        "kernel_h: 5 kernel_w: 1 pad_h: 2 pad_w: 0",
        "kernel_h: 1 kernel_w: 4 stride_h: 3 stride_w: 2",
        "kernel_size: 3 stride: 1 stride: 2 pad: 0 pad: 3",
        "kernel_size: 3 pad_h: 2",
        "kernel_size: 3 pad: 1 dilation: 2",
        "kernel_size: 2 dilation: 3 dilation: 1 stride: 2",
        "kernel_size: 3 dilation: 0",
        "kernel_size: 3 group: 2",
        "kernel_size: 3 group: 3 bias_term: false num_output: 9",
        "kernel_size: 3 group: 6 num_output: 12 pad: 1",
        "kernel_size: 1 bias_term: false",
        "kernel_size: 10 stride: 3",  # sticks out by less than a stride: C's division gives one output
        "kernel_size: 11 stride: 4 bias_term: false",
        "kernel_size: 3 axis: 2 pad: 1",
        "kernel_size: 3 axis: 3",
        "axis: 3",
        "kernel_size: 1 axis: -3",
        "kernel_size: 3 axis: -2",
        "kernel_size: 3 force_nd_im2col: true",
        "kernel_size: 3 engine: CAFFE",
    )
    for field in fields:
        body = field if "num_output" in field else f"num_output: 4 {field}"
        yield one("Convolution", f"convolution_param {{ {body} }}", IMAGE)
    for field, bottom in (
        ("kernel_size: 3", (2, 4, 7)),
        ("kernel_size: 3 stride: 2 pad: 1", (1, 2, 5, 6, 7)),
        ("kernel_size: 3 kernel_size: 2 kernel_size: 1 dilation: 2", (1, 2, 5, 6, 7)),
        ("kernel_size: 1", (2, 6)),
        ("kernel_size: 2", (1, 2, 3, 4, 5, 6)),
    ):
        yield one("Convolution", f"convolution_param {{ num_output: 4 {field} }}", bottom)
    yield one("Convolution", "convolution_param { num_output: 4 kernel_size: 3 }", IMAGE, IMAGE, tops=2)
    yield one("Convolution", "param { lr_mult: 2 } convolution_param { num_output: 4 kernel_size: 3 }", IMAGE)


def deconvolutions() -> Iterator[Case]:
    for kernel, stride, pad in itertools.product((1, 2, 4), (1, 2, 3), (0, 1)):
        body = f"num_output: 4 kernel_size: {kernel} stride: {stride} pad: {pad}"
        yield one("Deconvolution", f"convolution_param {{ {body} }}", (1, 3, 5, 6))
    for field in (
        "num_output: 6 kernel_size: 4 stride: 2 pad: 1 group: 6 bias_term: false",
        "num_output: 4 kernel_size: 2 stride: 2 group: 2 dilation: 3",
        "num_output: 9 kernel_h: 2 kernel_w: 5 stride_h: 2 stride_w: 3 group: 3",
        "num_output: 2 kernel_size: 3 axis: 2",
    ):
        yield one("Deconvolution", f"convolution_param {{ {field} }}", IMAGE)
    yield one("Deconvolution", "convolution_param { num_output: 3 kernel_size: 2 stride: 2 }", (1, 2, 3, 4, 5))
    yield one("Deconvolution", "convolution_param { num_output: 3 kernel_size: 2 }", IMAGE, IMAGE, tops=2)


def im2cols() -> Iterator[Case]:
    for field in (
        "kernel_size: 3 pad: 1 stride: 2",
        "kernel_size: 3 dilation: 2",
        "kernel_h: 2 kernel_w: 4",
        "kernel_size: 10 stride: 3",
        "kernel_size: 2 axis: 2",
    ):
        yield one("Im2col", f"convolution_param {{ {field} }}", IMAGE)
    yield one("Im2col", "convolution_param { kernel_size: 2 stride: 2 }", (1, 2, 4, 5, 6))


def poolings() -> Iterator[Case]:
    for size, kernel, stride, pad in itertools.product((4, 5, 6, 7, 8), (1, 2, 3), (1, 2, 3), (0, 1, 2)):
        if pad < kernel:
            body = f"kernel_size: {kernel} stride: {stride} pad: {pad}"
            yield one("Pooling", f"pooling_param {{ {body} }}", (1, 2, size, size + 3))
    for size, kernel, stride, pad, mode in itertools.product((5, 8), (2, 3), (2, 3), (0, 1), ("FLOOR", "CEIL")):
        body = f"pool: AVE kernel_size: {kernel} stride: {stride} pad: {pad} round_mode: {mode}"
        yield one("Pooling", f"pooling_param {{ {body} }}", (1, 2, size, size + 1))
    for field in (
        "kernel_size: 1 stride: 2",  # the last window lies wholly outside
        "kernel_size: 1 stride: 2 pool: AVE",
        "kernel_size: 2 stride: 5",
        "kernel_size: 13 stride: 6",  # larger than the input, by less than a stride
        "kernel_size: 3 stride: 2 pad: 2",
        "kernel_size: 2 pad: 1 stride: 7",
        "kernel_h: 3 kernel_w: 1 stride: 2",
        "kernel_h: 2 kernel_w: 5 stride_h: 1 stride_w: 4 pad_h: 0 pad_w: 2",
        "kernel_size: 4 stride: 3 pad_h: 0 pad_w: 1",
        "kernel_size: 4 stride_h: 5 stride_w: 1 pad_h: 3 pad_w: 0",
        "kernel_size: 3 kernel_h: 2",
        "pool: AVE global_pooling: true",
        "pool: MAX global_pooling: true stride: 1 pad: 0",
        "pool: STOCHASTIC kernel_size: 3 stride: 2",
        "pool: AVE kernel_size: 8 kernel_w: 3 engine: CAFFE",
    ):
        yield one("Pooling", f"pooling_param {{ {field} }}", (2, 3, 8, 8))
    yield one("Pooling", "pooling_param { kernel_size: 1 stride: 2 }", (1, 1, 56, 56))
    yield one("Pooling", "pooling_param { kernel_size: 3 stride: 2 }", IMAGE, tops=2)


def pyramids() -> Iterator[Case]:
    for height, size in itertools.product((1, 2, 3, 4), ((16, 16), (13, 15), (40, 31))):
        if height < 4 or min(size) >= 16:  # else too fine
            yield one("SPP", f"spp_param {{ pyramid_height: {height} }}", (2, 6, *size))
    yield one("SPP", "spp_param { pyramid_height: 3 pool: AVE }", (1, 2, 9, 6))
    yield one("SPP", "spp_param { pyramid_height: 2 pool: STOCHASTIC }", (1, 2, 8, 8))


def neurons() -> Iterator[Case]:
    names = ["AbsVal", "BNLL", "Clip", "Dropout", "ELU", "Exp", "Log", "Power", "PReLU", "ReLU", "Sigmoid"]
    names += ["Softmax", "Split", "Swish", "TanH", "Threshold"]
    for name, bottom in itertools.product(names, (IMAGE, (4, 5), (2, 3, 4))):
        yield one(name, "clip_param { min: 0 max: 6 }" if name == "Clip" else "", bottom)
    yield one("ReLU", "", ())
    yield one("ReLU", "loss_weight: 1 propagate_down: true", IMAGE)
    yield one("PReLU", "prelu_param { channel_shared: true }", IMAGE)
    yield one("Exp", "exp_param { base: 2 scale: 3 }", IMAGE)
    yield one("Log", "log_param { base: 10 }", IMAGE)
    yield one("Power", "power_param { power: 2 }", (1,) * 8)
    yield one("Softmax", "softmax_param { axis: -1 }", IMAGE)
    yield one("Split", "", IMAGE, tops=3)


def norms() -> Iterator[Case]:
    for region, size in itertools.product(("ACROSS_CHANNELS", "WITHIN_CHANNEL"), (1, 3, 7)):
        yield one("LRN", f"lrn_param {{ local_size: {size} norm_region: {region} }}", (2, 3, 4, 3))
    for bottom in (IMAGE, (4, 5), (4, 5, 6), (1, 2, 3, 4, 5)):
        yield one("BatchNorm", "", bottom)
    yield one("BatchNorm", "param { lr_mult: 0 } param { lr_mult: 0 }", IMAGE)
    yield one("BatchNorm", "param {} param {} param {}", IMAGE)
    for shape in (IMAGE, (4,), (4, 5), (4, 5, 6)):
        yield one("MVN", "", shape)
    yield one("MVN", "mvn_param { across_channels: true normalize_variance: false }", IMAGE)
    for axis, axes in itertools.product((0, 1, 2, -1, -3), (0, 1, -1)):
        yield one("Scale", f"scale_param {{ axis: {axis} num_axes: {axes} }}", IMAGE)
        yield one("Bias", f"bias_param {{ axis: {axis} num_axes: {axes} }}", IMAGE)
    for field in (
        "bias_term: true",
        "axis: 1 num_axes: 2 bias_term: true",
        "axis: 0 num_axes: 0 bias_term: true",
    ):
        yield one("Scale", f"scale_param {{ {field} }}", IMAGE)
    for axis, operand in ((0, (2, 6)), (1, (6,)), (1, (6, 8, 9)), (-2, (8, 9)), (1, ())):
        yield one("Scale", f"scale_param {{ axis: {axis} }}", IMAGE, operand)
        yield one("Scale", f"scale_param {{ axis: {axis} bias_term: true }}", IMAGE, operand)
        yield one("Bias", f"bias_param {{ axis: {axis} }}", IMAGE, operand)
    yield one("Bias", "bias_param { axis: 7 }", IMAGE, ())


def inners() -> Iterator[Case]:
    for axis, bias, transpose in itertools.product((0, 1, 2, -1), ("true", "false"), ("true", "false")):
        body = f"num_output: 4 axis: {axis} bias_term: {bias} transpose: {transpose}"
        yield one("InnerProduct", f"inner_product_param {{ {body} }}", (2, 3, 4))
    for bottom, bias in itertools.product(((), (3,), (2, 3, 4)), ("true", "false")):
        yield one("Embed", f"embed_param {{ num_output: 4 input_dim: 9 bias_term: {bias} }}", bottom)


def joins() -> Iterator[Case]:
    for axis in (0, 1, 2, 3, -1, -4):
        bottoms = [tuple(n + i * (place == axis % 4) for place, n in enumerate(IMAGE)) for i in range(3)]
        yield one("Concat", f"concat_param {{ axis: {axis} }}", *bottoms)
    yield one("Concat", "concat_param { concat_dim: 2 }", IMAGE, (2, 6, 1, 9))
    yield one("Concat", "", IMAGE)
    yield one("Concat", "", (2, 3), (2, 5))
    yield one("Slice", "", IMAGE, tops=3)
    yield one("Slice", "", IMAGE)
    yield one("Slice", "slice_param { slice_dim: 2 }", IMAGE, tops=4)
    yield one("Slice", "slice_param { axis: -1 }", IMAGE, tops=3)
    yield one("Slice", "slice_param { slice_point: 1 }", IMAGE, tops=2)
    yield one("Slice", "slice_param { slice_point: 2 slice_point: 5 }", IMAGE, tops=3)
    yield one("Slice", "slice_param { axis: 2 slice_point: 1 slice_point: 2 slice_point: 7 }", IMAGE, tops=4)
    for operation, inputs in itertools.product(("PROD", "SUM", "MAX"), (2, 3)):
        yield one("Eltwise", f"eltwise_param {{ operation: {operation} }}", *[IMAGE] * inputs)
    yield one("Eltwise", "eltwise_param { coeff: 1 coeff: -1 }", (3, 4), (3, 4))
    yield one("Crop", "", IMAGE, (1, 1, 3, 4))
    for axis, offsets in (
        (1, "offset: 1"),
        (-1, "offset: 1"),
        (2, "offset: 1 offset: 5"),
        (0, ""),
        (3, "offset: 5"),
    ):
        yield one("Crop", f"crop_param {{ axis: {axis} {offsets} }}", IMAGE, (1, 1, 3, 4))
    yield one("Crop", "", IMAGE, (1, 1, 3, 4, 5))
    yield one("Silence", "", IMAGE, (3,), tops=0)
    yield one("BatchReindex", "", IMAGE, (7,))
    yield one("BatchReindex", "", (), (3,))
    yield one("Filter", "", IMAGE, (2, 3), (2,), tops=2)
    yield one("Filter", "", IMAGE, (2, 1), tops=1)


def reshapes() -> Iterator[Case]:
    for axis, end in itertools.product((0, 1, 2, -1), (1, 2, 3, -1)):
        if axis % 4 <= end % 4 + 1:  # one behind the end is let through, and adds an axis of 1
            yield one("Flatten", f"flatten_param {{ axis: {axis} end_axis: {end} }}", IMAGE)
    for dims, extra in (
        ((0, -1), ""),
        ((0, 0, -1), ""),
        ((-1,), ""),
        ((-1, 9, 1), ""),
        ((0, 6, 72), ""),
        ((2, 1, -1, 0), ""),
        ((3, -1), "axis: 1 num_axes: 1"),
        ((0, 2, -1), "axis: 1 num_axes: 2"),
        ((1,), "axis: -1 num_axes: 0"),
        ((1, 1), "axis: 0 num_axes: 0"),
        ((1,), "axis: 1 num_axes: 0"),
        ((72,), "axis: 2"),
        ((-1,), "axis: -3 num_axes: 2"),
        ((), "axis: 1 num_axes: 0"),
    ):
        body = " ".join(f"dim: {dim}" for dim in dims)
        yield one("Reshape", f"reshape_param {{ shape {{ {body} }} {extra} }}", IMAGE)
    yield one("Reshape", "", ())
    for axis, tiles in itertools.product((0, 1, -1), (1, 3)):
        yield one("Tile", f"tile_param {{ axis: {axis} tiles: {tiles} }}", IMAGE)
    for axis, operation in itertools.product((0, 1, 3, -2), ("SUM", "ASUM", "SUMSQ", "MEAN")):
        yield one("Reduction", f"reduction_param {{ axis: {axis} operation: {operation} }}", IMAGE)
    for field, bottom in itertools.product(
        ("", "top_k: 3", "out_max_val: true top_k: 2", "axis: 1 top_k: 2", "axis: -1 out_max_val: true"),
        (IMAGE, (4, 5), (1, 3, 4, 5, 6)),
    ):
        yield one("ArgMax", f"argmax_param {{ {field} }}", bottom)
    yield one("ArgMax", "", (4,))


def losses() -> Iterator[Case]:
    for name, body, *bottoms in (
        ("SoftmaxWithLoss", "", (4, 5), (4,)),
        ("SoftmaxWithLoss", "", (4, 5), (4, 1, 1, 1)),
        ("SoftmaxWithLoss", "softmax_param { axis: 2 }", IMAGE, (2, 6, 9)),
        ("SoftmaxWithLoss", "loss_weight: 0.3 loss_param { ignore_label: 0 }", IMAGE, (2, 8, 9)),
        ("InfogainLoss", "", (4, 5), (4,), (5, 5)),
        ("InfogainLoss", "infogain_loss_param { axis: -1 }", (4, 3, 5), (4, 3), (25,)),
        ("EuclideanLoss", "", (4, 5), (4, 5, 1)),
        ("EuclideanLoss", "", (4,), (4,)),
        ("SigmoidCrossEntropyLoss", "", (4, 5), (4, 1, 5)),
        ("HingeLoss", "hinge_loss_param { norm: L2 }", (4, 5), (4,)),
        ("MultinomialLogisticLoss", "", (4, 5), (4,)),
        ("ContrastiveLoss", "", (4, 5), (4, 5, 1), (4,)),
    ):
        for tops in (0, 1):
            yield one(name, body, *bottoms, tops=tops)
    yield one("InfogainLoss", "loss_weight: 1 loss_weight: 0", (4, 5), (4,), (5, 5), tops=2)
    for tops in (1, 2):
        yield one("Accuracy", "", (4, 5), (4,), tops=tops)
        yield one("Accuracy", "accuracy_param { axis: -1 top_k: 3 }", (4, 5, 6), (4, 5), tops=tops)
        yield one("Accuracy", "accuracy_param { ignore_label: 1 }", IMAGE, (2, 1, 8, 9), tops=tops)


def recurrents() -> Iterator[Case]:
    x, cont = (3, 2, 7), (3, 2)
    for name, states in (("LSTM", 2), ("RNN", 1)):
        hidden = [(1, 2, 5)] * states
        for static in ([], [(2, 4)], [(2, 4, 3)]):
            yield one(name, "recurrent_param { num_output: 5 }", x, cont, *static)
            body = "recurrent_param { num_output: 5 expose_hidden: true }"
            yield one(name, body, x, cont, *static, *hidden, tops=1 + states)
        yield one(name, "recurrent_param { num_output: 5 }", (1, 1, 4, 3), (1, 1))
    yield one("LSTMUnit", "", (1, 2, 5), (1, 2, 20), (1, 2), tops=2)


def sources() -> Iterator[Case]:
    shapes = "shape { dim: 3 } shape { dim: 4 dim: 5 }"
    for name, field in (("Input", "input_param"), ("DummyData", "dummy_data_param")):
        yield one(name, f"{field} {{ {shapes} }}", tops=2)
        yield one(name, f"{field} {{ shape {{ dim: 3 dim: 1 }} }}", tops=3)
        yield one(name, f"{field} {{ shape {{ }} }}")
    yield one("DummyData", "dummy_data_param { num: 2 num: 3 channels: 3 height: 4 width: 5 width: 6 }", tops=2)
    yield one("DummyData", "dummy_data_param { num: 2 channels: 3 height: 4 width: 5 }")
    memory = "memory_data_param { batch_size: 2 channels: 3 height: 4 width: 5 }"
    yield one("MemoryData", memory, tops=2)
    yield one("MemoryData", f"{memory} transform_param {{ crop_size: 2 }}", tops=2)
    yield one("Parameter", "parameter_param { shape { dim: 3 dim: 4 } }")
    yield one("Parameter", "")


GRIDS = (
    convolutions,
    deconvolutions,
    im2cols,
    poolings,
    pyramids,
    neurons,
    norms,
    inners,
    joins,
    reshapes,
    losses,
    recurrents,
    sources,
)
CASES = [case for grid in GRIDS for case in grid()]
WITH_FILES = {"Data", "ImageData", "WindowData", "HDF5Data", "HDF5Output"}


def predicted(case: Case, name: str, datum: ops.Datum | None = None) -> tuple[list[Shape], list[Shape]]:
    layer, found = case.layer(name), ops.op(case.type)
    assert found is not None
    try:
        tops = found.shapes(layer, case.bottoms, datum=datum)
    except ops.UnknownShape as error:
        tops = error.at_load or []
    return tops, found.params(layer, case.bottoms)


def compare(cases: list[Case], net: DescribedNet, datum: ops.Datum | None = None) -> None:
    wrong: list[str] = []
    memory = 0
    for index, case in enumerate(cases):
        name = f"c{index}"
        tops, params = predicted(case, name, datum)
        real_tops = [net.blobs[f"{name}_t{place}"] for place in range(case.tops)]
        real_params = list(net.params.get(name, ()))
        if (tops, params) != (real_tops, real_params):
            wrong.append(f"{case}: {tops} {params}, Caffe has {real_tops} {real_params}")
        found = ops.op(case.type)
        assert found is not None
        memory += ops.total_bytes([*case.bottoms, *tops]) + 4 * found.auto_tops(case.layer(name))
    assert not wrong, "\n".join(wrong)
    assert net.memory_required_for_data in (None, memory)


def test_the_grid_is_large() -> None:
    assert len(CASES) >= 400
    assert len(set(CASES)) == len(CASES)


def test_every_type_is_known_and_tried(caffe: CaffeWorker) -> None:
    real = set(caffe.info()["layer_types"])
    assert {entry.type for entry in ops.all_ops()} == real
    assert {case.type for case in CASES} | WITH_FILES | {"Python"} == real


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
@pytest.mark.parametrize("type_name", sorted({case.type for case in CASES}))
def test_shapes_and_params(caffe: CaffeWorker, tmp_path: Path, type_name: str, phase: str) -> None:
    cases = [case for case in CASES if case.type == type_name]
    net = caffe.load(write(tmp_path / "net.prototxt", cases), phase)
    try:
        compare(cases, net)
    finally:
        caffe.close(net)


BASE = (1, 3, 9, 9)
ABORTS = [
    one("Convolution", "convolution_param { num_output: 4 kernel_size: 12 }", BASE),
    one("Convolution", "convolution_param { num_output: 4 kernel_size: 10 }", BASE),  # an output of 0 x 0
    one("Convolution", "convolution_param { num_output: 4 kernel_size: 3 group: 2 }", BASE),
    one("Pooling", "pooling_param { kernel_size: 3 pad: 3 }", BASE),
    one("Concat", "", BASE, (1, 3, 9, 8)),
    one("Eltwise", "", BASE, (1, 3, 9, 8)),
    one("Reshape", "reshape_param { shape { dim: 5 dim: -1 } }", BASE),
    one("BatchNorm", "param { lr_mult: 1 }", BASE),
    one("SPP", "spp_param { pyramid_height: 3 }", (2, 6, 5, 11)),
    one("SoftmaxWithLoss", "loss_weight: 1 loss_weight: 0", (4, 5), (4,), tops=2),
]


@pytest.mark.parametrize("case", ABORTS, ids=lambda case: case.type)
def test_what_caffe_aborts_on_is_an_error(caffe: CaffeWorker, tmp_path: Path, case: Case) -> None:
    found = ops.op(case.type)
    assert found is not None
    with pytest.raises(ops.ShapeError, match='layer "c0"'):
        found.shapes(case.layer("c0"), case.bottoms)
    path = write(tmp_path / "net.prototxt", [case])
    with CaffeWorker(caffe.install) as worker, pytest.raises(EngineError) as caught:
        worker.load(path, "TEST")
    assert caught.value.fatal


def records(folder: Path, shape: Shape, encoded: bool = False) -> Path:
    lmdb = pytest.importorskip("lmdb")
    path = folder / "records"
    with lmdb.open(str(path), map_size=1 << 20) as store, store.begin(write=True) as batch:
        size = shape[0] * shape[1] * shape[2]
        datum = pb.Datum(channels=shape[0], height=shape[1], width=shape[2], data=bytes(size), label=1)
        if encoded:
            datum = pb.Datum(data=picture(folder, shape).read_bytes(), label=1, encoded=True)
        batch.put(b"0", datum.SerializeToString())
    return path


def picture(folder: Path, shape: Shape) -> Path:
    cv2 = pytest.importorskip("cv2")
    path = folder / "picture.png"
    cv2.imwrite(str(path), np.zeros((*shape[1:], shape[0]), np.uint8))
    return path


@pytest.mark.parametrize(
    "body",
    ["", "transform_param { crop_size: 4 }", "transform_param { crop_size: 5 mean_value: 1 mirror: true }"],
)
@pytest.mark.parametrize("tops", [1, 2])
@pytest.mark.parametrize("channels", [3, 5])
def test_data(caffe: CaffeWorker, tmp_path: Path, body: str, tops: int, channels: int) -> None:
    shape = (channels, 6, 7)
    source = f'data_param {{ source: "{records(tmp_path, shape)}" backend: LMDB batch_size: 4 }}'
    cases = [one("Data", f"{source} {body}", tops=tops)]
    net = caffe.load(write(tmp_path / "net.prototxt", cases), "TEST")
    compare(cases, net, shape)
    caffe.close(net)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("force", ["", "force_color: true", "force_gray: true"])
def test_encoded_data(caffe: CaffeWorker, tmp_path: Path, channels: int, force: str) -> None:
    shape = (channels, 6, 7)
    source = f'data_param {{ source: "{records(tmp_path, shape, encoded=True)}" backend: LMDB batch_size: 4 }}'
    cases = [one("Data", f"{source} transform_param {{ {force} }}", tops=2)]
    net = caffe.load(write(tmp_path / "net.prototxt", cases), "TEST")
    compare(cases, net, shape)
    caffe.close(net)


@pytest.mark.parametrize("body", ["", "is_color: false", "new_height: 9 new_width: 8"])
@pytest.mark.parametrize("crop", ["", "transform_param { crop_size: 4 }"])
def test_image_data(caffe: CaffeWorker, tmp_path: Path, body: str, crop: str) -> None:
    shape = (3, 6, 7)
    (tmp_path / "list.txt").write_text(f"{picture(tmp_path, shape)} 1\n")
    source = f'source: "{tmp_path / "list.txt"}" batch_size: 2'
    cases = [one("ImageData", f"image_data_param {{ {source} {body} }} {crop}", tops=2)]
    net = caffe.load(write(tmp_path / "net.prototxt", cases), "TEST")
    compare(cases, net, shape)
    caffe.close(net)


def test_window_data(caffe: CaffeWorker, tmp_path: Path) -> None:
    path = picture(tmp_path, (3, 20, 30))
    windows = "1 0.9 0 0 5 5\n1 0.1 2 2 9 9\n"
    (tmp_path / "windows.txt").write_text(f"# 0\n{path}\n3\n20\n30\n2\n{windows}")
    body = f'window_data_param {{ source: "{tmp_path / "windows.txt"}" batch_size: 4 }}'
    cases = [one("WindowData", f"{body} transform_param {{ crop_size: 5 }}", tops=2)]
    net = caffe.load(write(tmp_path / "net.prototxt", cases), "TEST")
    compare(cases, net, (3, 20, 30))
    caffe.close(net)


def test_hdf5(caffe: CaffeWorker, tmp_path: Path) -> None:
    stored = tmp_path / "stored.h5"
    writer = [one("HDF5Output", f'hdf5_output_param {{ file_name: "{stored}" }}', (3, 2, 4, 5), (3, 1, 1, 6), tops=0)]
    net = caffe.load(write(tmp_path / "write.prototxt", writer), "TEST")
    compare(writer, net)
    caffe.forward(net)
    caffe.close(net)  # the file is complete once its layer is gone
    (tmp_path / "list.txt").write_text(f"{stored}\n")
    text = f'hdf5_data_param {{ source: "{tmp_path / "list.txt"}" batch_size: 7 }}'
    (tmp_path / "read.prototxt").write_text(f'layer {{ name: "c0" type: "HDF5Data" top: "data" top: "label" {text} }}')
    net = caffe.load(tmp_path / "read.prototxt", "TEST")
    layer = text_format.Parse(f'name: "c0" top: "data" top: "label" {text}', pb.LayerParameter())
    found = ops.op("HDF5Data")
    assert found is not None
    shapes = found.shapes(layer, [], datum={"data": (2, 4, 5), "label": (1, 1, 6)})
    assert shapes == [net.blobs["data"], net.blobs["label"]]
    caffe.close(net)


def test_infogain_from_a_file(caffe: CaffeWorker, tmp_path: Path) -> None:
    matrix = pb.BlobProto(num=1, channels=1, height=5, width=5, data=[1.0] * 25)
    (tmp_path / "matrix.binaryproto").write_bytes(matrix.SerializeToString())
    body = f'infogain_loss_param {{ source: "{tmp_path / "matrix.binaryproto"}" }}'
    cases = [one("InfogainLoss", body, (4, 5), (4,))]
    net = caffe.load(write(tmp_path / "net.prototxt", cases), "TEST")
    compare(cases, net)
    caffe.close(net)
