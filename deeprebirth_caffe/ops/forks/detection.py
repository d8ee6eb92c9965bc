"""Layer types of the detection forks: SSD, Fast and Faster R-CNN, R-FCN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..base import Datum, Op, Shape, by, fail, legacy, per_input, per_output, same_shape, unknown
from ..cost import COPY, ELEMENT, EXP, MAX_TAP, MVN, SELECT
from ..memory import count
from .values import Values

if TYPE_CHECKING:
    from ...proto import caffe_pb2 as pb


def permute(values: Values) -> Op:
    """Permute: `order` says which axis comes first, second, …; axes that it leaves out follow."""

    def shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
        bottom = bottoms[0]
        order = values.integers("permute_param.order")
        if len(set(order)) != len(order) or any(not 0 <= axis < len(bottom) for axis in order):
            fail(layer, f"order {order} does not name axes of its input {by(bottom)}, each once")
        order += [axis for axis in range(len(bottom)) if axis not in order]
        return [tuple(bottom[axis] for axis in order)]

    return Op("Permute", shapes, cost_fn=per_output(COPY))


def normalize(values: Values) -> Op:
    """Normalize: divides by the L2 norm across channels (and positions), then scales by learned numbers."""

    def params(layer: pb.LayerParameter, bottoms: Sequence[Shape]) -> list[Shape]:
        shared = values.flag("norm_param.channel_shared", True)
        return [() if shared else (legacy(layer, bottoms[0])[1],)]

    return Op("Normalize", same_shape, params, cost_fn=per_input(MVN))


def prior_box(values: Values) -> Op:
    """PriorBox: the anchor boxes of each position of the first input, and their variances."""

    def shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
        smallest = values.floats("prior_box_param.min_size")
        if not smallest:
            fail(layer, "needs min_size")
        ratios = [1.0]
        for ratio in values.floats("prior_box_param.aspect_ratio"):
            if ratio > 0 and all(abs(ratio - other) >= 1e-6 for other in ratios):
                ratios.append(ratio)
                if values.flag("prior_box_param.flip", True):
                    ratios.append(1 / ratio)
        boxes = len(ratios) * len(smallest) + len(values.floats("prior_box_param.max_size"))
        _, _, height, width = legacy(layer, bottoms[0])
        return [(1, 2, height * width * boxes * 4)]

    return Op("PriorBox", shapes, cost_fn=per_output(ELEMENT), min_bottoms=2, max_bottoms=2)


def detection_output(values: Values) -> Op:
    """DetectionOutput: as many rows of seven numbers as boxes are found, so the data decide."""

    def shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
        unknown(layer, "how many boxes it finds depends on the data", [(1, 1, 1, 7)])

    return Op("DetectionOutput", shapes, cost_fn=per_input(SELECT), min_bottoms=3, max_bottoms=5)


def multibox_loss(values: Values) -> Op:
    """MultiBoxLoss: one number."""
    return Op("MultiBoxLoss", _scalar, cost_fn=per_input(EXP), min_bottoms=4, max_bottoms=4, loss=True, judged=3)


def detection_evaluate(values: Values) -> Op:
    """DetectionEvaluate: rows of five numbers, as many as the data have boxes."""

    def shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
        unknown(layer, "how many boxes it judges depends on the data")

    return Op("DetectionEvaluate", shapes, min_bottoms=2, max_bottoms=2, metric=True, judged=1)


def annotated_data(values: Values) -> Op:
    """AnnotatedData: pictures as Data has them, resized where it says so; the labels' count depends on the data."""

    def shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
        image = datum if isinstance(datum, tuple) else _resized(layer, values)
        if image is None:
            unknown(
                layer, f"the shape of its data is not known; give --input-shape {next(iter(layer.top), 'data')}=C,H,W"
            )
        # The second top holds one row a box, so only the first is said.
        return [(layer.data_param.batch_size, *image)]

    return Op(
        "AnnotatedData",
        shapes,
        cost_fn=per_output(COPY),
        min_bottoms=0,
        max_bottoms=0,
        max_tops=2,
        data=True,
        reads=True,
    )


