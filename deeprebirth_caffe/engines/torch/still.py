"""Which layers compute, image by image, nothing but what data and blobs that stand still decide.

A layer is still where all it reads is data or comes from still layers, no solver and no statistics move its blobs, it
is no loss, draws nothing, and makes image i of its tops from image i of its bottoms alone. No gradient serves anything
there: nothing that learns lies behind.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from deeprebirth_caffe.engines.torch.build import Step
from deeprebirth_caffe.ir import Layer
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.ops.norm import stored_statistics


def is_view(layer: Layer) -> bool:
    """Whether its tops are (parts of) the memory of its bottom, where it can be still at all."""
    return layer.traits.identity_in_test or (layer.traits.moves and not layer.traits.joins)


def still_steps(steps: Iterable[Step], data: Collection[int], moved: Collection[int], train: bool) -> list[Step]:
    """The still ones of a net's steps, in their order.

    Args:
        steps: all of them.
        data: the numbers of the values that come from outside.
        moved: `id` of each blob that changes while the net is used.
        train: whether the net is in phase TRAIN.
    """
    known = set(data)
    found: list[Step] = []
    for step in steps:
        loss = any(step.weights) or step.nameless
        if loss or any(step.learns) or not step.ins or not known.issuperset(step.ins):
            continue
        layer = step.layer
        if any(id(blob) in moved for blob in step.blobs) or not layer.traits.by_image(
            layer.param, _bottom(step), train
        ):
            continue
        found.append(step)
        known.update(step.outs)
    return found


def moved_blobs(steps: Iterable[Step], learnable: Mapping[int, float]) -> set[int]:
    """`id` of each blob that training changes.

    Args:
        steps: of the net.
        learnable: lr_mult by `id`.
    """
    found = {blob for blob, lr_mult in learnable.items() if lr_mult}
    for step in steps:
        if step.layer.type == "BatchNorm" and not stored_statistics(step.layer.param, step.lowered.spec.train):
            found.update(map(id, step.blobs))
    return found


def _bottom(step: Step) -> Shape:
    """The shape of a layer's first input when the net was built; only its number of axes counts."""
    return tuple(step.lowered.spec.bottoms[0])
