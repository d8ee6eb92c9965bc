"""The cases on which the embedded engine is held against real Caffe: every layer type over its parameters."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf import text_format
from numpy.typing import NDArray

from deeprebirth_caffe.ops import pool_geometry
from deeprebirth_caffe.proto import caffe_pb2 as pb

Shape = tuple[int, ...]
Array = NDArray[np.float32]
IMAGE = (2, 6, 8, 9)
SMALL = (2, 3, 4, 5)


@dataclass(frozen=True)
class Case:
    """One layer, its inputs, and how to try it.

    Attributes:
        type: its type.
        body: the text of its parameters.
        bottoms: the shapes of its inputs.
        values: what each input is filled with (see `fill`); missing ones are normal.
        tops: how many tops it names.
        phase: TRAIN or TEST.
        way: how gradients come: "force" (force_backward, a random gradient on each top), "loss" (inputs that learn, and
            a loss behind its first top, for what Caffe cannot do under force_backward), "none" (forward only).
        weights: what its blobs are filled with.
        in_place: whether it works in place, on a copy of its first input.
        passes: how many times it runs, on new values each time.
    """

    type: str
    body: str
    bottoms: tuple[Shape, ...]
    values: tuple[str, ...] = ()
    tops: int = 1
    phase: str = "TRAIN"
    way: str = "force"
    weights: str = "normal"
    in_place: bool = False
    passes: int = 1

    @property
    def inputs(self) -> list[str]:
        """The blobs that the layer's inputs come from."""
        return [f"x{index}" for index in range(len(self.bottoms))]

    @property
    def takes(self) -> list[str]:
        """The tops whose gradients count: Caffe ignores those of a pooling's mask and of states that are given out."""
        fixed = self.type in ("Input", "DummyData")
        if self.way != "force" or self.type.endswith("Loss") or fixed:
            return []
        return self.outputs[:1] if self.type in ("Pooling", "LSTM", "RNN") else self.outputs

    @property
    def outputs(self) -> list[str]:
        """The layer's tops."""
        return ["y0"] if self.in_place else [f"y{index}" for index in range(self.tops)]

    def value(self, index: int) -> str:
        """What an input is filled with."""
        return self.values[index] if index < len(self.values) else "normal"

    def learns(self, index: int) -> bool:
        """Whether an input is a learnable blob rather than one that is given."""
        return self.way == "loss" and self.value(index) in ("normal", "positive", "scores", "far", "ties")

    def net(self, relu: bool = False) -> str:
        """The net around the layer; with a ReLU that works in place on its first top, if wanted."""
        net = pb.NetParameter(name="case", force_backward=self.way == "force")
        for index, (name, shape) in enumerate(zip(self.inputs, self.bottoms, strict=True)):
            kind = "Parameter" if self.learns(index) else "Input"
            source = net.layer.add(name=name, type=kind, top=[name])
            dims = source.parameter_param.shape if kind == "Parameter" else source.input_param.shape.add()
            dims.dim.extend(shape)
        if self.in_place:
            net.layer.add(name="copy", type="Power", bottom=["x0"], top=["y0"])
        layer = net.layer.add()
        text_format.Parse(self.body, layer)
        layer.name, layer.type = "case", self.type
        layer.bottom.extend(["y0", *self.inputs[1:]] if self.in_place else self.inputs)
        layer.top.extend(self.outputs)
        if relu:
            net.layer.add(name="relu", type="ReLU", bottom=["y0"], top=["y0"])
        if self.way == "loss" and self.outputs and not self.type.endswith("Loss"):
            squares = net.layer.add(name="squares", type="Power", bottom=["y0"], top=["squares"])
            squares.power_param.power, squares.power_param.shift = 2, 1
            squares.loss_weight.append(0.5)
        return text_format.MessageToString(net)


def fill(kind: str, shape: Shape, rng: np.random.Generator) -> Array:
    """Random values of some kind.

    normal; positive; unit (between 0 and 1); scores (rows of chances); far (normal, but large); classes:N (class
    numbers); some:N:I (class numbers, every third one I); flags (0 or 1, the first 1); starts (0 or 1, the first 0);
    parts (0, 0.5 or 1); ties (small whole numbers); odd (NaN, infinities and zeros among normal ones); gaps (NaN and
    zeros among normal ones); zeros.
    """
    name, *rest = kind.split(":")
    size = int(np.prod(shape))

    def every_third(values: NDArray[Any]) -> NDArray[Any]:
        values.reshape(-1)[::3] = int(rest[1])
        return values

    def strange(*numbers: float) -> NDArray[Any]:
        values = rng.standard_normal(size)
        values[1 : 1 + len(numbers)] = numbers
        return values.reshape(shape)

    def marked(first: int) -> NDArray[Any]:
        values = rng.integers(0, 2, size)
        values[:1] = first
        return values.reshape(shape)

    def scores() -> NDArray[Any]:
        values = np.exp(rng.standard_normal(shape))
        return values / values.sum(axis=1, keepdims=True)

    ways: dict[str, Callable[[], Any]] = {
        "normal": lambda: rng.standard_normal(shape),
        "positive": lambda: rng.uniform(0.5, 2, shape),
        "unit": lambda: rng.uniform(0.05, 0.95, shape),
        "scores": scores,
        "far": lambda: 12 * rng.standard_normal(shape),
        "classes": lambda: rng.integers(0, int(rest[0]), shape),
        "some": lambda: every_third(rng.integers(0, int(rest[0]), shape)),
        "flags": lambda: marked(1),
        "starts": lambda: marked(0),
        "parts": lambda: rng.integers(0, 3, shape) / 2,
        "ties": lambda: rng.integers(-2, 3, shape),
        "odd": lambda: strange(np.nan, np.inf, -np.inf, 0, -0.0, 60, -60, 1e-30),
        "gaps": lambda: strange(np.nan, 0, -0.0, 60, -60, 1e-30),
        "zeros": lambda: np.zeros(shape),
    }
    return np.asarray(ways[name](), dtype=np.float32)


