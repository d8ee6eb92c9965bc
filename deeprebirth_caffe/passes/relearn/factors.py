"""Linear layers that can become a row of smaller ones: which, what those say, what they cost, what they hold.

    K x K convolution   1x1 (in) -> K x K core with stride, pad and dilation -> 1x1 with the bias (out)
    1x1 convolution     1x1 (in) with stride and pad -> 1x1 with the bias (out)
    InnerProduct        InnerProduct (in) -> InnerProduct with the bias (out)

A side of a K x K convolution that keeps its full rank has no layer of its own. Only the last layer has the bias, and no
layer between has one, so padding stays what it was: zeros. In a grouped convolution each group is decomposed by itself,
all to the same ranks, and the new layers have as many groups.

Ranks are counted over all groups, as num_output is: (s, r), the inputs and outputs of the core, or (r,) of two factors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deeprebirth_caffe.ir import Layer, unknown_shape
from deeprebirth_caffe.numerics.tucker import Metric, low_rank, make_metric, product, relative_error, tucker2
from deeprebirth_caffe.ops import Shape, axis_of, conv_geometry, count
from deeprebirth_caffe.passes.patterns import Facts
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.rewrite import Reason

Array = npt.NDArray[Any]
Ranks = tuple[int, ...]

FACTOR = re.compile(r"_merge\d*_(in|core|out)\d*$")
"""How the names of such layers end."""
_GEOMETRY = (
    *("kernel_size", "kernel_h", "kernel_w", "stride", "stride_h", "stride_w"),
    *("pad", "pad_h", "pad_w", "dilation"),
)


@dataclass(frozen=True)
class Cost:
    """Of one layer, or of several together: multiply-adds of one image, predicted time of the batch."""

    weights: int
    macs: int
    time: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.weights + other.weights, self.macs + other.macs, self.time + other.time)


@dataclass(frozen=True)
class Part:
    """One of the new layers: "in", "core" or "out", and what it says (name and blobs are not settled yet)."""

    role: str
    param: pb.LayerParameter


@dataclass(frozen=True)
class Site:
    """A layer that can be decomposed.

    Attributes:
        layer: it.
        bottom: the shape of what it reads.
        outputs, inputs: of one group; of an InnerProduct, inputs are all that it reads of one image.
        taps: places of the kernel.
        group: how many groups.
    """

    layer: Layer
    bottom: Shape
    outputs: int
    inputs: int
    taps: int
    group: int

    @property
    def kernel(self) -> bool:
        """Whether it has a kernel of more than one place, and so two ranks."""
        return self.taps > 1

    @property
    def whole(self) -> Ranks:
        """The ranks at which nothing is lost."""
        full = (self.inputs, self.outputs) if self.kernel else (min(self.inputs, self.outputs),)
        return tuple(self.group * rank for rank in full)

    def misfit(self, ranks: Ranks) -> Reason | None:
        """What is wrong with ranks for this layer; empty where they can be."""
        names = ("the core's inputs", "the core's outputs") if self.kernel else ("the rank",)
        if len(ranks) != len(names):
            return Reason(f"it takes {len(names)} rank{'s' * self.kernel}, not {len(ranks)}")
        for name, rank, most in zip(names, ranks, self.whole, strict=True):
            if not 1 <= rank <= most:
                return Reason(f"{name}, {rank}: from {self.group} to {most} are possible")
            if rank % self.group:
                return Reason(f"{name}, {rank}, cannot be split into {self.group} groups")
        if self.kernel:
            for one, other, most in zip(ranks, reversed(ranks), self.whole, strict=True):
                if other * self.taps < one < most:
                    return Reason(
                        f"{one} is more than {self.taps} times {other}, the kernel's places times the other rank"
                    )
        return None

    def trimmed(self, ranks: Ranks) -> Ranks:
        """Ranks within the full ones, none of them larger than the other lets it be."""
        if not self.kernel:
            return ranks
        (less, more), (whole_in, whole_out) = ranks, self.whole
        if less < whole_in:
            less = min(less, more * self.taps)
        if more < whole_out:
            more = min(more, less * self.taps)
        return less, more

    def parts(self, ranks: Ranks) -> list[Part]:
        """The new layers, from bottom to top."""
        param = self.layer.param
        if self.layer.type == "InnerProduct":
            return [Part("in", _inner_in(param, ranks[0])), Part("out", _inner_out(param))]
        if not self.kernel:
            return [Part("in", _conv(param, ranks[0], last=False)), Part("out", _one_by_one(param, None))]
        found = []
        has_in, has_out = (rank < full for rank, full in zip(ranks, self.whole, strict=True))
        if has_in:
            found.append(Part("in", _one_by_one(param, ranks[0])))
        found.append(Part("core", _conv(param, ranks[1], last=not has_out)))
        if has_out:
            found.append(Part("out", _one_by_one(param, None)))
        return found

    def cost(self, params: Sequence[pb.LayerParameter], bottom: Shape | None = None) -> Cost:
        """What layers in a row cost, the first one reading what this one reads, or something of the given shape."""
        kind = self.layer.traits
        shape, total = self.bottom if bottom is None else bottom, Cost(0, 0, 0.0)
        for param in params:
            tops = kind.shapes(param, [shape])
            weights = sum(map(count, kind.params(param, [shape])))
            total += Cost(weights, kind.macs(param, [shape], tops) // shape[0], kind.cost(param, [shape], tops))
            shape = tops[0]
        return total

    def alone(self, role: str, ranks: Ranks) -> Cost:
        """What one of the three layers that a kernel becomes costs, whether or not there is one at these ranks.

        Args:
            role: "in", "core", "core and bias" (with no layer behind it) or "out".
            ranks: any, even above the full ones.
        """
        param, axis = self.layer.param, self._axis()
        if role == "in":
            return self.cost([_one_by_one(param, ranks[0])])
        if role != "out":
            bottom = (*self.bottom[:axis], ranks[0], *self.bottom[axis + 1 :])
            return self.cost([_conv(param, ranks[1], last=role == "core and bias")], bottom)
        kind = self.layer.traits
        top = kind.shapes(param, [self.bottom])[0]
        return self.cost([_one_by_one(param, None)], (*top[:axis], ranks[1], *top[axis + 1 :]))

    def now(self) -> Cost:
        """What it costs as it is."""
        return self.cost([self.layer.param])

    def then(self, ranks: Ranks) -> Cost:
        """What it costs at these ranks."""
        return self.cost([part.param for part in self.parts(ranks)])

    def metrics(self, moments: Mapping[str, Array]) -> list[Metric]:
        """One for each group.

        Args:
            moments: second moments of what layers read, by layer: over channels of a convolution, over all inputs of an
                InnerProduct; whole or diagonal.
        """
        moment = moments.get(self.layer.name)
        if moment is None:
            return [Metric()] * self.group
        found = []
        for index in range(self.group):
            own = slice(index * self.inputs, (index + 1) * self.inputs)
            found.append(make_metric(moment[own] if moment.ndim == 1 else moment[own, own]))
        return found

    def split(self, weight: Array) -> Array:
        """The weight as (group, out, in, taps)."""
        if self.layer.type == "InnerProduct":
            turned = weight.T if self.layer.param.inner_product_param.transpose else weight
            return turned.reshape(1, self.outputs, self.inputs, 1)
        return weight.reshape(self.group, self.outputs, self.inputs, self.taps)

    def factorize(
        self, arrays: Sequence[Array], ranks: Ranks, moments: Mapping[str, Array]
    ) -> tuple[list[Array], float]:
        """The weights of the parts, and how far their product is off.

        Args:
            arrays: the layer's weight, and its bias where it has one (which is the last part's).
            ranks: fitting ones.
            moments: see `metrics`.

        Returns:
            One array for each part, and the error as a part of the weight's norm, both weighed by the input.
        """
        each = tuple(rank // self.group for rank in ranks)
        rows: list[list[Array | None]] = []
        lost = whole = 0.0
        for weight, metric in zip(self.split(arrays[0]), self.metrics(moments), strict=True):
            first: Array | None
            last: Array | None
            if self.kernel:
                first, core, last = tucker2(weight, (each[0], each[1]), metric)
                rows.append([first, core, last])
            else:
                first = None
                core, last = low_rank(weight, each[0], metric)
                rows.append([core, last])
            norm = float(np.linalg.norm(metric.weigh(np.asarray(weight, dtype=np.float64))))
            lost += (relative_error(weight, product(first, core, last), metric) * norm) ** 2
            whole += norm**2
        found = [
            np.concatenate([part for part in column if part is not None])
            for column in zip(*rows, strict=True)
            if column[0] is not None
        ]
        shaped = [self._shaped(array, part) for array, part in zip(found, self.parts(ranks), strict=True)]
        return shaped, float(np.sqrt(lost / whole)) if whole else 0.0

    def _shaped(self, array: Array, part: Part) -> Array:
        """As the part's blob is laid out."""
        if self.layer.type == "InnerProduct":
            flat = array.reshape(len(array), -1)
            return flat.T if part.param.inner_product_param.transpose else flat
        kernel = conv_geometry(part.param, len(self.bottom) - self._axis() - 1).kernel
        return array.reshape(len(array), -1, *kernel)

    def _axis(self) -> int:
        return axis_of(self.layer.param, self.layer.param.convolution_param.axis, self.bottom)


