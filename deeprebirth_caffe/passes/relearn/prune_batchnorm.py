"""BatchNorm and Scale removed (paper, streamline merging): the layer in front learns to do without them.

    linear layer -> BatchNorm -> Scale -> …   becomes   linear layer' -> …

The layer gets a bias where it had none (Scale's shift needs a home). With `inherit` it starts with the global
statistics folded in: in TEST the net then computes what it did; what is lost is the batch's own statistics while it
learns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.passes.batchnorm import Chain, add_bias, find_chain, folded, unfoldable
from deeprebirth_caffe.passes.patterns import Facts
from deeprebirth_caffe.passes.relearn.start import Start, set_filler
from deeprebirth_caffe.rewrite import Applied, Kind, Match, Pass, Reason, Refusal, Rewriter


@dataclass(frozen=True)
class PruneBatchNorm(Pass[Chain]):
    """Removes BatchNorm and Scale behind linear layers.

    Attributes:
        start: how the rebirth layers start.
    """

    name: ClassVar[str] = "prune-batchnorm"
    kind: ClassVar[Kind] = Kind.RELEARN

    start: Start = Start()

    def match(self, net: Net) -> Iterator[Match[Chain] | Refusal]:
        facts = Facts(net)
        for layer in net.layers:
            chain = find_chain(facts, layer, norms_only=True)
            if isinstance(chain, Reason):
                yield Refusal(layer, chain)
            elif chain is not None:
                if net.weights is not None and (reason := unfoldable(net.weights, chain)):
                    yield Refusal(layer, reason)
                else:
                    yield Match(layer, chain.all, chain)

    def apply(self, match: Match[Chain], rewriter: Rewriter) -> Applied:
        chain = match.plan
        done = Applied([chain.host.name, *(norm.name for norm in chain.norms)], [], chain.macs, chain.macs)
        arrays = folded(rewriter.net.weights, chain) if rewriter.net.weights is not None else None
        twin = rewriter.derive(chain.host, Kind.RELEARN, chain.norms)
        add_bias(twin)
        set_filler(twin)
        if arrays is not None:
            self.start.set(rewriter, twin, [array.shape for array in arrays], arrays)
        for norm in chain.norms:
            rewriter.erase(norm)
        done.rebirth.append(twin.name)
        return done
