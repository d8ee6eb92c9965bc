"""Truncated Tucker-2 and SVD (Kim et al. 2015): a linear layer becomes two or three thin ones, to be learned again.

    W (out, in, k, k)  ~  U (out, r)  x  G (r, s, k, k)  x  V (s, in)

    Convolution k x k   becomes   V as 1x1  ->  G as k x k, with stride, pad, dilation  ->  U as 1x1, with the bias
    Convolution 1 x 1   becomes   S V' as 1x1, with stride and pad  ->  U as 1x1, with the bias
    InnerProduct        becomes   S V'  ->  U, with the bias

`factors` has the layers, `numerics.tucker` the algebra. The ranks come from outside (`rank_choice`). A layer whose
multiply-adds or predicted time would not fall at its ranks is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from deeprebirth_caffe.ir import Layer, Net
from deeprebirth_caffe.passes.patterns import Facts
from deeprebirth_caffe.passes.relearn.factors import Cost, Part, Ranks, Site, find_site, gate
from deeprebirth_caffe.passes.relearn.start import set_filler
from deeprebirth_caffe.rewrite import Applied, Kind, Match, Pass, Reason, Refusal, Rewriter

Array = npt.NDArray[Any]


_Plan = tuple[Site, Ranks, Cost, Cost]
"""Where, at which ranks, and what it costs before and after."""


@dataclass(frozen=True)
class Tucker(Pass[_Plan]):
    """Decomposes convolutions and InnerProducts.

    Attributes:
        ranks: of the layers that are decomposed, by name.
        left: layers that whoever chose the ranks left alone, and why.
        moments: second moments of what layers read, by layer.
        force: decompose even where the predicted cost does not fall.
    """

    name: ClassVar[str] = "tucker"
    kind: ClassVar[Kind] = Kind.RELEARN

    ranks: Mapping[str, Ranks] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)
    moments: Mapping[str, Array] = field(default_factory=dict)
    force: bool = False

    def match(self, net: Net) -> Iterator[Match[_Plan] | Refusal]:
        facts = Facts(net)
        for layer in net.layers:
            if not layer.traits.linear:
                continue
            site = find_site(facts, layer)
            if isinstance(site, Reason):
                yield Refusal(layer, site)
            elif layer.name in self.left:
                yield Refusal(layer, Reason(self.left[layer.name]))
            elif layer.name in self.ranks:
                yield self._judge(net, site, self.ranks[layer.name])

    def _judge(self, net: Net, site: Site, ranks: Ranks) -> Match[_Plan] | Refusal:
        if net.weights is None or site.layer.name not in net.weights:
            return Refusal(site.layer, Reason("there are no weights for it"))
        if reason := site.misfit(ranks):
            return Refusal(site.layer, reason)
        before, after = site.now(), site.then(ranks)
        if not self.force and (reason := gate(before, after)):
            return Refusal(site.layer, Reason(f"at {spell(ranks)} {reason}"))
        return Match(site.layer, frozenset({site.layer}), (site, ranks, before, after))

    def apply(self, match: Match[_Plan], rewriter: Rewriter) -> Applied:
        site, ranks, before, after = match.plan
        layer, weights = site.layer, rewriter.net.weights
        assert weights is not None
        old = weights[layer.name]
        arrays, error = site.factorize(old, ranks, self.moments)
        parts = site.parts(ranks)
        done = Applied([layer.name], [], before.macs, after.macs)
        done.ranks, done.error = ranks, round(error, 6)
        done.notes.append(
            f"{spell(ranks)} of {' and '.join(map(str, site.whole))}; "
            f"{before.weights:,} to {after.weights:,} weights, {100 * error:.1f} % off"
        )
        stem = rewriter.fresh(layer.name, Kind.RELEARN)
        made = [self._part(rewriter, layer, part, f"{stem}_{part.role}") for part in parts[:-1]]
        chain = [layer.bottoms[0], *(one.name for one in made)]
        last = rewriter.derive(layer, Kind.RELEARN, name=rewriter.free(f"{stem}_{parts[-1].role}"))
        parts[-1].param.name = last.name
        last.param.CopyFrom(parts[-1].param)
        for one in reversed(made):
            rewriter.insert_before(last, one)
            rewriter.made[one] = Kind.RELEARN
            rewriter.origins[one] = rewriter.origins[last]
        for index, (one, blob) in enumerate(zip([*made, last], chain, strict=True)):
            rewriter.set_bottoms(one, [blob])
            if index:
                one.param.ClearField("propagate_down")  # the first one's is for all of them
        for one, array in zip([*made, last], arrays, strict=True):
            set_filler(one)
            bias = list(old[1:]) if one is last else []
            rewriter.set_weights(one, [np.asarray(array), *bias])
            done.rebirth.append(one.name)
        return done

    @staticmethod
    def _part(rewriter: Rewriter, layer: Layer, part: Part, name: str) -> Layer:
        """A new layer with a blob of its own; its bottom is set later."""
        one = Layer(part.param, None, layer.stage)
        one.param.name = rewriter.free(name)
        del one.param.top[:]
        one.param.top.append(one.name)
        return one


def spell(ranks: Ranks) -> str:
    """For people."""
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} and {ranks[1]}"
