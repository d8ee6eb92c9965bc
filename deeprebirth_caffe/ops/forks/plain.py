"""How plain Caffe says what a fork says, where it can.

Plain Caffe is the last BVLC Caffe (1.0 as Debian carries it, of August 2018). Its `Clip` and `round_mode` are younger
than the release 1.0 of April 2017; what is rewritten to them says so in a note.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...formats.prototxt.extra import Extra
from ..base import Shape, ShapeError
from ..geometry import pool_geometry
from ..registry import op
from .values import Values

if TYPE_CHECKING:
    from ...proto import caffe_pb2 as pb

YOUNG = "needs a Caffe of 2018 or later, the release 1.0 of April 2017 does not have it"


@dataclass
class Plain:
    """A layer on its way to plain Caffe.

    Attributes:
        param: what plain Caffe is to read; changed in place.
        cut: the fork's fields (dotted) that have done their work.
        notes: what a person should know.
        flat: whether its blobs are to be lists, where the fork's are 1 x C x 1 x 1.
        then: a layer that does the rest of the work, in place on the top; its name is still to be made unique, and
            the blobs from the fourth on are its own.
    """

    param: pb.LayerParameter
    cut: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    flat: bool = False
    then: pb.LayerParameter | None = None


Translate = Callable[[Plain, Values, "Sequence[Shape]"], str]
"""Says a fork's field or type in plain Caffe; gives the reason where that cannot be done, else an empty string."""


def to_plain(param: pb.LayerParameter, extra: Extra, bottoms: Sequence[Shape]) -> Plain | str:
    """A layer as plain Caffe would say it.

    Args:
        param: the layer; left as it is.
        extra: its fields that the schema does not have.
        bottoms: the shapes of its inputs, none of them where one is not known; some rewrites need them.

    Returns:
        It, or the reason why plain Caffe cannot say it.
    """
    from .table import Effect, field_entry, type_entry

    kind = type_entry(param.type)
    if kind is not None and kind.plain is None:
        return kind.why or f"plain Caffe has no layer type {param.type}"
    if kind is None and op(param.type) is None:
        return f"nobody here knows the layer type {param.type}"
    try:
        plain = translate(param, extra, bottoms)
    except ShapeError as error:
        return str(error)
    if isinstance(plain, str):
        return plain
    for path in leaves(extra):
        if _covered(path, plain.cut):
            continue
        entry = field_entry(path, param.type)
        if entry is None:
            return f"{path}: nobody here knows what it says"
        if entry.effect is Effect.SHAPES:
            return f"{path}: {entry.why or 'plain Caffe does not have it'}"
        plain.cut.add(path)
    return plain


def translate(param: pb.LayerParameter, extra: Extra, bottoms: Sequence[Shape]) -> Plain | str:
    """The part of `to_plain` that matters for shapes: what plain Caffe says in another way; the rest stays.

    Raises:
        ShapeError: a field does not hold what its fork puts there.
    """
    from .table import field_entry, type_entry

    twin = type(param)()
    twin.CopyFrom(param)
    plain = Plain(twin)
    values = Values(param, extra)
    kind = type_entry(param.type)
    if kind is not None and kind.plain is not None and (reason := kind.plain(plain, values, bottoms)):
        return reason
    done = set()
    for path in extra:
        entry = field_entry(path, param.type)
        if entry is None or entry.plain is None or entry.plain in done:
            continue
        done.add(entry.plain)
        if reason := entry.plain(plain, values, bottoms):
            return f"{path}: {reason}"
    return plain


def leaves(extra: Extra) -> list[str]:
    """The paths that are no block of another path."""
    return [path for path in extra if not any(other.startswith(f"{path}.") for other in extra)]


def _covered(path: str, cut: set[str]) -> bool:
    return any(path == one or path.startswith(f"{one}.") for one in cut)


def depthwise(plain: Plain, values: Values, bottoms: Sequence[Shape]) -> str:
    """A convolution of each channel for itself: a Convolution with as many groups as channels."""
    own = plain.param.convolution_param
    plain.param.type = "Convolution"
    if own.group > 1:
        return ""
    channels = bottoms[0][1] if bottoms and len(bottoms[0]) > 1 else 0
    if not channels:
        return "it has no group, and how many channels it reads is not known"
    if own.num_output not in (0, channels):
        return f"it has {own.num_output} outputs for {channels} channels and no group"
    own.num_output = own.group = channels
    return ""


def named(type_name: str) -> Translate:
    """A layer that computes with fewer bits: the plain type under another name."""

    def translate_type(plain: Plain, values: Values, bottoms: Sequence[Shape]) -> str:
        plain.param.type = type_name
        return ""

    return translate_type


