"""Windows: what a convolution or pooling layer's fields say, and the sizes that follow from them.

Convolution rounds its output size toward zero and pooling up (down with `round_mode: FLOOR`); both as Caffe
does, corner cases included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import Shape, axis_of, by, fail

if TYPE_CHECKING:
    from ..proto import caffe_pb2 as pb

Dims = tuple[int, ...]


@dataclass(frozen=True)
class ConvGeometry:
    """A Convolution, Deconvolution or Im2col layer's window; the tuples have one entry a spatial axis."""

    kernel: Dims
    stride: Dims
    pad: Dims
    dilation: Dims
    group: int
    num_output: int
    bias: bool
    axis: int

    @property
    def extent(self) -> Dims:
        """What the dilated kernel spans."""
        return tuple(dilation * (kernel - 1) + 1 for kernel, dilation in zip(self.kernel, self.dilation, strict=True))

    @property
    def pointwise(self) -> bool:
        """Whether it is a plain 1x1 convolution, for which Caffe does not unroll the image."""
        return all(
            kernel == 1 and stride == 1 and pad == 0
            for kernel, stride, pad in zip(self.kernel, self.stride, self.pad, strict=True)
        )

    def output(self, size: Sequence[int]) -> Dims:
        """The spatial output size of a Convolution on this spatial input; below 1 where it does not fit."""
        return tuple(
            conv_output_size(*each)
            for each in zip(size, self.kernel, self.stride, self.pad, self.dilation, strict=True)
        )

    def deconv_output(self, size: Sequence[int]) -> Dims:
        """The spatial output size of a Deconvolution on this spatial input."""
        return tuple(
            deconv_output_size(*each)
            for each in zip(size, self.kernel, self.stride, self.pad, self.dilation, strict=True)
        )


@dataclass(frozen=True)
class PoolGeometry:
    """A Pooling layer's window: (height, width) each. Global pooling has its input's size as kernel."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int]
    method: str
    global_pooling: bool = False
    floor: bool = False

    def output(self, size: Sequence[int]) -> tuple[int, int]:
        """The (height, width) of the output for a (height, width) of the input, as Caffe computes it."""
        padded = any(self.pad)
        height, width = (
            pool_output_size(*each, floor=self.floor, padded=padded)
            for each in zip(size, self.kernel, self.stride, self.pad, strict=True)
        )
        return height, width

    def overhang(self, size: Sequence[int]) -> tuple[int, int]:
        """How far the last window reaches beyond image + pad (bottom, right); negative if it stops short."""
        bottom, right = (
            (out - 1) * stride + kernel - (length + 2 * pad)
            for length, out, kernel, stride, pad in zip(
                size, self.output(size), self.kernel, self.stride, self.pad, strict=True
            )
        )
        return bottom, right


def conv_output_size(size: int, kernel: int, stride: int = 1, pad: int = 0, dilation: int = 1) -> int:
    """One axis of a convolution's output; below 1 where the kernel does not fit.

    Caffe divides as C does, toward zero: a kernel that sticks out of the padded input by less than a stride
    still gives one output.
    """
    room = size + 2 * pad - (dilation * (kernel - 1) + 1)
    return (room // stride if room >= 0 else -(-room // stride)) + 1


def deconv_output_size(size: int, kernel: int, stride: int = 1, pad: int = 0, dilation: int = 1) -> int:
    """One axis of a deconvolution's output."""
    return stride * (size - 1) + dilation * (kernel - 1) + 1 - 2 * pad


