"""Convolutions of one blob whose outputs are added, as one convolution: exact.

    conv a, conv b, … of x -> Eltwise SUM      becomes      conv of x, with the kernels added up

Each kernel lies where it did in a larger one of zeros (`numerics.parallel`); coefficients go into the weights. The
convolutions need the same stride, groups and size of output, and nobody but the Eltwise may read them; what else it
adds stays. This is what folds the extra kernels that `convert --reparam` gives rebirth layers while they learn, once
`fold-batchnorm` has taken in what stands behind each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from deeprebirth_caffe.ir import Layer, Net
from deeprebirth_caffe.numerics.compose import Axis
from deeprebirth_caffe.numerics.parallel import Around, add_up, around
from deeprebirth_caffe.ops import conv_geometry, conv_output_size
from deeprebirth_caffe.passes.batchnorm import add_bias
from deeprebirth_caffe.passes.convs import set_geometry
from deeprebirth_caffe.passes.costs import no_gain, predicted, predicted_now
from deeprebirth_caffe.passes.patterns import THIS_SIZE, Facts, any_size, strange
from deeprebirth_caffe.passes.siblings import unfit
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.rewrite import Applied, ExactPass, Kind, Match, Reason, Refusal, Rewriter

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Plan:
    """What `match` found out for `apply`.

    Attributes:
        members: the convolutions.
        model: whose message, place and name the joint one takes.
        param: that message with the joint window.
        arrays: the joint weight and maybe bias.
        rest: the Eltwise's message with the joint blob in their place, or None where nothing else is added.
    """

    members: tuple[Layer, ...]
    model: Layer
    param: pb.LayerParameter
    arrays: tuple[Array, ...]
    rest: pb.LayerParameter | None
    macs_before: int
    macs_after: int | None


@dataclass(frozen=True)
class SumSiblings(ExactPass[_Plan]):
    """Makes one convolution of several whose outputs are added.

    Attributes:
        layers: the Eltwise layers that it looks at; None: all. Named ones add up parts of one layer whose step is over,
            so how fast each part learned does not count any more.
    """

    name: ClassVar[str] = "sum-siblings"
    after: ClassVar[tuple[str, ...]] = ("fold-batchnorm",)
    """What is added up behind convolutions can be one of them once nothing affine stands between."""

    layers: frozenset[str] | None = None

    def match(self, net: Net) -> Iterator[Match[_Plan] | Refusal]:
        facts = Facts(net)
        for layer in net.layers:
            if not _adds(layer) or (self.layers is not None and layer.name not in self.layers):
                continue
            why: Reason | None = None
            for members in _families(facts, layer):
                found = _plan(facts, layer, members, learned=self.layers is not None)
                if isinstance(found, _Plan):
                    yield Match(layer, frozenset({layer, *members}), found)
                    why = None
                    break
                why = why or found
            if why:
                yield Refusal(layer, why)

    def apply(self, match: Match[_Plan], rewriter: Rewriter) -> Applied:
        plan = match.plan
        join = match.layer
        done = Applied([one.name for one in plan.members], [], plan.macs_before, plan.macs_after)
        others = [one for one in plan.members if one is not plan.model]
        for layer in others:
            rewriter.remove(layer)
        # One that was made of its parts alone keeps the name of the whole, which it now is.
        twin = rewriter.derive(plan.model, Kind.EXACT, others, name=rewriter.restored(plan.model))
        twin.param.convolution_param.CopyFrom(plan.param.convolution_param)
        if len(plan.arrays) > 1:
            add_bias(twin)
        rewriter.set_weights(twin, plan.arrays)
        if plan.rest is None:
            done.removed.append(join.name)
            rewriter.set_bottoms(join, [twin.tops[0]])
            rewriter.erase(join)
        else:
            rewriter.set_bottoms(join, list(plan.rest.bottom))
            rewriter.change(join).eltwise_param.CopyFrom(plan.rest.eltwise_param)
            # What the convolution puts out is another sum now.
            rewriter.rename_blob(twin.tops[0], rewriter.free(f"{twin.name}_sum"))
        done.rebirth.append(twin.name)
        return done


def _adds(layer: Layer) -> bool:
    """Whether a layer is a plain sum, in a blob of its own, of blobs that each stand there once."""
    if layer.type != "Eltwise" or strange(layer) or len(layer.tops) != 1 or any(layer.param.loss_weight):
        return False
    own = layer.param.eltwise_param
    return own.operation == own.SUM and len({*layer.bottoms, *layer.tops}) == len(layer.bottoms) + 1


def _families(facts: Facts, join: Layer) -> list[tuple[Layer, ...]]:
    """Two or more convolutions of one blob that this layer alone reads."""
    groups: dict[object, list[Layer]] = {}
    for index in range(len(join.bottoms)):
        layer = facts.before(join, index)
        if isinstance(layer, Layer) and layer.type == "Convolution" and len(layer.bottoms) == 1:
            key = (frozenset(facts.net.producers(layer)), layer.bottoms[0])
            groups.setdefault(key, []).append(layer)
    return [tuple(layers) for layers in groups.values() if len(layers) > 1]


def _plan(facts: Facts, join: Layer, members: tuple[Layer, ...], *, learned: bool) -> _Plan | Reason:
    if not facts.one_maker(join.tops[0]):
        return Reason(f"another layer makes {join.tops[0]} in another phase")
    for layer in members:
        if reason := unfit(facts, layer):
            return reason
    # Two that learn at different rates would learn at neither as one.
    if facts.trains and not learned and len({_rates(layer) for layer in members}) > 1:
        return Reason(f"{' and '.join(layer.name for layer in members)} learn at different rates")
    axes = _window(facts, members)
    if isinstance(axes, Reason):
        return axes
    model = next((one for one in members if _axes(one) == tuple(axis.window for axis in axes)), members[0])
    param = pb.LayerParameter()
    param.CopyFrom(model.param)
    own = param.convolution_param
    fields = ("kernel", "stride", "pad", "dilation")
    set_geometry(own, *([getattr(axis.window, name) for axis in axes] for name in fields))
    weights = facts.net.weights
    assert weights is not None, "a layer without weights is unfit"
    blobs = [weights[layer.name] for layer in members]
    coefficients = list(join.param.eltwise_param.coeff) or [1.0] * len(join.bottoms)
    places = [list(join.bottoms).index(layer.tops[0]) for layer in members]
    with np.errstate(all="ignore"):
        weight, bias = add_up(
            [(each[0], each[1] if len(each) > 1 else None) for each in blobs], [coefficients[i] for i in places], axes
        )
        arrays = (weight,) if bias is None else (weight, bias)
        if not all(np.isfinite(array.astype(np.float32)).all() for array in arrays):
            return Reason(f"{' and '.join(one.name for one in members)} together give numbers that are not finite")
    if own.bias_term != (bias is not None):
        own.bias_term = bias is not None
    rest = _rest(join, places, coefficients, model.tops[0])
    bottoms = facts.shapes_in(model)
    assert not isinstance(bottoms, Reason), "a layer of unknown shape is unfit"
    made = [predicted(param, bottoms)]
    if rest is not None:  # every term of a sum has the shape of the sum
        made.append(predicted(rest, [facts.net.values_out(join)[0].shape or ()] * len(rest.bottom)))
    if reason := no_gain(predicted_now(facts, [*members, join]), *made):
        return reason
    macs = sum(facts.macs(layer) or 0 for layer in members)
    return _Plan(members, model, param, arrays, rest, macs, facts.macs(model, param))


def _axes(layer: Layer) -> tuple[Axis, ...]:
    window = conv_geometry(layer.param, 2)
    return tuple(Axis(*each) for each in zip(window.kernel, window.stride, window.pad, window.dilation, strict=True))


def _window(facts: Facts, members: Sequence[Layer]) -> tuple[Around, Around] | Reason:
    """The joint window, or why there is none."""
    names = " and ".join(layer.name for layer in members)
    windows = [conv_geometry(layer.param, 2) for layer in members]
    if len({one.group for one in windows}) > 1:
        return Reason(f"{names} have different groups")
    if len({one.stride for one in windows}) > 1:
        return Reason(f"{names} have different strides")
    values = list(zip(facts.net.values_in(members[0]), facts.net.values_out(members[0]), strict=True))
    found: list[Around] = []
    for axis in range(2):
        sizes = []
        for into, out in values:
            assert into.shape is not None and out.shape is not None, "a layer of unknown shape is unfit"
            sizes.append((into.shape[2 + axis], out.shape[2 + axis]))
        own = [_axes(layer)[axis] for layer in members]
        if not all(one.fits(size) for one in own for size, _ in sizes):
            return Reason(f"the kernel of {names} reaches beyond its image")
        if any_size(facts, members[0]):
            sizes += _more_sizes(own, sizes[0][0])
        try:
            found.append(around(own, sizes))
        except ValueError:
            return Reason(f"no window has the size of {names} at other sizes of the image, {THIS_SIZE}")
    return found[0], found[1]


def _more_sizes(own: Sequence[Axis], size: int) -> list[tuple[int, int]]:
    """What windows read and put out at other sizes, one for each way to divide by the stride, where they all agree."""
    found = []
    for more in range(size + 1, size + own[0].stride):
        outs = {conv_output_size(more, one.kernel, one.stride, one.pad, one.dilation) for one in own}
        if len(outs) == 1:
            found.append((more, outs.pop()))
    return found


def _rates(layer: Layer) -> tuple[tuple[float, float], ...]:
    """lr_mult and decay_mult of a convolution's weight and bias; a bias that is not there could have the usual ones."""
    specs = [*layer.param.param, *(pb.ParamSpec() for _ in range(2))][:2]
    return tuple((spec.lr_mult, spec.decay_mult) for spec in specs)


def _rest(join: Layer, places: Sequence[int], coefficients: Sequence[float], blob: str) -> pb.LayerParameter | None:
    """The sum with one blob in the place of several; None where nothing else is added."""
    if len(places) == len(join.bottoms):
        return None
    param = pb.LayerParameter()
    param.CopyFrom(join.param)
    del param.bottom[:]
    kept = [index for index in range(len(join.bottoms)) if index == places[0] or index not in places]
    param.bottom.extend(blob if index == places[0] else join.bottoms[index] for index in kept)
    if param.eltwise_param.coeff:
        del param.eltwise_param.coeff[:]
        param.eltwise_param.coeff.extend(1.0 if index == places[0] else coefficients[index] for index in kept)
    return param