def one(kind: str, body: str, *bottoms: Shape, **more: Any) -> Case:
    """A case; see `Case` for what else may be said."""
    return Case(kind, body, bottoms, **more)


def param(kind: str, fields: str) -> str:
    """The text of a layer's own parameter message."""
    return f"{kind}_param {{ {fields} }}" if fields else ""


# ---------------------------------------------------------------- windows


def convolutions() -> Iterator[Case]:
    for kernel, stride, pad, dilation in itertools.product((1, 2, 3), (1, 2), (0, 1), (1, 2)):
        fields = f"num_output: 4 kernel_size: {kernel} stride: {stride} pad: {pad} dilation: {dilation}"
        yield one("Convolution", param("convolution", fields), (2, 3, 7, 6))
    for fields in (
        "kernel_h: 5 kernel_w: 1 pad_h: 2 pad_w: 0",
        "kernel_h: 1 kernel_w: 4 stride_h: 3 stride_w: 2",
        "kernel_size: 3 stride: 1 stride: 2 pad: 0 pad: 3",
        "kernel_size: 2 dilation: 3 dilation: 1 stride: 2",
        "kernel_size: 3 group: 2",
        "kernel_size: 3 group: 3 bias_term: false num_output: 9",
        "kernel_size: 3 group: 6 num_output: 12 pad: 1",
        "kernel_size: 3 group: 6 num_output: 6 pad: 1 stride: 2",
        "kernel_size: 1 bias_term: false",
        "kernel_size: 1 stride: 2",
        "kernel_size: 10 stride: 3",  # sticks out by less than a stride: C's division gives one output
        "kernel_size: 9 stride: 4 pad: 0",
        "kernel_size: 3 axis: 2 pad: 1",
        "kernel_size: 3 axis: 3",
        "axis: 3",
        "kernel_size: 3 axis: -2",
        "kernel_size: 3 force_nd_im2col: true",
        "kernel_size: 7 stride: 2 pad: 3",
        "kernel_size: 3 pad: 4",
    ):
        body = fields if "num_output" in fields else f"num_output: 4 {fields}"
        yield one("Convolution", param("convolution", body), IMAGE)
    # These are strided by us.
    for channels in (2, 3, 4, 6, 7):
        for fields in ("stride: 2", "stride_h: 3 stride_w: 1 pad: 1"):
            body = f"num_output: 12 kernel_size: 1 bias_term: false {fields}"
            yield one("Convolution", param("convolution", body), (4, channels, 13, 12))
    for fields, bottom in (
        ("kernel_size: 3", (2, 4, 7)),
        ("kernel_size: 3 stride: 2 pad: 1", (1, 2, 5, 6, 7)),
        ("kernel_size: 3 kernel_size: 2 kernel_size: 1 dilation: 2", (1, 2, 5, 6, 7)),
        ("kernel_size: 1", (2, 6)),
        ("kernel_size: 2", (1, 2, 3, 4, 3, 3)),
    ):
        yield one("Convolution", param("convolution", f"num_output: 4 {fields}"), bottom)
    yield one("Convolution", param("convolution", "num_output: 4 kernel_size: 3"), IMAGE, IMAGE, tops=2)
    yield one("Convolution", "param { lr_mult: 0 } convolution_param { num_output: 4 kernel_size: 3 }", IMAGE)
    yield one("Convolution", param("convolution", "num_output: 5 kernel_size: 3"), SMALL, way="loss")


def deconvolutions() -> Iterator[Case]:
    for kernel, stride, pad in itertools.product((1, 2, 4), (1, 2, 3), (0, 1)):
        fields = f"num_output: 4 kernel_size: {kernel} stride: {stride} pad: {pad}"
        yield one("Deconvolution", param("convolution", fields), (1, 3, 5, 6))
    for fields in (
        "num_output: 6 kernel_size: 4 stride: 2 pad: 1 group: 6 bias_term: false",
        "num_output: 4 kernel_size: 2 stride: 2 group: 2 dilation: 3",
        "num_output: 9 kernel_h: 2 kernel_w: 5 stride_h: 2 stride_w: 3 group: 3",
        "num_output: 2 kernel_size: 3 axis: 2",
        "num_output: 2 kernel_size: 3 pad: 3 stride: 2",
    ):
        yield one("Deconvolution", param("convolution", fields), IMAGE)
    yield one("Deconvolution", param("convolution", "num_output: 3 kernel_size: 2 stride: 2"), (1, 2, 3, 4, 5))
    yield one("Deconvolution", param("convolution", "num_output: 3 kernel_size: 2"), SMALL, SMALL, tops=2)


