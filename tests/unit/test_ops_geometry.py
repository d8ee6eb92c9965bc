"""Windows: fields to geometry, geometry to sizes."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from deeprebirth_caffe import ops
from deeprebirth_caffe.ops import ConvGeometry, PoolGeometry
from deeprebirth_caffe.proto import caffe_pb2 as pb


def conv(body: str) -> pb.LayerParameter:
    return text_format.Parse(f'name: "c" convolution_param {{ {body} }}', pb.LayerParameter())


def pool(body: str) -> pb.LayerParameter:
    return text_format.Parse(f'name: "p" pooling_param {{ {body} }}', pb.LayerParameter())


def test_conv_geometry() -> None:
    got = ops.conv_geometry(conv("num_output: 8 kernel_size: 3"))
    assert got == ConvGeometry((3, 3), (1, 1), (0, 0), (1, 1), 1, 8, True, 1)
    window = "kernel_h: 3 kernel_w: 5 stride_h: 2 stride_w: 1 pad_w: 4 dilation: 2"
    body = f"num_output: 8 {window} group: 4 bias_term: false"
    got = ops.conv_geometry(conv(body))
    assert got == ConvGeometry((3, 5), (2, 1), (0, 4), (2, 2), 4, 8, False, 1)
    assert got.extent == (5, 9)
    assert got.output((9, 9)) == (3, 9)
    got = ops.conv_geometry(conv("kernel_size: 1 kernel_size: 2 kernel_size: 3 stride: 2 axis: -4"))
    assert got.kernel == (1, 2, 3)
    assert got.stride == (2, 2, 2)
    assert got.axis == -4
    assert ops.conv_geometry(conv("kernel_size: 3"), 1).kernel == (3,)
    assert ops.conv_geometry(conv(""), 0).kernel == ()


def test_plain_1x1() -> None:
    assert ops.conv_geometry(conv("kernel_size: 1")).pointwise
    assert not ops.conv_geometry(conv("kernel_size: 1 stride: 2")).pointwise
    assert not ops.conv_geometry(conv("kernel_size: 1 pad: 1")).pointwise


def test_pool_geometry() -> None:
    bottom = (1, 8, 14, 12)
    got = ops.pool_geometry(pool("kernel_size: 3 stride: 2"), bottom)
    assert got == PoolGeometry((3, 3), (2, 2), (0, 0), "MAX")
    assert got.output((14, 12)) == (7, 6)
    assert got.overhang((14, 12)) == (1, 1)
    got = ops.pool_geometry(pool("pool: AVE global_pooling: true"), bottom)
    assert got == PoolGeometry((14, 12), (1, 1), (0, 0), "AVE", global_pooling=True)
    assert got.output((14, 12)) == (1, 1)
    with pytest.raises(ops.ShapeError, match="global pooling"):
        ops.pool_geometry(pool("global_pooling: true"))
    floor = ops.pool_geometry(pool("kernel_size: 3 stride: 2 round_mode: FLOOR"))
    assert floor.output((14, 12)) == (6, 5)
    assert floor.overhang((14, 12)) == (-1, -1)


def test_pooling_rounds_up_and_clips_only_with_padding() -> None:
    assert ops.pool_output_size(56, 1, 2) == 29  # the last window lies wholly outside
    assert ops.pool_output_size(112, 3, 2) == 56
    assert ops.pool_output_size(5, 7, 3) == 1
    assert ops.pool_output_size(1, 2, 5, 1) == 1
    assert ops.pool_output_size(5, 2, 4, 1) == 2
    # Padding on one axis makes Caffe clip both.
    assert ops.pool_output_size(5, 1, 4, padded=True) == 2
    assert ops.pool_output_size(6, 1, 4, padded=False) == 3
    assert ops.pool_output_size(6, 1, 4, padded=True) == 2
    assert PoolGeometry((1, 2), (4, 4), (0, 1), "MAX").output((6, 6)) == (2, 2)


def test_conv_rounds_toward_zero() -> None:
    assert ops.conv_output_size(227, 11, 4) == 55
    assert ops.conv_output_size(224, 7, 2, 3) == 112
    assert ops.conv_output_size(9, 10, 3) == 1
    assert ops.conv_output_size(9, 10, 1) == 0
    assert ops.conv_output_size(9, 13, 2) == -1
    assert ops.deconv_output_size(28, 4, 2, 1) == 56


sizes = st.integers(1, 60)
kernels = st.integers(1, 9)


@given(sizes, kernels, st.integers(1, 4), st.integers(0, 4), st.integers(1, 3))
def test_every_conv_window_fits_and_no_other_would(
    size: int, kernel: int, stride: int, pad: int, dilation: int
) -> None:
    extent = dilation * (kernel - 1) + 1
    if extent <= size + 2 * pad:
        out = ops.conv_output_size(size, kernel, stride, pad, dilation)
        starts = range(0, size + 2 * pad - extent + 1, stride)
        assert out == len(starts)


@given(sizes, kernels, st.integers(1, 4), st.integers(0, 4), st.integers(1, 3))
def test_deconvolution_undoes_convolution(size: int, kernel: int, stride: int, pad: int, dilation: int) -> None:
    grown = ops.deconv_output_size(size, kernel, stride, pad, dilation)
    if grown > 0:
        assert ops.conv_output_size(grown, kernel, stride, pad, dilation) == size


@given(sizes, kernels, st.integers(1, 5), st.integers(0, 4))
def test_pooling_covers_the_input(size: int, kernel: int, stride: int, pad: int) -> None:
    if pad >= kernel or size + 2 * pad < kernel:
        return
    up = ops.pool_output_size(size, kernel, stride, pad)
    down = ops.pool_output_size(size, kernel, stride, pad, floor=True)
    assert up - 1 <= down <= up
    if pad:
        assert (up - 1) * stride < size + pad  # the last window starts inside
    elif stride <= kernel:
        assert (up - 1) * stride + kernel >= size  # nothing is left out