def pool_output_size(
    size: int, kernel: int, stride: int = 1, pad: int = 0, *, floor: bool = False, padded: bool | None = None
) -> int:
    """One axis of a pooling layer's output.

    Args:
        size: The input's length.
        kernel: The window's length.
        stride: The step.
        pad: Padding at each end.
        floor: `round_mode: FLOOR` instead of Caffe's rounding up.
        padded: Whether the layer pads any axis (default: this one); only then is a last window that would
            start beyond image + pad dropped. Without padding it stays, even wholly outside the image.
    """
    room = size + 2 * pad - kernel
    out = (room // stride if floor else -(-room // stride)) + 1
    if (pad > 0 if padded is None else padded) and (out - 1) * stride >= size + pad:
        out -= 1
    return out


def conv_geometry(layer: pb.LayerParameter, spatial: int | None = None) -> ConvGeometry:
    """The window of a layer that has a convolution_param.

    Args:
        layer: A Convolution, Deconvolution or Im2col layer.
        spatial: How many spatial axes its input has; when not given, as many as the fields list, else 2.

    Raises:
        ShapeError: The fields contradict each other or the number of axes.
    """
    p = layer.convolution_param
    if spatial is None:
        spatial = max(2, len(p.kernel_size), len(p.stride), len(p.pad), len(p.dilation))
    kernel = _window(layer, "kernel", p.kernel_size, p, "kernel_h", "kernel_w", spatial, None)
    stride = _window(layer, "stride", p.stride, p, "stride_h", "stride_w", spatial, 1)
    pad = _window(layer, "pad", p.pad, p, "pad_h", "pad_w", spatial, 0)
    dilation = _spread(layer, "dilation", p.dilation, spatial, 1)
    if min(kernel, default=1) < 1:
        fail(layer, f"kernel {by(kernel)} must be positive")
    if min(stride, default=1) < 1:
        fail(layer, f"stride {by(stride)} must be positive")
    return ConvGeometry(kernel, stride, pad, dilation, p.group, p.num_output, p.bias_term, p.axis)


def conv_split(layer: pb.LayerParameter, bottom: Shape) -> tuple[int, ConvGeometry]:
    """The channel axis of an input and the layer's window over the axes behind it."""
    axis = axis_of(layer, layer.convolution_param.axis, bottom)
    return axis, conv_geometry(layer, len(bottom) - axis - 1)


def pool_geometry(layer: pb.LayerParameter, bottom: Shape | None = None) -> PoolGeometry:
    """The window of a Pooling layer.

    Args:
        layer: The layer.
        bottom: Its input's shape, num x channels x height x width; only global pooling needs it.

    Raises:
        ShapeError: The fields contradict each other, or the input does not have 4 axes.
    """
    p = layer.pooling_param
    if bottom is not None and len(bottom) != 4:
        fail(layer, f"takes an input of 4 axes, got {by(bottom)}")
    if p.global_pooling:
        if p.HasField("kernel_size") or p.HasField("kernel_h") or p.HasField("kernel_w"):
            fail(layer, "global_pooling does not go with a kernel size: remove one")
        if bottom is None:
            fail(layer, "global pooling takes its kernel from its input, whose shape is not known")
        kernel = (bottom[2], bottom[3])
    else:
        both = p.HasField("kernel_h") and p.HasField("kernel_w")
        if p.HasField("kernel_size") == both:
            fail(layer, "needs kernel_size or both kernel_h and kernel_w")
        kernel = (p.kernel_h, p.kernel_w) if both else (p.kernel_size, p.kernel_size)
    if min(kernel) < 1:
        fail(layer, f"kernel {by(kernel)} must be positive")
    pad = _pair(layer, "pad", p)
    stride = _pair(layer, "stride", p)
    if min(stride) < 1:
        fail(layer, f"stride {by(stride)} must be positive")
    if p.global_pooling and (pad != (0, 0) or stride != (1, 1)):
        fail(layer, "global_pooling takes neither pad nor stride")
    method = "MAX" if p.pool == p.MAX else "AVE" if p.pool == p.AVE else "STOCHASTIC"
    if any(pad) and method == "STOCHASTIC":
        fail(layer, "stochastic pooling takes no padding")
    if any(pad) and (pad[0] >= kernel[0] or pad[1] >= kernel[1]):
        fail(layer, f"pad {by(pad)} must be smaller than the kernel {by(kernel)}")
    return PoolGeometry(kernel, stride, pad, method, p.global_pooling, p.round_mode == p.FLOOR)


def _pair(layer: pb.LayerParameter, field: str, p: pb.PoolingParameter) -> tuple[int, int]:
    both = p.HasField(f"{field}_h") and p.HasField(f"{field}_w")
    either = p.HasField(f"{field}_h") or p.HasField(f"{field}_w")
    if either and (not both or p.HasField(field)):
        fail(layer, f"needs {field} or both {field}_h and {field}_w")
    if both:
        return getattr(p, f"{field}_h"), getattr(p, f"{field}_w")
    return getattr(p, field), getattr(p, field)


def _window(
    layer: pb.LayerParameter,
    field: str,
    values: Sequence[int],
    p: pb.ConvolutionParameter,
    field_h: str,
    field_w: str,
    spatial: int,
    default: int | None,
) -> Dims:
    if p.HasField(field_h) or p.HasField(field_w):
        if spatial != 2:
            fail(layer, f"{field_h} and {field_w} need an input of 2 spatial axes, it has {spatial}")
        if values:
            fail(layer, f"{field_h} and {field_w} do not go with a {field} of its own: remove one")
        return getattr(p, field_h), getattr(p, field_w)
    return _spread(layer, field, values, spatial, default)


def _spread(layer: pb.LayerParameter, field: str, values: Sequence[int], spatial: int, default: int | None) -> Dims:
    if len(values) == spatial:
        return tuple(values)
    if len(values) == 1:
        return (values[0],) * spatial
    if not values and default is not None:
        return (default,) * spatial
    if not values:
        fail(layer, f"{field} is not given")
    fail(layer, f"{field} has {len(values)} entries for {spatial} spatial axes")
