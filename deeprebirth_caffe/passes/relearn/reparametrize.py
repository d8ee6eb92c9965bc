"""Rebirth convolutions that learn as several layers side by side, all linear, and are one again when they are deployed.

    conv -> …      becomes      conv -> BatchNorm -> Scale, and beside it
                                smaller conv -> BatchNorm -> Scale, …, all into Eltwise SUM -> …

The main part is the layer as it was. Its normalisation puts out what it reads, at first and in TEST: with statistics
(m, v), Scale multiplies by sqrt(v + eps) and adds m, and the layer's bias, which BatchNorm would take out while it
learns. The parts beside it have smaller kernels (or the same again), with the stride and dilation of the main one and
such a pad that they put out as much and every tap lies on one of its taps (`numerics.parallel.within`); their Scale
starts at 0, so what the net computes stays what it was. `fold-batchnorm` and `sum-siblings` make one convolution with
the main one's window of it, which has the layer's own name again. A RELEARN pass, since BatchNorm uses the statistics
of its batch while it learns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from deeprebirth_caffe.ir import Layer, Net, unknown_shape
from deeprebirth_caffe.ir.stages import MAIN_SUFFIX
from deeprebirth_caffe.numerics.compose import Axis
from deeprebirth_caffe.numerics.parallel import within
from deeprebirth_caffe.ops import ConvGeometry, conv_geometry
from deeprebirth_caffe.options.convert import DEFAULT_PARTS
from deeprebirth_caffe.passes.convs import set_geometry
from deeprebirth_caffe.passes.patterns import Facts
from deeprebirth_caffe.passes.relearn.start import Start, bias_value, set_filler
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.rewrite import Applied, Kind, Match, Pass, Reason, Refusal, Rewriter

Array = npt.NDArray[Any]

SPELLING = re.compile(r"(k|[1-9]\d{0,2})x(k|[1-9]\d{0,2})")
MOVING_AVERAGE = 0.99
GUESSED = 1e-3
"""What made-up statistics count beside those of the first batch, so that they are soon forgotten."""


@dataclass(frozen=True)
class _Part:
    """A convolution beside the main one."""

    kernel: tuple[int, int]
    pad: tuple[int, int]

    @property
    def role(self) -> str:
        return f"{self.kernel[0]}x{self.kernel[1]}"


@dataclass(frozen=True)
class _Plan:
    parts: tuple[_Part, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Reparametrize(Pass[_Plan]):
    """Gives rebirth convolutions BatchNorm, Scale and parallel kernels.

    Attributes:
        layers: the convolutions, by name.
        parts: the kernels beside each: "1x1", "1xk", "kxk", …, k being the layer's own size.
        seed: of the added kernels' first weights.
    """

    name: ClassVar[str] = "reparametrize"
    kind: ClassVar[Kind] = Kind.RELEARN

    layers: frozenset[str] = frozenset()
    parts: tuple[str, ...] = DEFAULT_PARTS
    seed: int = 0

    def match(self, net: Net) -> Iterator[Match[_Plan] | Refusal]:
        facts = Facts(net)
        for layer in net.layers:
            if layer.name in self.layers:
                found = self._look(facts, layer)
                yield Refusal(layer, found) if isinstance(found, Reason) else Match(layer, frozenset({layer}), found)

    def _look(self, facts: Facts, layer: Layer) -> _Plan | Reason:
        if layer.type != "Convolution":
            return Reason(f"{layer.name} is no Convolution ({layer.type}): it learns as one layer")
        if reason := facts.fixed(layer):
            return reason
        if len(layer.bottoms) != 1 or layer.param.convolution_param.axis != 1:
            return Reason(f"{layer.name} is not a 2-d convolution over channels")
        specs = layer.param.param
        if facts.trains and len(specs) > 0 and not any(spec.lr_mult for spec in specs):
            return Reason(f"{layer.name} is frozen (lr_mult 0)")
        if any(reader.type == "BatchNorm" for reader, _ in facts.net.readers(layer)):
            return Reason(f"{layer.name} has a BatchNorm behind it already")
        sizes: list[tuple[tuple[int, int], tuple[int, int]]] = []
        for into, out in zip(facts.net.values_in(layer), facts.net.values_out(layer), strict=True):
            for value in (into, out):
                if value.shape is None:
                    return Reason(unknown_shape(value))
                if len(value.shape) != 4:
                    return Reason(f"{layer.name} is not a 2-d convolution over channels")
            assert into.shape is not None and out.shape is not None
            sizes.append(((into.shape[2], out.shape[2]), (into.shape[3], out.shape[3])))
        window = conv_geometry(layer.param, 2)
        parts: dict[tuple[int, int], _Part] = {}
        notes = []
        for spelled in self.parts:
            kernel = kernel_of(spelled, window)
            if kernel in parts or (kernel == window.kernel and spelled != "kxk"):
                continue  # the same again, as 1xk of a 1x1
            pads = _pads(window, kernel, sizes)
            if pads is None:
                notes.append(f"{layer.name}: no pad lays {spelled} on its taps; it learns without")
            else:
                parts[kernel] = _Part(kernel, pads)
        return _Plan(tuple(parts.values()), tuple(notes))

    def apply(self, match: Match[_Plan], rewriter: Rewriter) -> Applied:
        plan = match.plan
        host = match.layer
        macs = Facts(rewriter.net).macs(host)
        done = Applied([host.name], [], macs, macs, list(plan.notes))
        stem, top = host.name, host.tops[0]
        main = rewriter.derive(host, Kind.RELEARN, name=rewriter.free(f"{stem}{MAIN_SUFFIX}"))
        added: list[Layer] = []
        ends: list[str] = []
        for part in (None, *plan.parts):
            conv = main if part is None else _beside(rewriter, main, part, f"{stem}_{part.role}")
            # A blob of its own, where more than one make the sum.
            blob = conv.name if plan.parts else top
            if part is None:
                rewriter.set_tops(conv, [blob])
            else:
                conv.param.top.append(blob)
                added.append(conv)
            ends.append(blob)
            added += _normalised(rewriter, main, conv, blob)
        if plan.parts:
            param = pb.LayerParameter(name=rewriter.free(f"{stem}_sum"), type="Eltwise", bottom=ends, top=[top])
            added.append(_like(main, param))
        for layer in added:
            rewriter.insert_after(main, layer)
            rewriter.made[layer] = Kind.RELEARN
        self._set_weights(rewriter, [main, *added])
        done.rebirth += [layer.name for layer in (main, *added)]
        sides = "".join(f" + {part.role}" for part in plan.parts)
        done.notes.append(
            f"{stem} learns {f'as itself{sides}, each ' if sides else ''}with BatchNorm and Scale; "
            "rebirth deploy makes one layer of it"
        )
        return done

    def _set_weights(self, rewriter: Rewriter, block: Sequence[Layer]) -> None:
        """The first weights of a block's layers: main, BatchNorm, Scale, and so on for each part."""
        weights = rewriter.net.weights
        main = block[0]
        if weights is None or main.name not in weights:
            return
        old = weights[main.name]
        channels = len(old[0])
        # Where the layer has a bias, Scale adds it instead: BatchNorm would take it out while it learns.
        shift = np.array(old[1], dtype=np.float32).reshape(-1) if len(old) > 1 else np.zeros(channels, np.float32)
        for layer in block:
            if layer is main:
                rewriter.set_weights(layer, [old[0], *(np.zeros_like(blob) for blob in old[1:])])
            elif layer.type == "Convolution":
                window = conv_geometry(layer.param, 2)
                shapes = [(*old[0].shape[:2], *window.kernel)]
                rewriter.set_weights(layer, Start("xavier", self.seed).noise(layer, shapes))
            elif layer.type == "BatchNorm":
                rewriter.set_weights(layer, statistics(np.zeros(channels), np.ones(channels), GUESSED))
        first = next(layer for layer in block if layer.type == "Scale")
        for layer in block:
            if layer is first:
                rewriter.set_weights(layer, unscaled(np.zeros(channels), np.ones(channels), shift))
            elif layer.type == "Scale":
                rewriter.set_weights(layer, [np.zeros(channels, np.float32)])


