"""The facts of Caffe's layer types: shapes, learnable blobs, costs. The only home of such facts."""

from __future__ import annotations

from .base import UNKNOWN, Datum, Op, Shape, ShapeError, UnknownShape, axis_of
from .geometry import (
    ConvGeometry,
    PoolGeometry,
    conv_geometry,
    conv_output_size,
    deconv_output_size,
    pool_geometry,
    pool_output_size,
)
from .memory import FLOAT_BYTES, count, nbytes, total_bytes
from .registry import all_ops, op
from .shape_ops import concat_axis, slice_axis, slice_sizes

__all__ = [
    "FLOAT_BYTES",
    "UNKNOWN",
    "ConvGeometry",
    "Datum",
    "Op",
    "PoolGeometry",
    "Shape",
    "ShapeError",
    "UnknownShape",
    "all_ops",
    "axis_of",
    "concat_axis",
    "conv_geometry",
    "conv_output_size",
    "count",
    "deconv_output_size",
    "nbytes",
    "op",
    "pool_geometry",
    "pool_output_size",
    "slice_axis",
    "slice_sizes",
    "total_bytes",
]