def im2cols() -> Iterator[Case]:
    for kernel, stride, pad, dilation in itertools.product((1, 3), (1, 2), (0, 1), (1, 2)):
        fields = f"kernel_size: {kernel} stride: {stride} pad: {pad} dilation: {dilation}"
        yield one("Im2col", param("convolution", fields), (2, 3, 7, 6))
    for fields in ("kernel_h: 2 kernel_w: 4", "kernel_size: 10 stride: 3", "kernel_size: 2 axis: 2", "kernel_size: 9"):
        yield one("Im2col", param("convolution", fields), (1, 6, 9, 10))
    yield one("Im2col", param("convolution", "kernel_size: 2 stride: 2"), (1, 2, 4, 5, 6))
    yield one("Im2col", param("convolution", "kernel_size: 2 stride: 2 pad: 1 dilation: 2"), (2, 2, 7))


def pooling(mode: str, fields: str, bottom: Shape) -> Case:
    """A pooling; forward only where a maximum is taken of nothing, for which Caffe writes beyond its memory."""
    text = param("pooling", f"pool: {mode} {fields}")
    window = pool_geometry(text_format.Parse(text, pb.LayerParameter()), bottom)
    starts = ((n - 1) * s - p for n, s, p in zip(window.output(bottom[2:]), window.stride, window.pad, strict=True))
    outside = any(start >= size for start, size in zip(starts, bottom[2:], strict=True))
    return one("Pooling", text, bottom, way="none" if outside and mode == "MAX" else "force")


def poolings() -> Iterator[Case]:
    for mode, size, kernel, stride, pad in itertools.product(("MAX", "AVE"), (5, 6, 8), (1, 2, 3), (1, 2, 3), (0, 1)):
        if pad < kernel:
            yield pooling(mode, f"kernel_size: {kernel} stride: {stride} pad: {pad}", (1, 2, size, size + 3))
    for mode, size, kernel, pad in itertools.product(("MAX", "AVE"), (5, 8), (2, 3), (0, 1)):
        fields = f"kernel_size: {kernel} stride: 2 pad: {pad} round_mode: FLOOR"
        yield pooling(mode, fields, (1, 2, size, size + 1))
    for mode, fields in itertools.product(
        ("MAX", "AVE"),
        (
            "kernel_size: 2 stride: 5",
            "kernel_size: 13 stride: 6",  # larger than the input, by less than a stride
            "kernel_size: 3 stride: 2 pad: 2",
            "kernel_size: 2 pad: 1 stride: 7",
            "kernel_h: 3 kernel_w: 1 stride: 2",
            "kernel_h: 2 kernel_w: 5 stride_h: 1 stride_w: 4 pad_h: 0 pad_w: 2",
            "kernel_size: 4 stride: 3 pad_h: 0 pad_w: 1",
            "kernel_size: 4 stride_h: 5 stride_w: 1 pad_h: 3 pad_w: 0",
            "kernel_size: 5 pad: 4 stride: 3",
            "global_pooling: true",
        ),
    ):
        yield pooling(mode, fields, (2, 3, 8, 8))
    yield one("Pooling", param("pooling", "kernel_size: 3 stride: 2"), IMAGE, tops=2)
    yield one("Pooling", param("pooling", "kernel_size: 3 stride: 2 pad: 1"), IMAGE, tops=2)
    for fields, way in itertools.product(
        (
            "kernel_size: 3 stride: 2",
            "kernel_size: 3 pad: 1",
            "kernel_size: 2 stride: 2 pad: 1",
            "global_pooling: true",
        ),
        ("force", "loss"),
    ):
        yield one("Pooling", param("pooling", fields), IMAGE, values=("ties",), way=way)


def pyramids() -> Iterator[Case]:
    for mode, height, size in itertools.product(("MAX", "AVE"), (1, 2, 3), ((16, 16), (13, 15), (9, 10))):
        yield one("SPP", param("spp", f"pyramid_height: {height} pool: {mode}"), (2, 3, *size))


# ---------------------------------------------------------------- element by element


def neurons() -> Iterator[Case]:
    plain = ("BNLL", "Clip", "ELU", "PReLU", "ReLU", "Sigmoid", "Swish", "TanH", "AbsVal")
    bodies = {"Clip": param("clip", "min: -0.7 max: 0.4")}
    for name, bottom in itertools.product(plain, (SMALL, (4, 5), (2, 3, 4), (2, 3, 2, 2, 2))):
        if name != "PReLU" or len(bottom) <= 4:
            yield one(name, bodies.get(name, ""), bottom)
    for name, values in itertools.product(plain, ("far", "ties", "odd")):
        if name != "ReLU" or values != "odd":  # Caffe makes NaN of minus infinity, by 0 times that
            yield one(name, bodies.get(name, ""), SMALL, values=(values,))
    yield one("ReLU", "", SMALL, values=("gaps",), way="none")
    for name in (*plain[:-1], "Exp", "Power"):
        yield one(name, bodies.get(name, ""), SMALL, in_place=True)
    yield one("Log", "", SMALL, in_place=True, values=("positive",))
    for fields in ("min: 0 max: 6", "min: -1 max: -0.2", "min: 0.5 max: 0.5"):
        yield one("Clip", param("clip", fields), SMALL)
    for alpha in (0, 0.3, 2, -1):
        yield one("ELU", param("elu", f"alpha: {alpha}"), SMALL)
    yield one("ELU", param("elu", "alpha: 0.3"), SMALL, in_place=True)
    for slope in (0, 0.1, -0.3, 1.5):
        yield one("ReLU", param("relu", f"negative_slope: {slope}"), SMALL)
    yield one("ReLU", param("relu", "negative_slope: 0.1"), SMALL, in_place=True)
    for shape in (SMALL, (4, 5), (3, 2, 4)):
        yield one("PReLU", param("prelu", "channel_shared: true"), shape)
    yield one("PReLU", param("prelu", "channel_shared: true"), SMALL, in_place=True)
    for beta in (0, 0.5, 2, -1):
        yield one("Swish", param("swish", f"beta: {beta}"), SMALL)
    yield one("Swish", param("swish", "beta: 2"), SMALL, in_place=True)
    for limit in ("", "threshold: 0.3", "threshold: -1"):
        yield one("Threshold", param("threshold", limit), SMALL, way="none")
    yield one("Threshold", param("threshold", "threshold: 1"), SMALL, values=("ties",), way="none", in_place=True)