def _resized(layer: pb.LayerParameter, values: Values) -> Shape | None:
    """(C, H, W) that the data have after a fixed crop or resize; None where only the data tell."""
    transform = layer.transform_param
    channels = 1 if transform.force_gray else 3 if transform.force_color else len(transform.mean_value)
    size = (transform.crop_size,) * 2 if transform.crop_size else ()
    path = "transform_param.resize_param"
    if not size and values.word(f"{path}.resize_mode", "WARP") in ("WARP", "FIT_LARGE_SIZE_AND_PAD"):
        size = (values.integer(f"{path}.height", 0), values.integer(f"{path}.width", 0))
    return (channels, *size) if channels > 1 and size and all(size) else None


def roi_pooling(values: Values) -> Op:
    """ROIPooling: each box of the second input, max-pooled to one size."""

    def shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
        size = [values.integer(f"roi_pooling_param.pooled_{axis}", 0) for axis in "hw"]
        if min(size) < 1:
            fail(layer, "needs pooled_h and pooled_w")
        return [(_boxes(layer, bottoms[1]), legacy(layer, bottoms[0])[1], *size)]

    def cost(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> float:
        # A box covers the whole image at most; a quarter of it is a middling one.
        return MAX_TAP * count(bottoms[0]) / 4 * bottoms[1][0]

    return Op("ROIPooling", shapes, cost_fn=cost, min_bottoms=2, max_bottoms=2, channelwise=True)


def psroi_pooling(values: Values) -> Op:
    """PSROIPooling: each bin of each box, averaged over channels of its own."""

    def shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
        group = values.integer("psroi_pooling_param.group_size", 0)
        out = values.integer("psroi_pooling_param.output_dim", 0)
        channels = legacy(layer, bottoms[0])[1]
        if channels != out * group * group or not channels:
            fail(layer, f"its {channels} input channels are not output_dim {out} x group_size {group} x {group}")
        return [(_boxes(layer, bottoms[1]), out, group, group)]

    def cost(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> float:
        return ELEMENT * count(bottoms[0]) / 4 * bottoms[1][0]

    return Op("PSROIPooling", shapes, cost_fn=cost, min_bottoms=2, max_bottoms=2)


def smooth_l1_loss(values: Values) -> Op:
    """SmoothL1Loss: one number; the third and fourth input weigh the differences."""

    def shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
        for other in bottoms[1:]:
            if count(other) != count(bottoms[0]):
                fail(layer, f"its inputs differ in size: {by(bottoms[0])} and {by(other)}")
        return [()] * len(layer.top)

    return Op("SmoothL1Loss", shapes, cost_fn=per_input(ELEMENT), min_bottoms=2, max_bottoms=4, loss=True, judged=2)


def softmax_loss_ohem(values: Values) -> Op:
    """SoftmaxWithLossOHEM: as SoftmaxWithLoss, and the loss of each item."""

    def shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
        return [(), bottoms[0], bottoms[1]][: len(layer.top)]

    return Op(
        "SoftmaxWithLossOHEM",
        shapes,
        cost_fn=per_input(EXP),
        min_bottoms=2,
        max_bottoms=3,
        max_tops=3,
        loss=True,
        judged=1,
    )


def smooth_l1_loss_ohem(values: Values) -> Op:
    """SmoothL1LossOHEM: as SmoothL1Loss, and the loss of each item."""

    def shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
        batch, _, height, width = legacy(layer, bottoms[0])
        return [(), (batch, 1, height, width)][: len(layer.top)]

    return Op(
        "SmoothL1LossOHEM",
        shapes,
        cost_fn=per_input(ELEMENT),
        min_bottoms=2,
        max_bottoms=3,
        max_tops=2,
        loss=True,
        judged=2,
    )


def _boxes(layer: pb.LayerParameter, rois: Shape) -> int:
    if count(rois, 1) != 5:
        fail(layer, f"its second input must hold 5 numbers a box, is {by(rois)}")
    return rois[0]


def _scalar(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    return [()] * len(layer.top)
