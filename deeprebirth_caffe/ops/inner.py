"""InnerProduct and Embed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .base import Datum, Op, Shape, axis_of, behind_images, fail, per_output
from .cost import COPY, STREAM
from .memory import count

if TYPE_CHECKING:
    from ..proto import caffe_pb2 as pb


def _inner_params(layer: pb.LayerParameter, bottoms: Sequence[Shape]) -> list[Shape]:
    p = layer.inner_product_param
    if p.num_output < 1:
        fail(layer, "num_output must be given and positive")
    inputs = count(bottoms[0], axis_of(layer, p.axis, bottoms[0]))
    weights = (inputs, p.num_output) if p.transpose else (p.num_output, inputs)
    return [weights, (p.num_output,)] if p.bias_term else [weights]


def _inner_shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    p = layer.inner_product_param
    _inner_params(layer, bottoms)
    return [(*bottoms[0][: axis_of(layer, p.axis, bottoms[0])], p.num_output)]


def _inner_macs(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    return count(bottoms[0]) * layer.inner_product_param.num_output


def _inner_cost(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> float:
    return STREAM * count(_inner_params(layer, bottoms)[0])


def _embed_params(layer: pb.LayerParameter, bottoms: Sequence[Shape]) -> list[Shape]:
    p = layer.embed_param
    if p.num_output < 1 or p.input_dim < 1:
        fail(layer, "num_output and input_dim must be given and positive")
    weights = (p.input_dim, p.num_output)
    return [weights, (p.num_output,)] if p.bias_term else [weights]


def _embed_shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    _embed_params(layer, bottoms)
    return [(*bottoms[0], layer.embed_param.num_output)]


def _inner_buffers(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    """A one for each row that the bias goes to."""
    p = layer.inner_product_param
    return p.bias_term * count(bottoms[0], 0, axis_of(layer, p.axis, bottoms[0]))


def _embed_buffers(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    return layer.embed_param.bias_term * count(bottoms[0])


OPS = [
    Op(
        "InnerProduct",
        _inner_shapes,
        _inner_params,
        _inner_macs,
        _inner_cost,
        tensor=True,
        linear=True,
        block="inner_product_param",
        by_image_fn=behind_images(lambda layer, shape: axis_of(layer, layer.inner_product_param.axis, shape)),
        buffers_fn=_inner_buffers,
    ),
    Op(
        "Embed",
        _embed_shapes,
        _embed_params,
        cost_fn=per_output(COPY),
        indices=True,
        block="embed_param",
        buffers_fn=_embed_buffers,
    ),
]