def functions() -> Iterator[Case]:
    for base, scale, shift in itertools.product((-1, 2, 0.5), (1, 0.7), (0, 0.3)):
        fields = f"base: {base} scale: {scale} shift: {shift}"
        yield one("Exp", param("exp", fields), SMALL)
        yield one("Log", param("log", fields), SMALL, values=("positive",))
    yield one("Exp", param("exp", "scale: -1"), (3,), values=("far",))
    yield one("Exp", "", SMALL, values=("odd",))
    yield one("Log", "", SMALL, values=("odd",))
    yield one("Log", param("log", "base: 10"), (4, 5), values=("positive",))
    for power, scale, shift in itertools.product((0, 1, 2, 3, 0.5, -1), (1, 0.5), (0, 0.4)):
        fields = f"power: {power} scale: {scale} shift: {shift}"
        yield one("Power", param("power", fields), SMALL, values=("positive",))
    for fields in ("scale: 0 shift: 2 power: 3", "scale: 0", "power: 2 shift: 1", "power: 3", "scale: -2"):
        yield one("Power", param("power", fields), SMALL)
    for fields in ("", "power: 2", "power: 3", "power: 0.5", "power: -1", "power: 0"):
        values = ("gaps" if "0.5" in fields else "odd",)  # C's root of minus infinity is infinite
        yield one("Power", param("power", fields), SMALL, values=values)
    for fields in ("power: 2 scale: 0.5 shift: 1", "power: 3", "scale: 3 shift: 1", "power: 3 shift: 2", "scale: 0"):
        yield one("Power", param("power", fields), SMALL, values=("positive",), in_place=True)


# ---------------------------------------------------------------- normalisation, scaling, products


def norms() -> Iterator[Case]:
    for size, alpha, beta, k in itertools.product((1, 3, 5), (1, 0.1), (0.75, 0.5), (1, 2)):
        fields = f"local_size: {size} alpha: {alpha} beta: {beta} k: {k}"
        yield one("LRN", param("lrn", fields), IMAGE)
    for size, alpha, beta in itertools.product((1, 3, 5), (1, 0.1), (0.75, 2)):
        fields = f"local_size: {size} alpha: {alpha} beta: {beta} norm_region: WITHIN_CHANNEL"
        yield one("LRN", param("lrn", fields), IMAGE)
    yield one("LRN", param("lrn", "local_size: 9"), SMALL)
    yield one("LRN", param("lrn", "local_size: 7 norm_region: WITHIN_CHANNEL"), SMALL)
    for bottom, phase in itertools.product((IMAGE, (4, 5), (4, 5, 6), (2, 3, 2, 3, 4)), ("TRAIN", "TEST")):
        yield one("BatchNorm", "", bottom, phase=phase, weights="positive")
    for fields, phase in itertools.product(
        (
            "use_global_stats: true",
            "use_global_stats: false",
            "eps: 0.1",
            "moving_average_fraction: 0.5",
            "use_global_stats: false eps: 0.01",
        ),
        ("TRAIN", "TEST"),
    ):
        yield one("BatchNorm", param("batch_norm", fields), IMAGE, phase=phase, weights="positive", passes=2)
    yield one("BatchNorm", "", SMALL, phase="TEST", weights="zeros")
    yield one("BatchNorm", "", SMALL, phase="TRAIN", weights="zeros", passes=3)
    yield one("BatchNorm", "", IMAGE, phase="TEST", weights="positive", in_place=True)
    yield one("BatchNorm", "", IMAGE, phase="TRAIN", weights="positive", in_place=True)
    for across, variance, bottom in itertools.product(
        ("true", "false"), ("true", "false"), (SMALL, (2, 3, 40), (4, 5, 6))
    ):
        yield one("MVN", param("mvn", f"across_channels: {across} normalize_variance: {variance}"), bottom)
    for eps in (1e-9, 0.1, 1):
        yield one("MVN", param("mvn", f"eps: {eps}"), SMALL)
        yield one("MVN", param("mvn", f"eps: {eps} across_channels: true"), SMALL)
    yield one("MVN", param("mvn", "across_channels: true"), (3, 20))
    yield one("MVN", param("mvn", "normalize_variance: false"), SMALL, in_place=True)
    yield one("MVN", "", SMALL, in_place=True)
    yield one("MVN", "", SMALL, values=("zeros",))
    yield one("BatchNorm", "", SMALL, values=("zeros",), weights="positive")