def kernel_of(spelled: str, window: ConvGeometry) -> tuple[int, int]:
    """The size that "1xk" and the like mean for a layer; `SPELLING` says what they look like."""
    found = SPELLING.fullmatch(spelled)
    assert found is not None
    high, wide = (own if word == "k" else int(word) for word, own in zip(found.groups(), window.kernel, strict=True))
    return high, wide


def statistics(mean: Array, variance: Array, count: float = 1.0) -> list[Array]:
    """The three blobs of a BatchNorm, which keeps sums.

    Args:
        mean: of each channel.
        variance: of each channel.
        count: what they count beside the 1 of each batch that is still to come.
    """
    return [np.asarray(blob, dtype=np.float32) for blob in (mean * count, variance * count, np.array([count]))]


def unscaled(mean: Array, variance: Array, shift: Array) -> list[Array]:
    """The two blobs of a Scale that undoes a BatchNorm of these statistics, and adds a shift."""
    gain = np.sqrt(np.asarray(variance, dtype=np.float64) + pb.BatchNormParameter().eps)
    return [np.asarray(blob, dtype=np.float32) for blob in (gain, mean + shift)]


def _pads(
    window: ConvGeometry, kernel: tuple[int, int], sizes: Sequence[tuple[tuple[int, int], tuple[int, int]]]
) -> tuple[int, int] | None:
    """The pads of a smaller kernel, or None where it cannot lie on the larger one's taps."""
    found = []
    for axis in range(2):
        host = Axis(window.kernel[axis], window.stride[axis], window.pad[axis], window.dilation[axis])
        fits = within(host, kernel[axis], [each[axis] for each in sizes])
        if fits is None:
            return None
        found.append(fits.pad)
    return found[0], found[1]


