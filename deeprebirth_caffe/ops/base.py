"""What a layer type is to the rest of the program: an `Op`, and the errors that its facts can raise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from ..errors import RebirthError
from .memory import count

if TYPE_CHECKING:
    from ..proto import caffe_pb2 as pb

Shape = tuple[int, ...]
Datum = Shape | Mapping[str, Shape]
"""One record of a data source, (C, H, W); for a source with named parts (HDF5), a shape by top name."""

ShapesFn = Callable[["pb.LayerParameter", Sequence[Shape], "Datum | None"], list[Shape]]
ParamsFn = Callable[["pb.LayerParameter", Sequence[Shape]], list[Shape]]
MacsFn = Callable[["pb.LayerParameter", Sequence[Shape], Sequence[Shape]], int]
CostFn = Callable[["pb.LayerParameter", Sequence[Shape], Sequence[Shape]], float]
BuffersFn = Callable[["pb.LayerParameter", Sequence[Shape], Sequence[Shape]], int]
LayerTest = Callable[["pb.LayerParameter"], bool]
ImageTest = Callable[["pb.LayerParameter", Shape, bool], bool]

MAX_AXES = 32
MAX_COUNT = 2**31 - 1


class ShapeError(RebirthError):
    """Real Caffe would refuse (or crash on) this layer with these inputs."""


class UnknownShape(ShapeError):
    """The shape depends on something that is not in the net: a data source, Python code, the data itself.

    Attributes:
        at_load: What real Caffe reserves when it loads the net, where that can be said: an upper bound.
    """

    def __init__(self, message: str, at_load: Sequence[Shape] | None = None) -> None:
        super().__init__(message)
        self.at_load = None if at_load is None else list(at_load)


def title(layer: pb.LayerParameter) -> str:
    """How messages call a layer."""
    return f'layer "{layer.name}"'


def fail(layer: pb.LayerParameter, what: str) -> NoReturn:
    """Raises ShapeError for a layer: its name, then what is wrong."""
    raise ShapeError(f"{title(layer)} ({layer.type}): {what}")


def unknown(layer: pb.LayerParameter, what: str, at_load: Sequence[Shape] | None = None) -> NoReturn:
    """Raises UnknownShape for a layer: its name, then what is missing."""
    raise UnknownShape(f"{title(layer)} ({layer.type}): {what}", at_load)


def by(dims: Sequence[int]) -> str:
    """How messages write a shape or a window: 3x224x224."""
    return "x".join(map(str, dims)) if dims else "scalar"


def axis_of(layer: pb.LayerParameter, axis: int, shape: Shape, field: str = "axis") -> int:
    """The axis counted from the front, as Caffe resolves a negative one; ShapeError if it is out of range."""
    if not -len(shape) <= axis < len(shape):
        fail(layer, f"{field} {axis} does not exist in its input {by(shape)} ({len(shape)} axes)")
    return axis + len(shape) if axis < 0 else axis


def legacy(layer: pb.LayerParameter, shape: Shape) -> Shape:
    """The shape as num x channels x height x width, missing axes 1: what Caffe's older layers work on."""
    if len(shape) > 4:
        fail(layer, f"takes at most 4 axes, got {by(shape)}")
    return shape + (1,) * (4 - len(shape))


def not_in_place(layer: pb.LayerParameter) -> None:
    """Raises ShapeError where the layer overwrites an input, for the types that Caffe does not let do that."""
    if set(layer.bottom) & set(layer.top):
        fail(layer, "cannot run in place: give its top another name")


def no_params(layer: pb.LayerParameter, bottoms: Sequence[Shape]) -> list[Shape]:
    """A layer that learns nothing."""
    return []