def scales() -> Iterator[Case]:
    for axis, axes in itertools.product((0, 1, 2, -1), (0, 1, -1)):
        yield one("Scale", param("scale", f"axis: {axis} num_axes: {axes}"), SMALL)
        yield one("Bias", param("bias", f"axis: {axis} num_axes: {axes}"), SMALL)
    for fields in ("bias_term: true", "axis: 1 num_axes: 2 bias_term: true", "axis: 0 num_axes: 0 bias_term: true"):
        yield one("Scale", param("scale", fields), SMALL)
        yield one("Scale", param("scale", fields), SMALL, in_place=True)
    yield one("Scale", "", SMALL, in_place=True)
    yield one("Bias", "", SMALL, in_place=True)
    for axis, operand in ((0, (2, 3)), (1, (3,)), (1, (3, 4, 5)), (-2, (4, 5)), (1, ())):
        yield one("Scale", param("scale", f"axis: {axis}"), SMALL, operand)
        yield one("Scale", param("scale", f"axis: {axis} bias_term: true"), SMALL, operand)
        yield one("Bias", param("bias", f"axis: {axis}"), SMALL, operand)
    yield one("Scale", param("scale", "axis: 0"), SMALL, (2, 3), in_place=True)


def inners() -> Iterator[Case]:
    for axis, bias, transpose in itertools.product((0, 1, 2, -1), ("true", "false"), ("true", "false")):
        fields = f"num_output: 4 axis: {axis} bias_term: {bias} transpose: {transpose}"
        yield one("InnerProduct", param("inner_product", fields), (2, 3, 4))
    yield one("InnerProduct", param("inner_product", "num_output: 7"), IMAGE)
    yield one("InnerProduct", param("inner_product", "num_output: 1"), (5, 3))
    yield one("InnerProduct", param("inner_product", "num_output: 3"), (5, 3), way="loss")
    for bottom, bias in itertools.product(((), (3,), (2, 3, 4)), ("true", "false")):
        fields = f"num_output: 4 input_dim: 9 bias_term: {bias}"
        yield one("Embed", param("embed", fields), bottom, values=("classes:9",), way="loss")


# ---------------------------------------------------------------- joining, cutting, picking


def joins() -> Iterator[Case]:
    for axis in (0, 1, 2, 3, -1, -4):
        bottoms = [tuple(n + i * (place == axis % 4) for place, n in enumerate(SMALL)) for i in range(3)]
        yield one("Concat", param("concat", f"axis: {axis}"), *bottoms)
    yield one("Concat", param("concat", "concat_dim: 2"), SMALL, (2, 3, 1, 5))
    yield one("Concat", "", SMALL)
    yield one("Concat", "", (2, 3), (2, 5))
    yield one("Slice", "", IMAGE, tops=3)
    yield one("Slice", "", IMAGE)
    yield one("Slice", param("slice", "slice_dim: 2"), IMAGE, tops=4)
    yield one("Slice", param("slice", "axis: -1"), IMAGE, tops=3)
    yield one("Slice", param("slice", "slice_point: 1"), IMAGE, tops=2)
    yield one("Slice", param("slice", "slice_point: 2 slice_point: 5"), IMAGE, tops=3)
    yield one("Slice", param("slice", "axis: 2 slice_point: 1 slice_point: 2 slice_point: 7"), IMAGE, tops=4)
    yield one("Split", "", SMALL, tops=1)
    yield one("Split", "", SMALL, tops=3)
    for operation, inputs in itertools.product(("PROD", "SUM", "MAX"), (2, 3, 4)):
        yield one("Eltwise", param("eltwise", f"operation: {operation}"), *[SMALL] * inputs)
    yield one("Eltwise", param("eltwise", "operation: PROD stable_prod_grad: false"), SMALL, SMALL)
    yield one("Eltwise", param("eltwise", "operation: PROD stable_prod_grad: false"), SMALL, SMALL, values=("odd",))
    yield one("Eltwise", param("eltwise", "operation: PROD"), SMALL, SMALL, values=("odd",))
    yield one("Eltwise", param("eltwise", "operation: MAX"), SMALL, SMALL, values=("ties", "ties"))
    yield one("Eltwise", param("eltwise", "operation: MAX"), SMALL, SMALL, SMALL, values=("ties", "ties", "ties"))
    yield one("Eltwise", param("eltwise", "coeff: 1 coeff: -1"), (3, 4), (3, 4))
    yield one("Eltwise", param("eltwise", "coeff: 0.3 coeff: 2 coeff: 0"), (3, 4), (3, 4), (3, 4))
    yield one("Silence", "", SMALL, (3,), tops=0)
    yield one("Crop", "", IMAGE, (1, 1, 3, 4))
    for axis, offsets in (
        (1, "offset: 1"),
        (-1, "offset: 1"),
        (2, "offset: 1 offset: 5"),
        (0, ""),
        (3, "offset: 5"),
        (1, "offset: 1 offset: 0 offset: 2"),
    ):
        yield one("Crop", param("crop", f"axis: {axis} {offsets}"), IMAGE, (1, 1, 3, 4))
    yield one("Crop", "", (4, 5, 6), (2, 3, 4))
    for bottom, size in ((SMALL, 7), ((4,), 2), ((3, 2), 1), ((5, 2), 5)):
        yield one("BatchReindex", "", bottom, (size,), values=("normal", f"classes:{bottom[0]}"), way="loss")
    for shape in ((4,), (4, 1)):
        yield one("Filter", "", (4, 3), shape, values=("normal", "flags"), way="loss")
    yield one("Filter", "", (4, 2, 3), (4, 5), (4,), values=("normal", "normal", "flags"), way="loss", tops=2)
    yield one("Filter", "", (4, 2, 3), (4,), values=("normal", "parts"), way="none", passes=2)
    for axis, tiles in itertools.product((0, 1, -1), (1, 3)):
        yield one("Tile", param("tile", f"axis: {axis} tiles: {tiles}"), SMALL)
    yield one("Tile", param("tile", "tiles: 2"), (3, 4))


