"""InnerProduct on a C x H x W blob as a convolution whose kernel is the whole image: exact.

    InnerProduct, (out, C H W)      becomes      H x W convolution, (out, C, H, W) -> Flatten

The numbers are the same in the same order; the Flatten, which moves nothing, gives the blob the shape it had. Caffe's
matrix product of one row is slower than its product with one column, so this pays for one picture at a time (the
predicted time knows) and for matrices of some size. The kernel fits one size of image, as the InnerProduct did.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from deeprebirth_caffe.ir import Layer, Net, unknown_shape
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.passes.batchnorm import missing_weights
from deeprebirth_caffe.passes.convs import set_geometry
from deeprebirth_caffe.passes.costs import no_gain, predicted, predicted_now
from deeprebirth_caffe.passes.patterns import Facts, strange
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.rewrite import Applied, ExactPass, Kind, Match, Reason, Refusal, Rewriter


@dataclass(frozen=True)
class _Plan:
    param: pb.LayerParameter
    shape: Shape
    macs: int | None


@dataclass(frozen=True)
class InnerToConvolution(ExactPass[_Plan]):
    """Makes convolutions of InnerProduct layers where that is faster."""

    name: ClassVar[str] = "inner-to-convolution"
    reshapes: ClassVar[bool] = True
    after: ClassVar[tuple[str, ...]] = ("join-siblings",)

    def match(self, net: Net) -> Iterator[Match[_Plan] | Refusal]:
        facts = Facts(net)
        for layer in net.layers:
            if layer.type == "InnerProduct":
                found = _look(facts, layer)
                yield Refusal(layer, found) if isinstance(found, Reason) else Match(layer, frozenset({layer}), found)

    def apply(self, match: Match[_Plan], rewriter: Rewriter) -> Applied:
        plan = match.plan
        layer = match.layer
        assert rewriter.net.weights is not None
        weight, *bias = rewriter.net.weights[layer.name]
        if layer.param.inner_product_param.transpose:
            weight = weight.T
        blob = layer.tops[0]
        done = Applied([layer.name], [], plan.macs, plan.macs)
        twin = rewriter.derive(layer, Kind.EXACT)
        twin.param.type = "Convolution"
        twin.param.ClearField("inner_product_param")
        twin.param.convolution_param.CopyFrom(plan.param.convolution_param)
        rewriter.set_weights(twin, [weight.reshape(weight.shape[0], *plan.shape), *bias])
        flat = pb.LayerParameter(name=rewriter.free(f"{twin.name}_flat"), type="Flatten", top=[blob])
        whole = rewriter.free(f"{twin.name}_whole")
        flat.bottom.append(whole)
        flat.include.extend(twin.param.include)
        flat.exclude.extend(twin.param.exclude)
        rewriter.set_tops(twin, [whole])
        rewriter.insert_after(twin, Layer(flat, None, twin.stage))
        done.rebirth.append(twin.name)
        return done


def _look(facts: Facts, layer: Layer) -> _Plan | Reason:
    if reason := strange(layer) or facts.fixed(layer) or missing_weights(facts.net.weights, [layer]):
        return reason
    own = layer.param.inner_product_param
    shapes = set()
    for value in facts.net.values_in(layer):
        if value.shape is None:
            return Reason(unknown_shape(value))
        if len(value.shape) != 4 or own.axis != 1:
            return Reason(f"{layer.name} does not read a C x H x W image")
        shapes.add(value.shape[1:])
    if len(shapes) != 1:
        return Reason(f"{layer.name} reads images of different sizes in different phases")
    (shape,) = shapes
    param = pb.LayerParameter(name=layer.name, type="Convolution", bottom=layer.bottoms, top=layer.tops)
    conv = param.convolution_param
    conv.num_output = own.num_output
    set_geometry(conv, shape[1:], (1, 1), (0, 0))
    if not own.bias_term:
        conv.bias_term = False
    for filler in ("weight_filler", "bias_filler"):
        if own.HasField(filler):
            getattr(conv, filler).CopyFrom(getattr(own, filler))
    bottoms = facts.shapes_in(layer)
    assert not isinstance(bottoms, Reason)
    conv_time = predicted(param, bottoms)
    if isinstance(conv_time, Reason):
        return conv_time  # Caffe would not run a window over a picture of nothing
    flat = predicted(pb.LayerParameter(type="Flatten", top=["flat"]), Layer(param).traits.shapes(param, bottoms))
    return no_gain(predicted_now(facts, [layer]), conv_time, flat) or _Plan(param, shape, facts.macs(layer))