def find_site(facts: Facts, layer: Layer) -> Site | Reason:
    """A linear layer as a site, or why it cannot be decomposed."""
    assert layer.traits.linear
    if reason := facts.fixed(layer):
        return reason
    if FACTOR.search(layer.name):
        return Reason("it is a factor of an earlier decomposition")
    if not (layer.type == "InnerProduct" or layer.type == "Convolution"):
        return Reason(f"a {layer.type} is not decomposed")
    if len(layer.bottoms) != 1 or layer.in_place(0):
        return Reason(f"{layer.name} does not have one bottom and a top of its own")
    values = facts.net.values_in(layer)
    if any(value.shape is None for value in values):
        return Reason(unknown_shape(next(value for value in values if value.shape is None)))
    bottom = facts.value_in(layer).shape
    assert bottom is not None
    param = layer.param
    if layer.type == "InnerProduct":
        own = param.inner_product_param
        site = Site(layer, bottom, own.num_output, count(bottom, axis_of(param, own.axis, bottom)), 1, 1)
    else:
        axis = axis_of(param, param.convolution_param.axis, bottom)
        window = conv_geometry(param, len(bottom) - axis - 1)
        if not window.kernel:
            return Reason(f"{layer.name} has no spatial axis")
        group = window.group
        site = Site(layer, bottom, window.num_output // group, bottom[axis] // group, count(window.kernel), group)
    if min(site.inputs, site.outputs) == 1:
        where = " in a group" if site.group > 1 else ""
        return Reason(f"nothing to decompose: it has one {'input' if site.inputs == 1 else 'output'}{where}")
    return site


def gate(before: Cost, after: Cost) -> Reason | None:
    """Why a decomposition is not worth it; empty where multiply-adds and predicted time both fall."""
    if after.macs >= before.macs:
        return Reason(f"its multiply-adds would not fall ({before.macs:,} to {after.macs:,})")
    if after.time >= before.time:
        return Reason(f"its predicted time would not fall ({before.time:,.0f} to {after.time:,.0f}, in multiply-adds)")
    return None


def _copy(param: pb.LayerParameter, *, last: bool) -> pb.LayerParameter:
    """A layer's message for a part: only the last keeps the bias and what is about the output."""
    made = pb.LayerParameter()
    made.CopyFrom(param)
    own = made.inner_product_param if made.type == "InnerProduct" else made.convolution_param
    if not last:
        own.bias_term = False
        own.ClearField("bias_filler")
        made.ClearField("loss_weight")
        del made.param[1:]
    for spec in made.param:
        # Blobs of another shape under an old name would be taken for the old ones.
        spec.ClearField("name")
        spec.ClearField("share_mode")
    if not any(spec.ByteSize() for spec in made.param):
        del made.param[:]
    return made


def _conv(param: pb.LayerParameter, outputs: int, *, last: bool) -> pb.LayerParameter:
    made = _copy(param, last=last)
    made.convolution_param.num_output = outputs
    return made


def _one_by_one(param: pb.LayerParameter, outputs: int | None) -> pb.LayerParameter:
    """A 1x1 convolution; None: the last one."""
    made = _copy(param, last=outputs is None)
    for field in _GEOMETRY:
        made.convolution_param.ClearField(field)
    made.convolution_param.kernel_size.append(1)
    if outputs is not None:
        made.convolution_param.num_output = outputs
    return made


def _inner_in(param: pb.LayerParameter, rank: int) -> pb.LayerParameter:
    made = _copy(param, last=False)
    made.inner_product_param.num_output = rank
    return made


def _inner_out(param: pb.LayerParameter) -> pb.LayerParameter:
    made = _copy(param, last=True)
    if made.inner_product_param.axis < 0:
        made.inner_product_param.axis = -1  # what the first one puts out ends there
    return made