def _like(main: Layer, param: pb.LayerParameter) -> Layer:
    """A new layer of the same stage and phases."""
    for rules, own in ((param.include, main.param.include), (param.exclude, main.param.exclude)):
        del rules[:]
        rules.extend(own)
    return Layer(param, None, main.stage)


def _beside(rewriter: Rewriter, main: Layer, part: _Part, name: str) -> Layer:
    """A convolution of the same blob without a bias; its top is set later."""
    param = pb.LayerParameter()
    param.CopyFrom(main.param)
    param.name = rewriter.free(name)
    del param.top[:]
    del param.param[1:]
    for spec in param.param:
        # The name of a shared blob is not shared with one of another shape.
        spec.ClearField("name")
        spec.ClearField("share_mode")
    own = param.convolution_param
    window = conv_geometry(main.param, 2)
    set_geometry(own, part.kernel, window.stride, part.pad)
    own.bias_term = False
    own.ClearField("bias_filler")
    conv = _like(main, param)
    set_filler(conv)
    return conv


def _normalised(rewriter: Rewriter, main: Layer, conv: Layer, blob: str) -> list[Layer]:
    """BatchNorm and Scale behind a part, in place; only the main one's adds something."""
    norm = pb.LayerParameter(name=rewriter.free(f"{conv.name}_bn"), type="BatchNorm", bottom=[blob], top=[blob])
    norm.batch_norm_param.moving_average_fraction = MOVING_AVERAGE
    scale = pb.LayerParameter(name=rewriter.free(f"{conv.name}_scale"), type="Scale", bottom=[blob], top=[blob])
    specs = [pb.ParamSpec(lr_mult=spec.lr_mult, decay_mult=spec.decay_mult) for spec in main.param.param]
    if conv is main:
        scale.param.extend(specs if len(specs) != 1 else specs * 2)
        scale.scale_param.bias_term = True
        if shift := bias_value(main):
            scale.scale_param.bias_filler.value = shift
    else:
        scale.param.extend(specs[:1])
        scale.scale_param.filler.value = 0
    return [_like(main, norm), _like(main, scale)]