def reshapes() -> Iterator[Case]:
    for axis, end in itertools.product((0, 1, 2, -1), (1, 2, 3, -1)):
        if axis % 4 <= end % 4 + 1:  # one behind the end is let through, and adds an axis of 1
            yield one("Flatten", param("flatten", f"axis: {axis} end_axis: {end}"), SMALL)
    for dims, extra in (
        ((0, -1), ""),
        ((0, 0, -1), ""),
        ((-1,), ""),
        ((-1, 5, 1), ""),
        ((0, 3, 20), ""),
        ((2, 1, -1, 0), ""),
        ((1, -1), "axis: 1 num_axes: 1"),
        ((0, 2, -1), "axis: 1 num_axes: 2"),
        ((1,), "axis: -1 num_axes: 0"),
        ((1, 1), "axis: 0 num_axes: 0"),
        ((20,), "axis: 2"),
        ((-1,), "axis: -3 num_axes: 2"),
    ):
        body = " ".join(f"dim: {dim}" for dim in dims)
        yield one("Reshape", param("reshape", f"shape {{ {body} }} {extra}"), SMALL)
    for axis, operation, coeff in itertools.product((0, 1, 3, -2), ("SUM", "ASUM", "SUMSQ", "MEAN"), (1, -0.3)):
        yield one("Reduction", param("reduction", f"axis: {axis} operation: {operation} coeff: {coeff}"), SMALL)
    for operation in ("SUM", "ASUM", "SUMSQ", "MEAN"):
        yield one("Reduction", param("reduction", f"operation: {operation}"), (7,), values=("ties",))
    for fields, bottom, values in itertools.product(
        ("", "top_k: 3", "out_max_val: true top_k: 2", "axis: 1 top_k: 2", "axis: -1 out_max_val: true", "axis: 0"),
        (SMALL, (4, 5), (2, 3, 4, 2, 3)),
        ("normal", "ties"),
    ):
        yield one("ArgMax", param("argmax", fields), bottom, values=(values,), way="none")


# ---------------------------------------------------------------- losses and scores


def softmaxes() -> Iterator[Case]:
    for axis, shape in ((1, (4, 5)), (1, SMALL), (0, SMALL), (2, SMALL), (-1, SMALL), (1, (2, 3, 4))):
        yield one("Softmax", param("softmax", f"axis: {axis}"), shape)
    yield one("Softmax", "", SMALL, values=("far",))
    yield one("Softmax", "", SMALL, in_place=True)
    modes = ("", "normalize: true", "normalize: false", *(f"normalization: {m}" for m in MODES))
    for mode, ignore in itertools.product(modes, (None, 1)):
        label = "classes:5" if ignore is None else f"some:5:{ignore}"
        fields = mode if ignore is None else f"{mode} ignore_label: {ignore}"
        body = f"loss_weight: 0.7 {param('loss', fields)}"
        yield one("SoftmaxWithLoss", body, (4, 5), (4,), values=("normal", label))
        yield one("SoftmaxWithLoss", body, (2, 5, 3, 2), (2, 3, 2), values=("normal", label))
    yield one("SoftmaxWithLoss", "", (4, 5), (4, 1, 1, 1), values=("far", "classes:5"))
    yield one("SoftmaxWithLoss", "", (40, 5), (40,), values=("far", "classes:5"))
    yield one("SoftmaxWithLoss", "loss_param { ignore_label: 255 }", (6, 5), (6,), values=("normal", "some:5:255"))
    yield one("SoftmaxWithLoss", "loss_param { ignore_label: -1 }", (6, 5), (6,), values=("normal", "some:5:-1"))
    yield one("SoftmaxWithLoss", "softmax_param { axis: 2 }", (2, 3, 4, 2), (2, 3, 2), values=("normal", "classes:4"))
    yield one("SoftmaxWithLoss", "", (4, 5), (4,), values=("normal", "classes:5"), tops=0)
    yield one("SoftmaxWithLoss", "", (4, 5), (4,), values=("normal", "classes:5"), way="loss")


MODES = ("FULL", "VALID", "BATCH_SIZE", "NONE")


