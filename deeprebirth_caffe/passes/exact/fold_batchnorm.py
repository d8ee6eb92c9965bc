"""BatchNorm and Scale with fixed statistics into the linear layer in front: exact.

The algebra is in `numerics.affine`. Only where the statistics are fixed in every state of the file: in a deploy net, or
with use_global_stats. In TRAIN a BatchNorm normalises with its own batch, so a net that still learns keeps it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.passes.batchnorm import (
    Chain,
    add_bias,
    batch_statistics,
    find_chain,
    folded,
    unfoldable,
)
from deeprebirth_caffe.passes.patterns import Facts
from deeprebirth_caffe.rewrite import Applied, Kind, Match, Pass, Refusal, Rewriter


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Folds BatchNorm and Scale into Convolution, Deconvolution and InnerProduct."""

    name: ClassVar[str] = "fold-batchnorm"
    kind: ClassVar[Kind] = Kind.EXACT

    def match(self, net: Net) -> Iterator[Match | Refusal]:
        facts = Facts(net)
        for layer in net.layers:
            chain = find_chain(facts, layer)
            if isinstance(chain, str):
                yield Refusal(layer, chain)
            elif chain is not None:
                learning = next((state for norm in chain.norms if (state := batch_statistics(net, norm))), "")
                if learning:
                    yield Refusal(
                        layer,
                        f"it uses batch statistics in {learning}: relearn with it, and `rebirth deploy` folds it "
                        "(or --bn prune)",
                    )
                elif reason := unfoldable(net.weights, chain):
                    yield Refusal(layer, reason)
                else:
                    macs = facts.macs(chain.host)
                    yield Match(layer, chain.all, (chain, macs))

    def apply(self, match: Match, rewriter: Rewriter) -> Applied:
        chain: Chain
        chain, macs = match.data
        assert rewriter.net.weights is not None
        arrays = folded(rewriter.net.weights, chain)
        done = Applied([chain.host.name, *(norm.name for norm in chain.norms)], [], macs, macs)
        twin = rewriter.derive(chain.host, Kind.EXACT, chain.norms)
        add_bias(twin)
        rewriter.set_weights(twin, arrays)
        for norm in chain.norms:
            rewriter.erase(norm)
        done.rebirth.append(twin.name)
        return done
