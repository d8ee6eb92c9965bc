"""Layers that work element by element: activations, Power, Dropout and their kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .base import (
    BuffersFn,
    Op,
    Shape,
    ShapesFn,
    always,
    any_image,
    by,
    fail,
    keeps_input,
    legacy,
    no_buffers,
    not_in_place,
    per_input,
    same_shape,
)
from .cost import BNLL, COPY, ELEMENT, EXP, LOG, POWER, PRELU, SIGMOID
from .memory import count

if TYPE_CHECKING:
    from ..proto import caffe_pb2 as pb


def _prelu_params(layer: pb.LayerParameter, bottoms: Sequence[Shape]) -> list[Shape]:
    if len(bottoms[0]) < 2:
        fail(layer, f"needs an input with a channel axis, got {by(bottoms[0])}")
    channels = legacy(layer, bottoms[0])[1]
    return [() if layer.prelu_param.channel_shared else (channels,)]


def _prelu_shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: object) -> list[Shape]:
    _prelu_params(layer, bottoms)
    return [bottoms[0]]


def _prelu_buffers(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    """In place, a copy of the input."""
    return count(bottoms[0]) if layer.bottom[0] == layer.top[0] else 0


def _prelu_workspace(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    return count(bottoms[0], 1)


def _neuron(
    type_name: str,
    weight: float,
    shapes: ShapesFn = same_shape,
    buffers: BuffersFn = no_buffers,
    train_buffers: BuffersFn = no_buffers,
    **traits: Any,
) -> Op:
    return Op(
        type_name,
        shapes,
        cost_fn=per_input(weight),
        pointwise=True,
        channelwise=True,
        in_place=True,
        buffers_fn=buffers,
        train_buffers_fn=train_buffers,
        **{"by_image_fn": any_image, **traits},
    )


def _power_cost(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> float:
    return (ELEMENT if layer.power_param.power in (0.0, 1.0) else POWER) * count(bottoms[0])


def _exp_shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: object) -> list[Shape]:
    base = layer.exp_param.base
    if base != -1 and base <= 0:
        fail(layer, f"base {base:g} must be positive, or -1 for e")
    return [bottoms[0]]


def _log_shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: object) -> list[Shape]:
    base = layer.log_param.base
    if base != -1 and (base <= 0 or base == 1):
        fail(layer, f"base {base:g} must be positive and not 1, or -1 for e")
    return [bottoms[0]]


def _absolute(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: object) -> list[Shape]:
    not_in_place(layer)
    return [bottoms[0]]


OPS = [
    Op("AbsVal", _absolute, cost_fn=per_input(ELEMENT), pointwise=True, channelwise=True, by_image_fn=any_image),
    _neuron("BNLL", BNLL),
    _neuron("Clip", ELEMENT),
    _neuron(
        "Dropout",
        COPY,
        train_buffers=keeps_input(),
        identity_in_test=True,
        random_fn=always,
        by_image_fn=lambda layer, bottom, train: not train,
    ),
    _neuron("ELU", LOG),
    _neuron("Exp", EXP, _exp_shapes),
    _neuron("Log", LOG, _log_shapes),
    _neuron("ReLU", ELEMENT),
    _neuron("Sigmoid", SIGMOID, probabilities=True),
    _neuron("Swish", SIGMOID, buffers=keeps_input(2)),
    _neuron("TanH", SIGMOID),
    _neuron("Threshold", ELEMENT),
    Op(
        "Power",
        same_shape,
        cost_fn=_power_cost,
        pointwise=True,
        channelwise=True,
        affine=True,
        in_place=True,
        by_image_fn=any_image,
    ),
    Op(
        "PReLU",
        _prelu_shapes,
        _prelu_params,
        cost_fn=per_input(PRELU),
        pointwise=True,
        channelwise=True,
        in_place=True,
        channel_blobs_fn=lambda layer: not layer.prelu_param.channel_shared,
        by_image_fn=any_image,
        buffers_fn=_prelu_buffers,
        workspace_fn=_prelu_workspace,
    ),
]