def entropies() -> Iterator[Case]:
    modes = ("", "normalize: true", "normalize: false", *(f"normalization: {m}" for m in MODES))
    for mode, ignore in itertools.product(modes, (False, True)):
        fields = f"{mode} ignore_label: 1" if ignore else mode
        target = "classes:2" if ignore else "unit"
        body = f"loss_weight: 2 {param('loss', fields)}"
        yield one("SigmoidCrossEntropyLoss", body, (4, 5), (4, 1, 5), values=("normal", target))
        label = "some:3:1" if ignore else "classes:3"
        for scores, shape in itertools.product(("normal", "far"), ((2, 3, 4), (5, 3))):
            if "normalize:" not in mode:  # an old field that this layer does not take
                labels = (shape[0], *shape[2:])
                values = (scores, label, "unit")
                yield one("InfogainLoss", body, shape, labels, (3, 3), values=values, way="loss")
    yield one("SigmoidCrossEntropyLoss", "", (4, 5), (4, 5), values=("far", "unit"))
    yield one("SigmoidCrossEntropyLoss", "", (4, 5), (4, 5), values=("odd", "unit"))
    yield one("SigmoidCrossEntropyLoss", "loss_param { ignore_label: 0 }", (4, 5), (4, 5), values=("normal", "zeros"))
    values = ("normal", "classes:5", "unit")
    yield one("InfogainLoss", param("infogain_loss", "axis: -1"), (4, 3, 5), (4, 3), (25,), values=values, way="loss")
    yield one("InfogainLoss", "", (4, 5), (4,), (1, 1, 5, 5), values=values, way="loss")
    body = "loss_weight: 1 loss_weight: 0"
    yield one("InfogainLoss", body, (4, 5), (4,), (5, 5), values=values, tops=2, way="loss")
    yield one("InfogainLoss", "loss_param { ignore_label: 9 }", (4, 5), (4,), (5, 5), values=values, way="loss")


def losses() -> Iterator[Case]:
    for weight, shape, other in itertools.product((1, -0.4), ((4, 5), (4, 5, 1), (4, 5, 1, 1)), ((4, 5), (4, 1, 5))):
        yield one("EuclideanLoss", f"loss_weight: {weight}", shape, other)
    yield one("EuclideanLoss", "", (4,), (4,))
    for norm, shape, label in itertools.product(("L1", "L2"), ((4, 5), (4, 5, 1, 1), (3, 2, 3)), ("", "wide")):
        labels = (shape[0], 1, 1, 1) if label else (shape[0],)
        values = ("normal", f"classes:{int(np.prod(shape[1:]))}")
        yield one("HingeLoss", f"loss_weight: 0.3 {param('hinge_loss', f'norm: {norm}')}", shape, labels, values=values)
    yield one("HingeLoss", "", (4, 5), (4,), values=("ties", "classes:5"))
    for shape in ((4, 5), (4, 5, 1, 1), (1, 3)):
        values = ("scores", f"classes:{shape[1]}")
        yield one("MultinomialLogisticLoss", "loss_weight: 1.5", shape, shape[:1], values=values)
    yield one("MultinomialLogisticLoss", "", (2, 3), (2,), values=("zeros", "classes:3"))
    for margin, legacy, shape in itertools.product((1, 4), ("true", "false"), ((8, 5), (8, 5, 1))):
        body = param("contrastive_loss", f"margin: {margin} legacy_version: {legacy}")
        values = ("normal", "normal", "flags")
        yield one("ContrastiveLoss", f"loss_weight: 0.6 {body}", shape, (8, 5), (8,), values=values)
    for legacy in ("true", "false"):
        body = param("contrastive_loss", f"legacy_version: {legacy}")
        yield one("ContrastiveLoss", body, (4, 5), (4, 5), (4, 1), values=("zeros", "zeros", "flags"))
        yield one("ContrastiveLoss", body, (6, 2), (6, 2), (6,), values=("unit", "unit", "parts"))


def accuracies() -> Iterator[Case]:
    for tops, fields, ignore in itertools.product((1, 2), ("", "top_k: 2", "top_k: 5"), (False, True)):
        body = param("accuracy", f"{fields} ignore_label: 1" if ignore else fields)
        label = "some:5:1" if ignore else "classes:5"
        for values in ("normal", "ties"):
            yield one("Accuracy", body, (12, 5), (12,), values=(values, label), way="none", tops=tops, phase="TEST")
    for fields, shape, labels in (
        ("axis: -1 top_k: 3", (4, 3, 5), (4, 3)),
        ("axis: 0", (5, 3), (3,)),
        ("", SMALL, (2, 4, 5)),
    ):
        values = ("normal", f"classes:{3 if shape == SMALL else 5}")
        yield one("Accuracy", param("accuracy", fields), shape, labels, values=values, way="none", tops=2, phase="TEST")


# ---------------------------------------------------------------- recurrent layers, sources, Dropout


def recurrents() -> Iterator[Case]:
    x, cont = (3, 2, 7), (3, 2)
    for name, states in (("LSTM", 2), ("RNN", 1)):
        hidden = [(1, 2, 5)] * states
        for static, marks in itertools.product(([], [(2, 4)], [(2, 4, 3)]), ("flags", "starts", "parts")):
            values = ("normal", marks)
            body = param("recurrent", "num_output: 5")
            yield one(name, body, x, cont, *static, values=values, weights="small", passes=2)
            body = param("recurrent", "num_output: 5 expose_hidden: true")
            tops = 1 + states
            yield one(name, body, x, cont, *static, *hidden, values=values, tops=tops, weights="small", passes=2)
            learning = ("normal", marks)
            yield one(name, body, x, cont, *static, *hidden, values=learning, tops=tops, weights="small", way="loss")
        body = param("recurrent", "num_output: 5")
        yield one(name, body, (1, 1, 4, 3), (1, 1), values=("normal", "flags"), passes=3, weights="small")
        yield one(name, body, (6, 3, 2), (6, 3), values=("normal", "flags"), phase="TEST", weights="small")
    for marks in ("flags", "starts", "parts"):
        yield one("LSTMUnit", "", (1, 2, 5), (1, 2, 20), (1, 2), values=("normal", "normal", marks), tops=2)


