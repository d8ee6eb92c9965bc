"""Layer types of the segmentation forks (SegNet, DeepLab, PSPNet) and of SENet and ShuffleNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..base import Datum, Op, Shape, by, fail, legacy, per_input, per_output, unknown
from ..cost import COPY, ELEMENT, NORMALISE, SCALE
from ..memory import count
from .values import Values

if TYPE_CHECKING:
    from ...proto import caffe_pb2 as pb


def interp(values: Values) -> Op:
    """Interp: resizes bilinearly, corners onto corners; negative padding crops first."""

    def shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
        batch, channels, *size = legacy(layer, bottoms[0])
        pads = [values.integer(f"interp_param.pad_{end}", 0) for end in ("beg", "end")]
        if max(pads) > 0:
            fail(layer, "pad_beg and pad_end may only crop (be 0 or negative)")
        size = [length + sum(pads) for length in size]
        zoom, shrink = (values.integer(f"interp_param.{how}_factor", 0) for how in ("zoom", "shrink"))
        if values.has("interp_param.height") and values.has("interp_param.width"):
            out = [values.integer(f"interp_param.{axis}", 0) for axis in ("height", "width")]
        elif zoom > 0 and shrink > 0:
            # PSPNet's and later versions take both: first smaller, then larger.
            out = [(length - 1) // shrink + 1 for length in size]
            out = [length + (length - 1) * (zoom - 1) for length in out]
        elif zoom > 0:
            out = [length + (length - 1) * (zoom - 1) for length in size]
        elif shrink > 0:
            out = [(length - 1) // shrink + 1 for length in size]
        else:
            fail(layer, "needs height and width, zoom_factor or shrink_factor")
        if min(*size, *out) < 1:
            fail(layer, f"its output would be {by(out)}")
        return [(batch, channels, *out)]

    return Op("Interp", shapes, cost_fn=per_output(4 * ELEMENT), channelwise=True)


def upsample(values: Values) -> Op:
    """Upsample: puts each number where the mask of the pooling it mirrors says, zeros elsewhere; or repeats it."""

    def shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
        batch, channels, *size = legacy(layer, bottoms[0])
        if len(bottoms) > 1 and bottoms[1] != bottoms[0]:
            fail(layer, f"its mask {by(bottoms[1])} does not have the shape of its input {by(bottoms[0])}")
        out = []
        for axis, length in zip("hw", size, strict=True):
            scale = values.integer(f"upsample_param.scale_{axis}", values.integer("upsample_param.scale", 2))
            less = values.flag(f"upsample_param.pad_out_{axis}", False)
            out.append(values.integer(f"upsample_param.upsample_{axis}", length * scale - less))
        return [(batch, channels, *out)]

    return Op("Upsample", shapes, cost_fn=per_output(COPY), max_bottoms=2, channelwise=True)


BN_OF_TWO = ("bn_mode",)
"""Fields that only SegNet's BN has, whose blobs are scale and shift alone."""
BN_OF_FOUR = ("slope_filler", "bias_filler", "momentum", "eps", "frozen", "decay", "moving_average", "engine", "axis")
"""Fields that only the others' BN has, which keeps mean and variance too."""


def bn(values: Values) -> Op:
    """BN: normalisation, scale and shift in one layer; which blobs it has depends on whose it is."""

    def shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
        return [bottoms[0], *[(1, legacy(layer, bottoms[0])[1], 1, 1)] * 2][: len(layer.top)]

    def params(layer: pb.LayerParameter, bottoms: Sequence[Shape]) -> list[Shape]:
        two, four = (any(values.has(f"bn_param.{name}") for name in names) for names in (BN_OF_TWO, BN_OF_FOUR))
        if two == four:
            unknown(layer, "SegNet's BN has two blobs and PSPNet's four, and nothing here tells which it is")
        if values.integer("bn_param.axis", 1) != 1:
            unknown(layer, "its axis is not the channels'")
        return [(1, legacy(layer, bottoms[0])[1], 1, 1)] * (2 if two else 4)

    return Op("BN", shapes, params, cost_fn=per_input(NORMALISE + SCALE), max_tops=3, channelwise=True, in_place=True)


def axpy(values: Values) -> Op:
    """Axpy: a number for each channel, times the second input, plus the third."""

    def shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
        factor, one, two = bottoms
        if one != two or factor[:2] != one[:2] or count(factor) != count(one, 0, 2):
            fail(layer, f"takes N x C, N x C x H x W and the same again, got {', '.join(map(by, bottoms))}")
        return [one]

    return Op("Axpy", shapes, cost_fn=per_output(SCALE + ELEMENT), min_bottoms=3, max_bottoms=3)


def shuffle_channel(values: Values) -> Op:
    """ShuffleChannel: channel j of group i becomes channel i of group j."""

    def shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
        group = values.integer("shuffle_channel_param.group", 1)
        channels = legacy(layer, bottoms[0])[1]
        if group < 1 or channels % group:
            fail(layer, f"its {channels} channels cannot be split into {group} groups")
        return [bottoms[0]]

    return Op("ShuffleChannel", shapes, cost_fn=per_output(COPY))


def dense_image_data(values: Values) -> Op:
    """DenseImageData: pictures and label pictures from a list."""

    def shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
        batch = values.integer("dense_image_data_param.batch_size", 1)
        path = "dense_image_data_param.new"
        size = [values.integer(f"{path}_{axis}", 0) for axis in ("height", "width")]
        if isinstance(datum, tuple):
            image: Shape = datum
        elif min(size) > 0:
            image = (3 if values.flag("dense_image_data_param.is_color", True) else 1, *size)
        else:
            unknown(
                layer, f"the shape of its data is not known; give --input-shape {next(iter(layer.top), 'data')}=C,H,W"
            )
        return [(batch, *image), (batch, 1, *image[1:])][: len(layer.top)]

    return Op("DenseImageData", shapes, min_bottoms=0, max_bottoms=0, max_tops=2, data=True)


def image_seg_data(values: Values) -> Op:
    """ImageSegData: pictures, label pictures and their sizes from a list."""

    def shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
        size = layer.transform_param.crop_size
        image: Shape | None = (3 if layer.image_data_param.is_color else 1, size, size) if size else None
        if isinstance(datum, tuple):
            image = datum
        if image is None:
            unknown(
                layer, f"the shape of its data is not known; give --input-shape {next(iter(layer.top), 'data')}=C,H,W"
            )
        batch = layer.image_data_param.batch_size
        return [(batch, *image), (batch, 1, *image[1:]), (batch, 1, 1, 2)][: len(layer.top)]

    return Op("ImageSegData", shapes, min_bottoms=0, max_bottoms=0, max_tops=3, data=True, block="image_data_param")


def seg_accuracy(values: Values) -> Op:
    """SegAccuracy: three numbers."""

    def shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
        return [(1, 1, 1, 3)] * len(layer.top)

    return Op("SegAccuracy", shapes, min_bottoms=2, max_bottoms=3, metric=True)
