"""The table: which fork has which layer types and fields, and what of them is understood.

Fields are known by their names in text: forks gave the same name different numbers. docs/forks.md tells it to people.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ..base import Op
from . import dense, detection
from .plain import Translate, batch_norm, bn, ceil_mode, depthwise, hole, named, relu6
from .values import Values


class Effect(str, Enum):
    """What a fork's field does to a layer."""

    QUIET = "quiet"
    """It changes how fast or how exactly, not what is computed: passes go ahead, and plain Caffe does without it."""
    PLAIN = "plain"
    """Plain Caffe says it in another way."""
    SHAPES = "shapes"
    """Shapes and costs are known; passes leave the layer alone, and plain Caffe cannot say it."""


@dataclass(frozen=True)
class ForkField:
    """A field that a fork added.

    Attributes:
        path: dotted; with ".*" it stands for a block and all in it.
        effect: what it does.
        means: in words.
        plain: says it in plain Caffe, where that takes more than leaving it out.
        types: the layer types it is understood in; empty for all.
        values: for a field that plain Caffe has too, the values that the fork added.
        why: why plain Caffe cannot say it.
        merges: whether passes may rewrite a layer that has it as if it were not there.
    """

    path: str
    effect: Effect
    means: str
    plain: Translate | None = None
    types: tuple[str, ...] = ()
    why: str = ""
    merges: bool = True
    values: tuple[str, ...] = ()

    def covers(self, path: str, layer_type: str) -> bool:
        """Whether this entry is about a field of a layer."""
        if self.types and layer_type not in self.types:
            return False
        block = self.path.removesuffix(".*")
        return path == block or (block != self.path and path.startswith(f"{block}."))


@dataclass(frozen=True)
class ForkType:
    """A layer type that a fork added.

    Attributes:
        type: its name.
        means: in words.
        make: its facts, given the fork's fields of the layer.
        like: the plain type whose facts it has instead, once `plain` has said it.
        fields: dotted paths of its own fields.
        plain: says it in plain Caffe.
        why: why plain Caffe cannot say it.
    """

    type: str
    means: str
    make: Callable[[Values], Op] | None = None
    fields: tuple[str, ...] = ()
    like: str = ""
    plain: Translate | None = None
    why: str = ""


@dataclass(frozen=True)
class Fork:
    """One family of Caffe.

    Attributes:
        name: for `--json`.
        title: for people.
        source: the repositories it is taken from.
        types, fields: what it added.
        header: fields of the net itself that change nothing that is computed.
    """

    name: str
    title: str
    source: str
    types: tuple[ForkType, ...] = ()
    fields: tuple[ForkField, ...] = ()
    header: tuple[str, ...] = ()


def _block(name: str, fields: str) -> tuple[str, ...]:
    return tuple(f"{name}.{field}" for field in fields.split())


def _quiet(means: str, *paths: str) -> tuple[ForkField, ...]:
    return tuple(ForkField(path, Effect.QUIET, means) for path in paths)


DEPTHWISE = ("ConvolutionDepthwise", "DepthwiseConvolution")
"""Convolutions of each channel for itself, by the names that forks gave them."""

_CEIL_MODE = ForkField(
    "pooling_param.ceil_mode", Effect.PLAIN, "false: the output size is rounded down", ceil_mode, ("Pooling",)
)
_ROI_POOLING = ForkType(
    "ROIPooling",
    "boxes, max-pooled to one size",
    detection.roi_pooling,
    _block("roi_pooling_param", "pooled_h pooled_w spatial_scale"),
)
_SMOOTH_L1 = ForkType("SmoothL1Loss", "a loss", detection.smooth_l1_loss, _block("smooth_l1_loss_param", "sigma"))
_INTERP = ForkType(
    "Interp",
    "resizes bilinearly",
    dense.interp,
    _block("interp_param", "height width zoom_factor shrink_factor pad_beg pad_end"),
    why="a Deconvolution with a bilinear filler comes near it, but lays its grid differently",
)
_BN = ForkType(
    "BN",
    "normalisation, scale and shift in one layer",
    dense.bn,
    _block(
        "bn_param",
        "scale_filler.* shift_filler.* slope_filler.* bias_filler.* bn_mode momentum eps var_eps frozen decay"
        " moving_average engine axis",
    ),
    plain=bn,
)
_BN_SCALE = tuple(
    ForkField(
        f"batch_norm_param.{name}",
        Effect.PLAIN,
        "BatchNorm with scale and bias of its own: five blobs",
        batch_norm,
        ("BatchNorm",),
        merges=False,
    )
    for name in ("scale_bias", "scale_filler.*", "bias_filler.*")
)


