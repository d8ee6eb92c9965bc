"""What a fork of Caffe says, said in plain Caffe: exact, under the same names, with the same weights.

    ConvolutionDepthwise, DepthwiseConvolution -> Convolution with groups      ReLU6 -> Clip
    ceil_mode -> nothing where it makes no difference, else round_mode         hole -> dilation
    SegNet's BN for inference -> Scale, NVCaffe's BatchNorm of five blobs -> BatchNorm and Scale (under new names)
    engines, precisions and other fields that change nothing that is computed -> nothing

Everything else of a fork stays, with the reason; `ops.forks` has the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from deeprebirth_caffe.ir import Layer, Net
from deeprebirth_caffe.ops.forks import Plain, to_plain
from deeprebirth_caffe.ops.forks.plain import STATISTICS
from deeprebirth_caffe.rewrite import Applied, Kind, Match, Pass, Reason, Refusal, Rewriter


@dataclass(frozen=True)
class Portable(Pass[Plain]):
    """Rewrites layers of forks as plain Caffe has them."""

    name: ClassVar[str] = "portable"
    kind: ClassVar[Kind] = Kind.EXACT

    def match(self, net: Net) -> Iterator[Match[Plain] | Refusal]:
        for layer in net.layers:
            if layer.op is None or layer.understood.fork:
                found = _plain(net, layer)
                if isinstance(found, Reason):
                    yield Refusal(layer, Reason(f"{layer.name} stays a fork's: {found}"))
                else:
                    yield Match(layer, frozenset({layer}), found)

    def apply(self, match: Match[Plain], rewriter: Rewriter) -> Applied:
        layer, plain = match.layer, match.plan
        assert isinstance(plain, Plain)
        gone = _outermost(layer, plain.cut)
        if plain.flat or plain.then is not None:
            made = _with_other_blobs(rewriter, layer, plain, gone)
        else:
            made = [rewriter.restate(layer, plain.param, gone)]
        notes = [_change(layer, made[0], plain, gone), *plain.notes]
        return Applied([layer.name], [one.name for one in made], notes=notes)


def _with_other_blobs(rewriter: Rewriter, layer: Layer, plain: Plain, gone: list[str]) -> list[Layer]:
    """Restates a layer whose blobs come in another shape or number, and so under a new name."""
    weights = rewriter.net.weights
    blobs = weights[layer.name] if weights is not None and layer.name in weights else None
    flat = [np.ascontiguousarray(blob).reshape(-1) for blob in blobs or ()]
    plain.param.name = rewriter.fresh(layer.name, Kind.EXACT)
    made = [rewriter.restate(layer, plain.param, gone)]
    parts = [flat]
    if plain.then is not None:
        plain.then.name = rewriter.free(plain.then.name)
        made.append(Layer(plain.then, None, layer.stage))
        rewriter.insert_after(made[0], made[1])
        # NVCaffe does not divide by the third blob, plain Caffe does.
        parts = [[*flat[: STATISTICS - 1], np.ones(1, np.float32)], flat[STATISTICS:]]
    if weights is not None and blobs is not None:
        weights.drop(layer.name)
    for one, arrays in zip(made, parts, strict=True):
        rewriter.made[one] = Kind.EXACT
        rewriter.origins[one] = [layer.name]
        if weights is not None and blobs is not None:
            rewriter.set_weights(one, arrays)
    return made


def _plain(net: Net, layer: Layer) -> Plain | Reason:
    """The layer in plain Caffe, right in every state of the net; or why not."""
    extra = layer.source.extra if layer.source is not None else {}
    found: Plain | None = None
    for view in net.views:
        if layer in view.ins:
            shapes = [value.shape for value in view.ins[layer] if value.shape is not None]
            # What holds at one size of image is not to be relied on where others can come.
            known = len(shapes) == len(layer.bottoms) and not (layer.type == "Pooling" and net.other_sizes.reach(layer))
            plain = to_plain(layer.param, extra, shapes if known else [])
            if isinstance(plain, str):
                return Reason(plain)
            # Where the states differ, one of them needs round_mode, which says what holds in all.
            if found is None or len(plain.notes) > len(found.notes):
                found = plain
    return found if found is not None else Reason("it is alive in no state")


def _outermost(layer: Layer, cut: set[str]) -> list[str]:
    """The layer's unknown fields that go: those all of whose parts have done their work."""
    unknown = layer.source.unknown if layer.source is not None else []
    return [path for path in unknown if any(one == path or one.startswith(f"{path}.") for one in cut)]


def _change(before: Layer, after: Layer, plain: Plain, gone: list[str]) -> str:
    """What was done, in words."""
    parts = []
    if before.type != after.type:
        groups = after.param.convolution_param.group
        parts.append(f"type {before.type} -> {after.type}" + (f" with {groups} groups" if groups > 1 else ""))
    old, new = before.param.convolution_param.dilation, plain.param.convolution_param.dilation
    if list(old) != list(new):
        parts.append(f"dilation {'x'.join(map(str, new))}")
    if plain.then is not None:
        parts.append("scale and bias in a layer of their own")
    if plain.param.pooling_param.round_mode != before.param.pooling_param.round_mode:
        parts.append("round_mode FLOOR")
    if gone:
        parts.append(f"without {', '.join(gone)}")
    return f"{after.name}: {', '.join(parts)}"