def sources() -> Iterator[Case]:
    shapes = "shape { dim: 3 } shape { dim: 4 dim: 5 }"
    for fields, tops in (
        (f"{shapes} data_filler {{ value: 2 }} data_filler {{ value: -3 }}", 2),
        ("shape { dim: 3 dim: 1 } data_filler { value: 0.5 }", 3),
        ("shape { }", 1),
        ("num: 2 num: 3 channels: 3 height: 4 width: 5 width: 6", 2),
        ("num: 2 channels: 3 height: 4 width: 5", 1),
    ):
        for way in ("force", "none"):
            yield one("DummyData", param("dummy_data", fields), tops=tops, way=way)
    yield one("Input", param("input", shapes), tops=2)
    yield one("Parameter", "parameter_param { shape { dim: 3 dim: 4 } }")
    yield one("Parameter", "parameter_param { shape { } }", way="none")
    yield one("Parameter", "parameter_param { shape { dim: 3 dim: 4 } }", way="loss")
    for ratio in (0.2, 0.5, 0.9):
        yield one("Dropout", param("dropout", f"dropout_ratio: {ratio}"), SMALL, phase="TEST")
        yield one("Dropout", param("dropout", f"dropout_ratio: {ratio}"), SMALL, phase="TEST", in_place=True)


def larger() -> Iterator[Case]:
    """Sizes as nets have them, where sums are long."""
    image = (2, 32, 27, 27)
    for fields in (
        "kernel_size: 3 pad: 1",
        "kernel_size: 5 pad: 2 group: 2",
        "kernel_size: 1",
        "kernel_size: 7 stride: 2",
    ):
        yield one("Convolution", param("convolution", f"num_output: 24 {fields}"), image)
    yield one("Convolution", param("convolution", "num_output: 16 kernel_size: 11 stride: 4"), (1, 3, 67, 67))
    yield one("Deconvolution", param("convolution", "num_output: 8 kernel_size: 4 stride: 2 pad: 1"), (2, 16, 14, 14))
    for mode in ("MAX", "AVE"):
        yield pooling(mode, "kernel_size: 3 stride: 2", image)
        yield pooling(mode, "kernel_size: 3 stride: 2 pad: 1", image)
        yield pooling(mode, "global_pooling: true", image)
    yield one("LRN", param("lrn", "local_size: 5 alpha: 0.0001"), image)
    yield one("LRN", param("lrn", "local_size: 3 alpha: 0.00005 norm_region: WITHIN_CHANNEL"), image)
    yield one("BatchNorm", "", image, weights="positive")
    yield one("BatchNorm", "", image, weights="positive", phase="TEST")
    yield one("InnerProduct", param("inner_product", "num_output: 100"), (16, 600))
    yield one("InnerProduct", param("inner_product", "num_output: 10"), image)
    yield one("SoftmaxWithLoss", "", (32, 1000), (32,), values=("normal", "classes:1000"))
    yield one("Softmax", "", (32, 1000))
    yield one("MVN", "", image)
    yield one("PReLU", "", image)
    yield one("Scale", param("scale", "bias_term: true"), image)
    yield one("Reduction", param("reduction", "operation: SUMSQ"), image)
    yield one("EuclideanLoss", "", image, image)
    yield one(
        "LSTM", param("recurrent", "num_output: 32"), (12, 4, 40), (12, 4), values=("normal", "flags"), weights="small"
    )


def gaps() -> Iterator[Case]:
    """NaN among the inputs: where it goes on to, and where not. (Caffe's max pooling skips it, PyTorch's does not.)"""
    for kind, body in (
        ("LRN", ""),
        ("BatchNorm", ""),
        ("MVN", ""),
        ("Softmax", ""),
        ("Scale", ""),
        ("Reduction", param("reduction", "operation: ASUM")),
        ("Pooling", param("pooling", "pool: AVE kernel_size: 2 stride: 2")),
        ("Convolution", param("convolution", "num_output: 2 kernel_size: 2")),
        ("InnerProduct", param("inner_product", "num_output: 2")),
    ):
        yield one(kind, body, SMALL, values=("gaps",))
    yield one("Eltwise", param("eltwise", "operation: MAX"), SMALL, SMALL, values=("gaps",))
    yield one("EuclideanLoss", "", (4, 5), (4, 5), values=("gaps",))
    for kind in ("HingeLoss", "SoftmaxWithLoss"):
        yield one(kind, "", (4, 5), (4,), values=("gaps", "classes:5"))
    yield one("Accuracy", "", (4, 5), (4,), values=("gaps", "classes:5"), way="none", phase="TEST")
    yield one("ContrastiveLoss", "", (4, 5), (4, 5), (4,), values=("gaps", "normal", "flags"))
    yield one("LSTM", param("recurrent", "num_output: 3"), (3, 4, 5), (3, 4), values=("gaps", "flags"))


GRIDS = (
    convolutions,
    deconvolutions,
    im2cols,
    poolings,
    pyramids,
    neurons,
    functions,
    norms,
    scales,
    inners,
    joins,
    reshapes,
    softmaxes,
    entropies,
    losses,
    accuracies,
    recurrents,
    sources,
    larger,
    gaps,
)
CASES = [case for grid in GRIDS for case in grid()]