def no_macs(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    """A layer without multiply-adds that count."""
    return 0


def no_buffers(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    """A layer that keeps nothing beside its outputs."""
    return 0


def keeps_input(times: int = 1) -> BuffersFn:
    """A layer that keeps so many buffers of the size of its first input."""

    def buffers(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return times * count(bottoms[0])

    return buffers


def free(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> float:
    """A layer that moves nothing: it only shares or renames memory."""
    return 0.0


def same_shape(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    """Every top has the shape of the first bottom."""
    return [bottoms[0]] * len(layer.top)


def always(layer: pb.LayerParameter) -> bool:
    """A trait that does not depend on the layer's parameters."""
    return True


def any_image(layer: pb.LayerParameter, bottom: Shape, train: bool) -> bool:
    """`Op.by_image_fn` of what works image by image whatever its parameters say."""
    return True


def behind_images(axis: Callable[[pb.LayerParameter, Shape], int]) -> ImageTest:
    """`Op.by_image_fn` of what works image by image where an axis is not that of the images."""
    return lambda layer, bottom, train: axis(layer, bottom) > 0


def per_input(weight: float) -> CostFn:
    """A cost of `weight` MAC-equivalents for every element read."""

    def cost(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> float:
        return weight * sum(map(count, bottoms))

    return cost


def per_output(weight: float) -> CostFn:
    """A cost of `weight` MAC-equivalents for every element written."""

    def cost(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> float:
        return weight * sum(map(count, tops))

    return cost


@dataclass(frozen=True)
class Op:
    """The facts of one Caffe layer type.

    Attributes:
        type: Caffe's name of the type.
        min_bottoms: Fewest inputs.
        max_bottoms: Most inputs; None for any number.
        min_tops: Fewest outputs. A loss layer may name none: see `auto_tops`.
        max_tops: Most outputs; None for any number.
        equal_counts: As many outputs as inputs (Convolution on several blobs).
        tensor: Has learnable weights that meet the input in a matrix product (the paper's tensor layers).
        pointwise: Every output element depends on the input element at the same place only (and on learnt
            numbers of its channel); for Dropout that is so at TEST.
        channelwise: Keeps channels apart whatever its parameters say, so that permuting the channels of the
            input (and of its per-channel parameters) only permutes those of the output. `keeps_channels` also
            knows the layers for which that depends on their parameters.
        per_position: Sees one position (with all its channels) at a time, in the sense that a stride can move across
            it; what is pointwise is so anyway.
        convolution: Computes what a Convolution does; a fork's depthwise layers among them.
        linear: One matrix product of its input: a convolution, Deconvolution or InnerProduct.
        affine: In TEST, times a number and plus a number, each the same for a whole channel (Power: with power 1).
        identity_in_test: In TEST it puts out what it reads.
        joins: Brings several inputs together as one.
        moves: Puts out the numbers that it reads, in their order: with one input, one output and one shape it does
            nothing.
        probability: Of a loss: the type that makes probabilities of what it judges.
        probabilities: Makes probabilities of scores.
        class_labels: Its second input are numbers of classes.
        indices: Reads an index or a flag somewhere: noise would make no sense.
        block: The field of `LayerParameter` with its own parameters, where other code asks for it.
        data: Brings data into the net; has no inputs.
        given: Of a data layer: takes arrays from whoever runs the net.
        reads: Of a data layer: reads records from the disk.
        loss: Its first output is a loss that Caffe trains on without being told to.
        metric: Measures, and is not needed to infer (Accuracy).
        judged: How many of its first inputs a loss or metric judges; the others are labels, weights and the like.
            None: any of them may be judged.
        in_place: Computes the right answer when its output is its input blob.
        custom: Its code is not Caffe's, so its learnable blobs are not known.
        buffers_fn: See `buffers`.
        train_buffers_fn: What it keeps in TRAIN alone, besides.
        workspace_fn: See `workspace`.
        shares_fn: Whether its outputs are the memory of its first input (or, without one, of its learned blobs).
        channel_blobs_fn: See `channel_blobs`.
        by_image_fn: See `by_image`.
        random_fn: Whether it draws numbers in TRAIN; of what data layers draw they know themselves.
        may_be_empty: Its outputs may have no elements (other layers then end in an abort when they run).
    """

    type: str
    shapes_fn: ShapesFn
    params_fn: ParamsFn = no_params
    macs_fn: MacsFn = no_macs
    cost_fn: CostFn = free
    min_bottoms: int = 1
    max_bottoms: int | None = 1
    min_tops: int = 1
    max_tops: int | None = 1
    equal_counts: bool = False
    tensor: bool = False
    pointwise: bool = False
    channelwise: bool = False
    per_position: bool = False
    convolution: bool = False
    linear: bool = False
    affine: bool = False
    identity_in_test: bool = False
    joins: bool = False
    moves: bool = False
    probability: str = ""
    probabilities: bool = False
    class_labels: bool = False
    indices: bool = False
    block: str = ""
    data: bool = False
    given: bool = False
    reads: bool = False
    loss: bool = False
    metric: bool = False
    judged: int | None = None
    in_place: bool = False
    channels_fn: LayerTest | None = None
    buffers_fn: BuffersFn = no_buffers
    train_buffers_fn: BuffersFn = no_buffers
    workspace_fn: BuffersFn = no_buffers
    shares_fn: LayerTest | None = None
    channel_blobs_fn: LayerTest | None = None
    by_image_fn: ImageTest | None = None
    random_fn: LayerTest | None = None
    may_be_empty: bool = False
    custom: bool = False

    def shapes(self, layer: pb.LayerParameter, bottoms: Sequence[Shape], *, datum: Datum | None = None) -> list[Shape]:
        """The shapes of the layer's named tops, in order.

        Args:
            layer: The layer; its `top` list says how many outputs are wanted.
            bottoms: The shapes of its inputs.
            datum: One record's (C, H, W) for data layers whose own fields do not say; for HDF5Data a record's
                shape by top name.

        Raises:
            ShapeError: Caffe would not run the layer on these inputs.
            UnknownShape: The answer is not in the net.
        """
        self.check_counts(layer, len(bottoms))
        tops = self.shapes_fn(layer, bottoms, datum)
        for top in tops:
            self._check_blob(layer, top, bottoms)
        return tops

    def params(self, layer: pb.LayerParameter, bottoms: Sequence[Shape]) -> list[Shape]:
        """The shapes of the learnable blobs, in Caffe's order (BatchNorm's three included).

        Raises:
            ShapeError: As `shapes` does.
        """
        self.check_counts(layer, len(bottoms))
        params = self.params_fn(layer, bottoms)
        if len(layer.param) > len(params) and not self.custom:
            fail(layer, f"has {len(layer.param)} param blocks for {len(params)} learnable blobs: remove some")
        return params

    def macs(self, layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        """Multiply-adds of a tensor layer for the whole batch, without the bias; 0 for every other layer."""
        return self.macs_fn(layer, bottoms, tops)

    def cost(self, layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> float:
        """Predicted forward cost on a CPU in MAC-equivalents, for any layer; see `ops.cost`."""
        return self.macs_fn(layer, bottoms, tops) + self.cost_fn(layer, bottoms, tops)

    def buffers(
        self, layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape], *, train: bool = False
    ) -> int:
        """Elements that Caffe keeps for the whole batch beside the outputs, in a forward pass on a CPU.

        The mask of a max pooling, for one. All are 4 bytes wide, the integers among them too. Layer types of forks
        count for nothing here.
        """
        kept = self.buffers_fn(layer, bottoms, tops)
        return kept + self.train_buffers_fn(layer, bottoms, tops) if train else kept

    def workspace(self, layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        """Elements that Caffe keeps for the layer whatever the batch is: the columns of a convolution, for one."""
        return self.workspace_fn(layer, bottoms, tops)

    def shares(self, layer: pb.LayerParameter) -> bool:
        """Whether the outputs take no memory of their own: see `shares_fn`."""
        return self.shares_fn is not None and self.shares_fn(layer)

    def keeps_channels(self, layer: pb.LayerParameter) -> bool:
        """Whether this layer, with its parameters, keeps channels (axis 1) apart; see `channelwise`."""
        return self.channelwise or (self.channels_fn is not None and self.channels_fn(layer))

    @property
    def learned(self) -> bool:
        """Whether it has blobs that are learned."""
        return self.params_fn is not no_params

    def channel_blobs(self, layer: pb.LayerParameter) -> bool:
        """Whether this layer keeps channels apart and has learned numbers for each of them."""
        return self.channel_blobs_fn is not None and self.channel_blobs_fn(layer)

    def random(self, layer: pb.LayerParameter) -> bool:
        """Whether this layer, no data layer, draws numbers in TRAIN."""
        return self.random_fn is not None and self.random_fn(layer)

    def by_image(self, layer: pb.LayerParameter, bottom: Shape, train: bool) -> bool:
        """Whether it makes image i of its tops from image i of its bottoms alone, and draws nothing.

        Args:
            layer: of this type.
            bottom: the shape of its first input; only its number of axes counts.
            train: whether in TRAIN.
        """
        return bool(bottom) and self.by_image_fn is not None and self.by_image_fn(layer, bottom, train)

    def auto_tops(self, layer: pb.LayerParameter) -> int:
        """How many nameless scalar outputs Caffe adds to the named ones: 1 for a loss layer without a top."""
        return max(0, self.min_tops - len(layer.top)) if self.loss else 0

    def check_counts(self, layer: pb.LayerParameter, bottoms: int) -> None:
        """Raises ShapeError unless the layer has a number of inputs and outputs that Caffe takes."""
        if not self.min_bottoms <= bottoms <= (bottoms if self.max_bottoms is None else self.max_bottoms):
            fail(layer, f"takes {_range(self.min_bottoms, self.max_bottoms)} bottom(s), has {bottoms}")
        tops = len(layer.top) + self.auto_tops(layer)
        if not self.min_tops <= tops <= (tops if self.max_tops is None else self.max_tops):
            fail(layer, f"takes {_range(self.min_tops, self.max_tops)} top(s), has {tops}")
        weights = len(layer.loss_weight) or (1 if self.loss else 0)
        if weights not in (0, tops):
            fail(layer, f"has {weights} loss_weight for {tops} tops: give one a top")
        if len(layer.propagate_down) not in (0, bottoms):
            fail(layer, f"has {len(layer.propagate_down)} propagate_down for {bottoms} bottoms")
        if self.equal_counts and bottoms != tops:
            fail(layer, f"takes one top a bottom, has {bottoms} bottom(s) and {tops} top(s)")

    def _check_blob(self, layer: pb.LayerParameter, top: Shape, bottoms: Sequence[Shape]) -> None:
        if len(top) > MAX_AXES:
            fail(layer, f"its output would have {len(top)} axes, more than Caffe's {MAX_AXES}")
        size = 1
        for dim in top:
            if dim < 0:
                fail(layer, f"its output would be {by(top)}")
            size *= dim
        if size > MAX_COUNT:
            fail(layer, f"its output {by(top)} has more elements than Caffe can count ({MAX_COUNT})")
        if size == 0 and not self.may_be_empty and all(map(count, bottoms)):
            fail(layer, f"its output {by(top)} would be empty")


def _range(low: int, high: int | None) -> str:
    if high is None:
        return f"{low} or more"
    return str(low) if low == high else f"{low} to {high}"


def _shapeless(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    unknown(layer, "Caffe 1.0 does not have this type")


UNKNOWN = Op("", _shapeless, min_bottoms=0, max_bottoms=None, min_tops=0, max_tops=None)
"""Stands for a type that nobody here knows: it has no trait."""