def _engines(*values: str) -> tuple[ForkField, ...]:
    """The values that a fork added to the engines of plain Caffe."""
    blocks = ("convolution", "lrn", "pooling", "relu", "sigmoid", "softmax", "spp", "tanh")
    return tuple(
        ForkField(f"{block}_param.engine", Effect.QUIET, "which library computes it", values=values) for block in blocks
    )


_ENGINES = _quiet(
    "which library computes it",
    "engine",
    *(f"{block}_param.engine" for block in ("batch_norm", "concat", "eltwise", "inner_product", "split")),
)
_QUANTIZATION = ForkField(
    "quantization_param.*",
    Effect.PLAIN,
    "computes with few bits; plain Caffe does it in single precision",
    merges=False,
)
_MULTINODE = ("multinode.*", "mn_activation_param.*", "mn_grad_compress_param.*")
_IMAGE = ("AnnotatedData", "VideoData")

FORKS: tuple[Fork, ...] = (
    Fork(
        "ssd",
        "SSD",
        "weiliu89/caffe, branch ssd",
        (
            ForkType("Permute", "reorders the axes", detection.permute, _block("permute_param", "order")),
            ForkType(
                "Normalize",
                "divides by the L2 norm, then scales",
                detection.normalize,
                _block("norm_param", "across_spatial channel_shared eps scale_filler.*"),
            ),
            ForkType(
                "PriorBox",
                "anchor boxes",
                detection.prior_box,
                _block(
                    "prior_box_param",
                    "min_size max_size aspect_ratio flip clip variance img_size img_h img_w step step_h step_w offset",
                ),
            ),
            ForkType("DetectionOutput", "boxes found", detection.detection_output, ("detection_output_param.*",)),
            ForkType("DetectionEvaluate", "a metric", detection.detection_evaluate, ("detection_evaluate_param.*",)),
            ForkType("MultiBoxLoss", "a loss", detection.multibox_loss, ("multibox_loss_param.*",)),
            ForkType("AnnotatedData", "pictures with boxes", detection.annotated_data, ("annotated_data_param.*",)),
            _SMOOTH_L1,
        ),
        tuple(
            ForkField(f"transform_param.{name}.*", Effect.SHAPES, "how pictures are changed when read", types=_IMAGE)
            for name in ("resize_param", "noise_param", "distort_param", "expand_param", "emit_constraint")
        ),
    ),
    Fork(
        "rcnn",
        "Fast R-CNN, Faster R-CNN, R-FCN",
        "rbgirshick/caffe-fast-rcnn, daijifeng001/caffe-rfcn",
        (
            _ROI_POOLING,
            ForkType(
                "PSROIPooling",
                "boxes, each bin from channels of its own",
                detection.psroi_pooling,
                _block("psroi_pooling_param", "spatial_scale output_dim group_size"),
            ),
            _SMOOTH_L1,
            ForkType("SmoothL1LossOHEM", "a loss", detection.smooth_l1_loss_ohem, ("smooth_l1_loss_param.*",)),
            ForkType("SoftmaxWithLossOHEM", "a loss", detection.softmax_loss_ohem),
        ),
        (
            ForkField(
                "loss_param.normalization",
                Effect.SHAPES,
                "a loss divided by a number of its own",
                why="plain Caffe divides by a count; use a loss_weight",
                values=("PRE_FIXED",),
            ),
            ForkField(
                "loss_param.pre_fixed_normalizer",
                Effect.SHAPES,
                "what that loss is divided by",
                why="plain Caffe divides by a count; use a loss_weight",
            ),
        ),
    ),
    Fork(
        "nvcaffe",
        "NVCaffe",
        "NVIDIA/caffe",
        fields=(
            *_BN_SCALE,
            *_quiet("in which precision it computes", "forward_type", "backward_type", "forward_math", "backward_math"),
            *_quiet("how cuDNN is used", "convolution_param.cudnn_convolution_algo_seeker", "cudnn_math_override"),
            *_quiet("which library computes it", "batch_norm_param.engine"),
            *_quiet("where pictures are changed when read", "transform_param.use_gpu_transform"),
            *_quiet("how data are read", *_block("data_param", "threads parser_threads cache shuffle")),
            *(
                ForkField(path, Effect.SHAPES, "how pictures are changed when read")
                for path in _block(
                    "transform_param",
                    "img_rand_resize_lower img_rand_resize_upper rand_resize_ratio_lower rand_resize_ratio_upper"
                    " vertical_stretch_lower vertical_stretch_upper allow_upscale",
                )
            ),
        ),
        header=(
            *("default_forward_type", "default_backward_type", "default_forward_math", "default_backward_math"),
            *("global_grad_scale", "global_grad_scale_adaptive", "default_conv_algos_override"),
            *("default_cudnn_math_override", "reduce_buckets", "eltwise_mem_sharing"),
        ),
    ),
    Fork(
        "intel",
        "Intel Caffe",
        "intel/caffe",
        fields=(
            *_ENGINES,
            *_engines("MKL2017", "MKLDNN"),
            *_quiet("how the work is shared among machines", *_MULTINODE),
            *_quiet("how data are read", "data_param.shuffle"),
            *_quiet("what a weight starts from", "batch_norm_param.filler.*"),
            _QUANTIZATION,
            ForkField(
                "convolution_param.relu",
                Effect.SHAPES,
                "a ReLU in the convolution itself",
                types=("Convolution",),
                why="plain Caffe's ReLU is a layer of its own",
            ),
            ForkField(
                "convolution_param.negative_slope", Effect.SHAPES, "the slope of that ReLU", types=("Convolution",)
            ),
            ForkField("loss_param.label_smoothing", Effect.SHAPES, "a loss with softer labels"),
            *(
                ForkField(f"transform_param.{name}.*", Effect.SHAPES, "how pictures are changed when read")
                for name in ("random_resize_param", "random_aspect_ratio_param")
            ),
            ForkField(
                "pooling_param.avg_include_pad",
                Effect.SHAPES,
                "false: an average is over the image alone",
                why="plain Caffe's average counts the padding too",
            ),
        ),
        header=("engine",),
    ),
    Fork(
        "ristretto",
        "Ristretto",
        "pmgysel/caffe",
        tuple(
            ForkType(f"{short}Ristretto", f"{type_name} with few bits", like=type_name, plain=named(type_name))
            for short, type_name in (
                ("Convolution", "Convolution"),
                ("Deconvolution", "Deconvolution"),
                ("Fc", "InnerProduct"),
                ("LRN", "LRN"),
            )
        ),
        (_QUANTIZATION,),
    ),
    Fork(
        "opencl",
        "OpenCL Caffe",
        "BVLC/caffe, branch opencl; naibaf7/caffe",
        fields=_engines("LIBDNN", "INTEL_SPATIAL"),
    ),
    Fork(
        "segnet",
        "SegNet",
        "alexgkendall/caffe-segnet",
        (
            ForkType(
                "Upsample",
                "puts numbers where the mask of a pooling says",
                dense.upsample,
                _block("upsample_param", "scale scale_h scale_w pad_out_h pad_out_w upsample_h upsample_w"),
            ),
            _BN,
            ForkType(
                "DenseImageData",
                "pictures and label pictures",
                dense.dense_image_data,
                ("dense_image_data_param.*",),
            ),
        ),
        (
            ForkField("loss_param.weight_by_label_freqs", Effect.SHAPES, "a loss that weighs its classes"),
            ForkField("loss_param.class_weighting", Effect.SHAPES, "a loss that weighs its classes"),
        ),
    ),
    Fork(
        "deeplab",
        "DeepLab, PSPNet",
        "gpapan/caffe, hszhao/PSPNet, yjxiong/caffe",
        (
            _INTERP,
            _BN,
            ForkType("ImageSegData", "pictures and label pictures", dense.image_seg_data, ("image_data_param.*",)),
            ForkType("SegAccuracy", "a metric", dense.seg_accuracy, ("seg_accuracy_param.*",)),
        ),
        tuple(
            ForkField(
                f"convolution_param.{name}",
                Effect.PLAIN,
                "the first name of dilation",
                hole,
                ("Convolution", *DEPTHWISE),
                merges=False,
            )
            for name in ("hole", "hole_h", "hole_w")
        ),
    ),
    Fork(
        "mobile",
        "MobileNet, ShuffleNet, DenseNet and SENet forks",
        "yonghenglh6/DepthwiseConvolution, farmingyard/ShuffleNet, hujie-frank/SENet, BVLC/caffe pull request 3057",
        (
            *(
                ForkType(name, "each channel convolved for itself", like="Convolution", plain=depthwise)
                for name in DEPTHWISE
            ),
            ForkType("ReLU6", "min(max(x, 0), 6)", like="Clip", plain=relu6),
            ForkType(
                "ShuffleChannel",
                "mixes the channels of groups",
                dense.shuffle_channel,
                _block("shuffle_channel_param", "group"),
                why="Reshape, a transposition and Reshape say it, and plain Caffe transposes nothing",
            ),
            ForkType(
                "Axpy",
                "scales channels and adds",
                dense.axpy,
                why="a Scale of two inputs and an Eltwise say it, in two layers",
            ),
        ),
        (_CEIL_MODE,),
    ),
    Fork(
        "windows",
        "Caffe for Windows",
        "BVLC/caffe, branch windows (adds nothing to a net); happynear/caffe-windows",
        (_BN,),
        (
            ForkField(
                "inner_product_param.normalize",
                Effect.SHAPES,
                "the weights are normalised first",
                types=("InnerProduct",),
            ),
        ),
    ),
)

