"""Which layers compute, image by image, nothing but what data and blobs that stand still decide.

A layer is still where all it reads is data or comes from still layers, no solver and no statistics move its blobs, it
is no loss, draws nothing, and makes image i of its tops from image i of its bottoms alone. No gradient serves anything
there: nothing that learns lies behind.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from deeprebirth_caffe.engines.torch.build import Step
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.ops.base import axis_of
from deeprebirth_caffe.ops.shape_ops import concat_axis, slice_axis
from deeprebirth_caffe.proto import caffe_pb2 as pb

VIEWS = frozenset({"Dropout", "Flatten", "Reshape", "Slice", "Split"})
"""Types whose tops are (parts of) the memory of their bottom, where they can be still at all."""

_ALWAYS = frozenset(
    {"AbsVal", "BNLL", "Clip", "ELU", "Eltwise", "Exp", "LRN", "Log", "MVN", "PReLU", "Power", "ReLU", "Sigmoid"}
    | {"Split", "Swish", "TanH", "Threshold"}
)
"""Types that work image by image whatever their parameters say."""


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
        if any(id(blob) in moved for blob in step.blobs) or not _by_image(step.layer.param, _bottom(step), train):
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
        if step.layer.type == "BatchNorm" and not _stored(step.layer.param, step.lowered.spec.train):
            found.update(map(id, step.blobs))
    return found


def _bottom(step: Step) -> Shape:
    """The shape of a layer's first input when the net was built; only its number of axes counts."""
    return tuple(step.lowered.spec.bottoms[0])


def _by_image(param: pb.LayerParameter, bottom: Sequence[int], train: bool) -> bool:
    shape, kind = tuple(bottom), param.type
    if not shape:
        return False
    if kind in _ALWAYS:
        return True
    if kind in ("Convolution", "Deconvolution"):
        return axis_of(param, param.convolution_param.axis, shape) == 1
    if kind == "Pooling":
        return not (train and param.pooling_param.pool == pb.PoolingParameter.STOCHASTIC)
    if kind == "BatchNorm":
        return _stored(param, train)
    if kind == "Dropout":
        return not train
    if kind == "Concat":
        return concat_axis(param, shape) > 0
    if kind == "Slice":
        return slice_axis(param, shape) > 0
    if kind in ("Scale", "Bias"):
        given = param.scale_param if kind == "Scale" else param.bias_param
        return len(param.bottom) == 1 and axis_of(param, given.axis, shape) > 0
    if kind == "InnerProduct":
        return axis_of(param, param.inner_product_param.axis, shape) > 0
    if kind == "Softmax":
        return axis_of(param, param.softmax_param.axis, shape) > 0
    # These keep the order of the numbers, so as many images as before are the same images; the cache sees to that.
    return kind in ("Flatten", "Reshape")


def _stored(param: pb.LayerParameter, train: bool) -> bool:
    """Whether a BatchNorm uses its stored statistics, and so leaves them as they are."""
    p = param.batch_norm_param
    return bool(p.use_global_stats) if p.HasField("use_global_stats") else not train