def relu6(plain: Plain, values: Values, bottoms: Sequence[Shape]) -> str:
    """min(max(x, 0), 6): a Clip."""
    param = plain.param
    if param.HasField("relu_param") and param.relu_param.negative_slope:
        return "its relu_param has a negative_slope"
    param.ClearField("relu_param")
    param.type = "Clip"
    param.clip_param.min = 0
    param.clip_param.max = 6
    plain.notes.append(f"Clip {YOUNG}")
    return ""


def ceil_mode(plain: Plain, values: Values, bottoms: Sequence[Shape]) -> str:
    """Pooling that rounds down: nothing to say where that makes no difference, else `round_mode`."""
    own = plain.param.pooling_param
    if values.flag("pooling_param.ceil_mode", True) or own.global_pooling:
        return ""
    if max(pool_geometry(plain.param).stride) == 1:
        own.ClearField("round_mode")
        return ""
    own.ClearField("round_mode")
    if bottoms:
        up = pool_geometry(plain.param, bottoms[0])
        own.round_mode = own.FLOOR
        if up.output(bottoms[0][2:]) == pool_geometry(plain.param, bottoms[0]).output(bottoms[0][2:]):
            own.ClearField("round_mode")
            return ""
    own.round_mode = own.FLOOR
    plain.notes.append(f"round_mode {YOUNG}")
    return ""


def hole(plain: Plain, values: Values, bottoms: Sequence[Shape]) -> str:
    """DeepLab's first name of dilation."""
    own = plain.param.convolution_param
    if own.dilation:
        return "it stands beside dilation"
    found = values.integers("convolution_param.hole")
    if not found:
        across = [values.integer(f"convolution_param.hole_{axis}", 1) for axis in "hw"]
        found = across[:1] if len(set(across)) == 1 else across
    if min(found) < 1:
        return f"it is {found}"
    if found != [1]:
        own.dilation.extend(found)
    return ""


def bn(plain: Plain, values: Values, bottoms: Sequence[Shape]) -> str:
    """SegNet's BN with its statistics folded in is a Scale."""
    if values.word("bn_param.bn_mode", "LEARN") != "INFERENCE":
        if values.has("bn_param.bn_mode"):
            return "SegNet's BN normalises with its batch in TEST too; set bn_mode: INFERENCE with folded weights"
        return "BatchNorm and Scale together say it, in two layers with other blobs"
    if len(plain.param.top) != 1:
        return "its mean and variance are read"
    plain.param.type = "Scale"
    plain.param.scale_param.bias_term = True
    plain.cut.add("bn_param")
    plain.flat = True
    return ""


STATISTICS = 3
"""How many blobs of a BatchNorm are its statistics."""


def scales(values: Values) -> bool:
    """Whether a BatchNorm of NVCaffe has a scale and a bias of its own; a filler for one of them is enough."""
    fillers = any(values.has(f"batch_norm_param.{name}_filler") for name in ("scale", "bias"))
    return fillers or values.flag("batch_norm_param.scale_bias", False)


def batch_norm(plain: Plain, values: Values, bottoms: Sequence[Shape]) -> str:
    """NVCaffe's BatchNorm with scale and bias: a BatchNorm, then a Scale."""
    plain.cut.update(f"batch_norm_param.{name}" for name in ("scale_bias", "scale_filler", "bias_filler"))
    if not scales(values):
        return ""
    param = plain.param
    then = type(param)()
    then.name, then.type = f"{param.name}_scale", "Scale"
    then.bottom.append(param.top[0])
    then.top.append(param.top[0])
    then.include.extend(param.include)
    then.exclude.extend(param.exclude)
    then.param.extend(param.param[STATISTICS:])
    del param.param[STATISTICS:]
    for spec in param.param:  # NVCaffe learns no statistics, whatever the file says
        spec.lr_mult = spec.decay_mult = 0
    own = then.scale_param
    own.bias_term = True
    for name, filler in (("scale", own.filler), ("bias", own.bias_filler)):
        path = f"batch_norm_param.{name}_filler"
        if values.word(f"{path}.type", "constant") != "constant":
            return f"its {name}_filler is not a constant"
        if value := values.floats(f"{path}.value"):
            filler.value = value[-1]
        elif values.has(path):
            filler.value = 0
    norm = param.batch_norm_param
    norm.eps = max(norm.eps, 1e-5)  # NVCaffe takes no smaller one
    if norm.HasField("use_global_stats") and not norm.use_global_stats:
        norm.ClearField("use_global_stats")  # in TEST, NVCaffe uses them whatever it says
    plain.then = then
    return ""