_TYPES = {kind.type: kind for fork in FORKS for kind in fork.types}
_FIELDS = tuple(dict.fromkeys(entry for fork in FORKS for entry in fork.fields))


def type_entry(type_name: str) -> ForkType | None:
    """What is known of a layer type that plain Caffe does not have."""
    return _TYPES.get(type_name)


def field_entry(path: str, layer_type: str) -> ForkField | None:
    """What is known of a field that plain Caffe does not have, in a layer of that type.

    Of a field that plain Caffe has, the value is meant, which then is a fork's.
    """
    entry = next((entry for entry in _FIELDS if entry.covers(path, layer_type)), None)
    return own_entry(path, layer_type) or entry or _value_entry(path)


_SIZING = ("pooling_param.pool", "pooling_param.round_mode")
"""Enums of plain Caffe on which sizes depend, or may in a fork: fractional pooling has sizes of its own."""


def _value_entry(path: str) -> ForkField | None:
    """What is known of a fork's value of a plain enum: shapes, as these do not depend on it."""
    from ...proto import caffe_pb2

    if path in _SIZING:
        return None
    message: Any = caffe_pb2.LayerParameter.DESCRIPTOR
    *blocks, name = path.split(".")
    for block in blocks:
        field = message.fields_by_name.get(block) if message is not None else None
        message = field.message_type if field is not None else None
    field = message.fields_by_name.get(name) if message is not None else None
    if field is None or field.enum_type is None:
        return None
    return ForkField(path, Effect.SHAPES, "a value that plain Caffe does not have")


def own_entry(path: str, layer_type: str) -> ForkField | None:
    """What is known of a field that belongs to a fork's layer type, and that its facts read."""
    kind = type_entry(layer_type)
    entries = (ForkField(own, Effect.SHAPES, kind.means) for own in kind.fields) if kind is not None else ()
    return next((entry for entry in entries if entry.covers(path, layer_type)), None)


def forks_with_type(type_name: str) -> list[Fork]:
    """The forks that have a layer type."""
    return [fork for fork in FORKS if any(kind.type == type_name for kind in fork.types)]


def forks_with_field(path: str, layer_type: str, value: object = None) -> list[Fork]:
    """The forks that have a field in a layer of that type; with an empty type, in the net itself.

    A block is had by the forks that have any of its fields, a value of a plain enum by those that added it.
    """
    if not layer_type:
        return [fork for fork in FORKS if path in fork.header]
    found = []
    for fork in FORKS:
        own = (
            ForkField(name, Effect.SHAPES, "") for kind in fork.types if kind.type == layer_type for name in kind.fields
        )
        if any(
            (e.covers(path, layer_type) and (value is None or not e.values or value in e.values))
            or e.path.startswith(f"{path}.")
            for e in (*fork.fields, *own)
        ):
            found.append(fork)
    return found
