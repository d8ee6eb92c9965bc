"""Softmax, losses and Accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .base import (
    BuffersFn,
    Datum,
    Op,
    Shape,
    ShapesFn,
    axis_of,
    behind_images,
    by,
    fail,
    keeps_input,
    legacy,
    no_buffers,
    per_input,
)
from .cost import ELEMENT, SIGMOID, SOFTMAX
from .memory import count

if TYPE_CHECKING:
    from ..proto import caffe_pb2 as pb


def _softmax(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    axis_of(layer, layer.softmax_param.axis, bottoms[0])
    return [bottoms[0]]


def _softmax_channels(layer: pb.LayerParameter) -> bool:
    return layer.softmax_param.axis not in (1, -1, -2, -3)


def _batches(layer: pb.LayerParameter, bottoms: Sequence[Shape]) -> None:
    if not bottoms[0] or not bottoms[1] or bottoms[0][0] != bottoms[1][0]:
        fail(layer, f"prediction {by(bottoms[0])} and label {by(bottoms[1])} differ in their first axis")


def _labels(layer: pb.LayerParameter, bottoms: Sequence[Shape], axis: int) -> None:
    expected = count(bottoms[0], 0, axis) * count(bottoms[0], axis + 1)
    if count(bottoms[1]) != expected:
        fail(
            layer,
            f"needs {expected} labels for {by(bottoms[0])} along axis {axis}, got {by(bottoms[1])}",
        )


def _tops(layer: pb.LayerParameter, second: Shape = ()) -> list[Shape]:
    return [(), second][: len(layer.top)]


def _softmax_workspace(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    """A maximum, later a sum, for each place of one image: Caffe has room for all, and touches no more than that."""
    own = layer.infogain_loss_param if layer.type == "InfogainLoss" else layer.softmax_param
    return count(bottoms[0], axis_of(layer, own.axis, bottoms[0]) + 1)


def _softmax_loss_buffers(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    """The probabilities, and their gradient with the loss's weight; a second top is the probabilities."""
    return (2 if len(tops) < 2 else 1) * count(bottoms[0])


def _contrastive_buffers(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    """The differences and a distance a pair."""
    return count(bottoms[0]) + bottoms[0][0]


def _softmax_loss(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    _batches(layer, bottoms)
    _labels(layer, bottoms, axis_of(layer, layer.softmax_param.axis, bottoms[0]))
    return _tops(layer)


def _infogain(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    _batches(layer, bottoms)
    axis = axis_of(layer, layer.infogain_loss_param.axis, bottoms[0])
    _labels(layer, bottoms, axis)
    if len(bottoms) == 2 and not layer.infogain_loss_param.source:
        fail(layer, "needs its infogain matrix as third input or as source")
    if len(bottoms) == 3 and count(bottoms[2]) != bottoms[0][axis] ** 2:
        fail(
            layer,
            f"its infogain matrix {by(bottoms[2])} does not have {bottoms[0][axis]} x {bottoms[0][axis]}",
        )
    return _tops(layer, bottoms[0])


def _euclidean(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    _batches(layer, bottoms)
    if count(bottoms[0], 1) != count(bottoms[1], 1):
        fail(layer, f"its inputs differ in size: {by(bottoms[0])} and {by(bottoms[1])}")
    return _tops(layer)


def _hinge(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    _batches(layer, bottoms)
    return _tops(layer)


def _multinomial(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    _batches(layer, bottoms)
    if legacy(layer, bottoms[1])[1:] != (1, 1, 1):
        fail(layer, f"takes one label an item, got {by(bottoms[1])}")
    return _tops(layer)


def _contrastive(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    _batches(layer, bottoms)
    one, two, label = (legacy(layer, bottom) for bottom in bottoms)
    if one[1] != two[1] or one[2:] != (1, 1) or two[2:] != (1, 1):
        fail(layer, f"takes two feature vectors of one length, got {by(bottoms[0])} and {by(bottoms[1])}")
    if label[1:] != (1, 1, 1):
        fail(layer, f"takes one label an item, got {by(bottoms[2])}")
    return _tops(layer)


def _accuracy(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    p = layer.accuracy_param
    axis = axis_of(layer, p.axis, bottoms[0])
    _labels(layer, bottoms, axis)
    if p.top_k > count(bottoms[0]) // max(1, count(bottoms[1])):
        fail(layer, f"top_k {p.top_k} is more than the {bottoms[0][axis]} classes")
    return _tops(layer, (bottoms[0][axis],))


_LOSSES: tuple[tuple[str, ShapesFn, float, int, BuffersFn, dict[str, Any]], ...] = (
    ("EuclideanLoss", _euclidean, ELEMENT, 2, keeps_input(), {}),
    # It writes the gradient of its input on the way.
    ("HingeLoss", _hinge, ELEMENT, 1, keeps_input(), {"class_labels": True}),
    ("MultinomialLogisticLoss", _multinomial, ELEMENT, 1, no_buffers, {"class_labels": True}),
    ("SigmoidCrossEntropyLoss", _euclidean, SIGMOID, 1, keeps_input(), {"probability": "Sigmoid"}),
)
"""Name, shapes, cost of an element, how many of its inputs it judges, what it keeps, its other traits."""

OPS = [
    Op(
        "Softmax",
        _softmax,
        cost_fn=per_input(SOFTMAX),
        channels_fn=_softmax_channels,
        probabilities=True,
        by_image_fn=behind_images(lambda layer, shape: axis_of(layer, layer.softmax_param.axis, shape)),
        in_place=True,
        workspace_fn=_softmax_workspace,
    ),
    Op(
        "SoftmaxWithLoss",
        _softmax_loss,
        cost_fn=per_input(SOFTMAX),
        min_bottoms=2,
        max_bottoms=2,
        loss=True,
        judged=1,
        probability="Softmax",
        class_labels=True,
        buffers_fn=_softmax_loss_buffers,
        workspace_fn=_softmax_workspace,
    ),
    Op(
        "InfogainLoss",
        _infogain,
        cost_fn=per_input(SOFTMAX),
        min_bottoms=2,
        max_bottoms=3,
        max_tops=2,
        loss=True,
        judged=1,
        probability="Softmax",  # it contains one
        class_labels=True,
        buffers_fn=_softmax_loss_buffers,
        workspace_fn=_softmax_workspace,
    ),
    *(
        Op(
            name,
            shapes,
            cost_fn=per_input(weight),
            min_bottoms=2,
            max_bottoms=2,
            loss=True,
            judged=judged,
            buffers_fn=buffers,
            **traits,
        )
        for name, shapes, weight, judged, buffers, traits in _LOSSES
    ),
    Op(
        "ContrastiveLoss",
        _contrastive,
        cost_fn=per_input(ELEMENT),
        min_bottoms=3,
        max_bottoms=3,
        loss=True,
        judged=2,
        buffers_fn=_contrastive_buffers,
    ),
    Op(
        "Accuracy",
        _accuracy,
        cost_fn=per_input(ELEMENT),
        min_bottoms=2,
        max_bottoms=2,
        max_tops=2,
        metric=True,
        judged=1,
        class_labels=True,
    ),
]
