"""Convolutions of one blob as one convolution, whose output a Slice gives back to who read them.

    conv a, conv b, … of x      becomes      conv (a; b; …) of x -> Slice -> a, b, …

Each row of the joint weight is one old output channel, and no row depends on another. Where all that the Slice would
cut goes side by side into one Concat of channels, the Concat reads the joint blob and there is no Slice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from deeprebirth_caffe.ir import Layer
from deeprebirth_caffe.ops import ConvGeometry, concat_axis, conv_geometry
from deeprebirth_caffe.passes.batchnorm import add_bias, missing_weights
from deeprebirth_caffe.passes.costs import predicted, predicted_now
from deeprebirth_caffe.passes.patterns import Facts, strange
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.rewrite import Applied, Kind, Reason, Refusal, Rewriter

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Member:
    """A convolution among others of the same blob."""

    layer: Layer
    window: ConvGeometry


@dataclass(frozen=True)
class Family:
    """What one joint convolution is made of.

    Attributes:
        members: in the order of the joint channels.
        shifts: for each, where its first tap lies in the joint kernel (height, width).
        model: whose window the joint convolution has.
        place: whose place it takes: the first in the file.
        concat: the Concat that reads them all side by side, if there is one.
        before, after: predicted times.
        macs_before, macs_after: multiply-adds.
    """

    members: tuple[Layer, ...]
    shifts: tuple[tuple[int, ...], ...]
    model: Layer
    place: Layer
    concat: Layer | None
    before: float
    after: float
    macs_before: int
    macs_after: int | None

    @property
    def touches(self) -> frozenset[Layer]:
        return frozenset(self.members) | ({self.concat} if self.concat is not None else frozenset())


def find_families(facts: Facts) -> Iterator[list[Member] | Refusal]:
    """Convolutions of one blob that could be one, as far as each alone can say; and those that could not."""
    groups: dict[object, list[Layer]] = {}
    for layer in facts.net.layers:
        if layer.type == "Convolution" and len(layer.bottoms) == 1:
            key = (frozenset(facts.net.producers(layer)), layer.bottoms[0], facts.alive(layer))
            groups.setdefault(key, []).append(layer)
    for layers in groups.values():
        if len(layers) < 2:
            continue
        families: dict[object, list[Member]] = {}
        for layer in layers:
            group = layer.param.convolution_param.group
            reason = unfit(facts, layer) or (Reason(f"{layer.name} works in {group} groups") if group != 1 else None)
            if reason:
                yield Refusal(layer, reason)
                continue
            # Layers that learn at different rates would not any more.
            rates = tuple(spec.SerializeToString() for spec in layer.param.param) if facts.trains else ()
            families.setdefault(rates, []).append(Member(layer, conv_geometry(layer.param, 2)))
        yield from (members for members in families.values() if len(members) > 1)


def unfit(facts: Facts, layer: Layer) -> Reason | None:
    """Why a Convolution, whatever its groups, cannot be joined with another of the same blob; empty when it can."""
    if reason := strange(layer) or facts.fixed(layer):
        return reason
    shapes = facts.shapes_in(layer)
    if isinstance(shapes, Reason):
        return shapes
    if len(shapes[0]) != 4 or layer.param.convolution_param.axis != 1:
        return Reason(f"{layer.name} is not a 2-d convolution over channels")
    if not facts.one_maker(layer.tops[0]):
        return Reason(f"another layer makes {layer.tops[0]} in another phase")
    return missing_weights(facts.net.weights, [layer])


def plan_family(facts: Facts, parts: Sequence[tuple[Layer, tuple[int, ...]]], model: Layer) -> Family | Reason:
    """One convolution for several, with its cost, or why Caffe would not run it.

    Args:
        facts: of the net.
        parts: each convolution, in the order of the file, and where its first tap lies in the joint kernel.
        model: whose window the joint convolution has.
    """
    place = parts[0][0]
    concat = _one_concat(facts, [layer for layer, _ in parts])
    if concat is not None:
        parts = sorted(parts, key=lambda part: list(concat.bottoms).index(part[0].tops[0]))
    members = tuple(layer for layer, _ in parts)
    param = _joint(model, members)
    bottoms = facts.shapes_in(model)
    before = predicted_now(facts, members)
    if isinstance(bottoms, Reason):
        return bottoms
    if isinstance(before, Reason):
        return before
    after = predicted(param, bottoms)
    if isinstance(after, Reason):
        return after
    if concat is None:
        cut = predicted(_slice(members, "whole"), model.traits.shapes(param, bottoms))
        assert not isinstance(cut, Reason), "the parts add up to the whole"
        after += cut
    macs = sum(facts.macs(layer) or 0 for layer in members)
    shifts = tuple(shift for _, shift in parts)
    return Family(members, shifts, model, place, concat, before, after, macs, facts.macs(model, param))


def apply_family(rewriter: Rewriter, family: Family) -> Applied:
    """Puts the joint convolution in the place of its members."""
    weights = rewriter.net.weights
    assert weights is not None
    blobs = [weights[layer.name] for layer in family.members]
    kernel = conv_geometry(family.model.param, 2).kernel
    arrays = [np.concatenate([_placed(own[0], s, kernel) for own, s in zip(blobs, family.shifts, strict=True)])]
    if any(len(own) > 1 for own in blobs):
        arrays.append(np.concatenate([own[1] if len(own) > 1 else np.zeros(len(own[0])) for own in blobs]))
    done = Applied([one.name for one in family.members], [], family.macs_before, family.macs_after)
    # Made before the members change: the one in whose place the joint layer comes may be that layer already.
    param = _joint(family.model, family.members)
    place = family.place
    cut = _slice(family.members, "")
    for layer in family.members:
        if layer is not place:
            rewriter.remove(layer)
    twin = rewriter.derive(place, Kind.EXACT, [layer for layer in family.members if layer is not place])
    twin.param.convolution_param.CopyFrom(param.convolution_param)
    if len(arrays) > 1:
        add_bias(twin)
    rewriter.set_weights(twin, arrays)
    whole = rewriter.free(f"{twin.name}_whole")
    rewriter.set_tops(twin, [whole])
    if family.concat is not None:
        kept = list(family.concat.bottoms)
        kept[kept.index(cut.top[0]) : kept.index(cut.top[-1]) + 1] = [whole]
        rewriter.set_bottoms(family.concat, kept)
    else:
        cut.bottom[0] = whole
        cut.name = rewriter.free(f"{twin.name}_slice")
        cut.include.extend(twin.param.include)
        cut.exclude.extend(twin.param.exclude)
        rewriter.insert_after(twin, Layer(cut, None, twin.stage))
    done.rebirth.append(twin.name)
    return done


def _placed(weight: Array, shift: tuple[int, ...], kernel: Sequence[int]) -> Array:
    """A kernel inside a larger one of zeros."""
    new = np.zeros((*weight.shape[:2], *kernel), dtype=weight.dtype)
    high, wide = shift
    new[:, :, high : high + weight.shape[2], wide : wide + weight.shape[3]] = weight
    return new


def _joint(model: Layer, members: Sequence[Layer]) -> pb.LayerParameter:
    param = pb.LayerParameter()
    param.CopyFrom(model.param)
    own = param.convolution_param
    own.num_output = sum(layer.param.convolution_param.num_output for layer in members)
    bias = any(layer.param.convolution_param.bias_term for layer in members)
    if own.bias_term != bias:
        own.bias_term = bias
    return param


def _slice(members: Sequence[Layer], whole: str) -> pb.LayerParameter:
    param = pb.LayerParameter(type="Slice", bottom=[whole], top=[layer.tops[0] for layer in members])
    sizes = [layer.param.convolution_param.num_output for layer in members]
    param.slice_param.slice_point.extend(list(accumulate(sizes))[:-1])
    return param


def _one_concat(facts: Facts, members: Sequence[Layer]) -> Layer | None:
    """The Concat of channels that alone reads all members, side by side."""
    behind = [facts.after(layer) for layer in members]
    concat = behind[0]
    if not isinstance(concat, Layer) or concat.type != "Concat" or any(one is not concat for one in behind):
        return None
    shape = facts.value_in(concat).shape
    bottoms = list(concat.bottoms)
    if strange(concat) or shape is None or concat_axis(concat.param, shape) != 1:
        return None
    places = sorted(bottoms.index(layer.tops[0]) for layer in members)
    side_by_side = places == list(range(places[0], places[0] + len(members)))
    return concat if side_by_side and len(set(bottoms)) == len(bottoms) else None
