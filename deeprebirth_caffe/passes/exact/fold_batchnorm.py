"""BatchNorm, Scale, Bias and Power (power 1), in chains of any length, into the linear layer in front: exact.

    y = s * (W a + b) + t = (s * W) a + (s * b + t)          s, t: what the chain makes of each channel

That holds for any stride, pad, dilation and group, of Convolution, Deconvolution and InnerProduct, since it only scales
what the layer puts out. The numbers are in `numerics.affine`. Only where a BatchNorm's statistics are fixed in every
state of the file: in a deploy net, or with use_global_stats. In TRAIN it normalises with its own batch, so a net that
still learns keeps it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.passes.batchnorm import (
    Chain,
    add_bias,
    find_chain,
    folded,
    learning,
    unfoldable,
)
from deeprebirth_caffe.passes.patterns import Facts
from deeprebirth_caffe.rewrite import Applied, ExactPass, Kind, Match, Reason, Refusal, Rewriter


@dataclass(frozen=True)
class FoldBatchNorm(ExactPass[Chain]):
    """Folds affine layers into the Convolution, Deconvolution or InnerProduct in front of them.

    Attributes:
        layers: the layers that it looks at, each the first of its chain; None: all.
    """

    name: ClassVar[str] = "fold-batchnorm"
    after: ClassVar[tuple[str, ...]] = ("drop-identities",)

    layers: frozenset[str] | None = None

    def match(self, net: Net) -> Iterator[Match[Chain] | Refusal]:
        facts = Facts(net)
        for layer in net.layers:
            if self.layers is not None and layer.name not in self.layers:
                continue
            chain = find_chain(facts, layer, fixed_only=True)
            if isinstance(chain, Reason):
                yield Refusal(layer, chain)
            elif chain is not None:
                if reason := learning(net, chain.norms) or unfoldable(net.weights, chain):
                    yield Refusal(layer, reason)
                else:
                    yield Match(layer, chain.all, chain)

    def apply(self, match: Match[Chain], rewriter: Rewriter) -> Applied:
        chain = match.plan
        assert rewriter.net.weights is not None
        arrays = folded(rewriter.net.weights, chain)
        done = Applied([chain.host.name, *(norm.name for norm in chain.norms)], [], chain.macs, chain.macs)
        twin = rewriter.derive(chain.host, Kind.EXACT, chain.norms)
        add_bias(twin)
        rewriter.set_weights(twin, arrays)
        for norm in chain.norms:
            rewriter.erase(norm)
        done.rebirth.append(twin.name)
        return done
