"""LRN removal (paper, streamline merging): the convolution in front learns to do without it.

    linear layer -> [ReLU, Pooling, …] -> LRN -> …   becomes   linear layer' -> [ReLU, Pooling, …] -> …

Shapes do not change. The layer in front starts with its old weights, or anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.passes.patterns import Facts, Hosts, find_hosts, strange
from deeprebirth_caffe.passes.relearn.start import Start, set_filler
from deeprebirth_caffe.rewrite import Applied, Kind, Match, Pass, Reason, Refusal, Rewriter


@dataclass(frozen=True)
class RemoveLrn(Pass[Hosts]):
    """Removes LRN layers.

    Attributes:
        joins: whether an LRN behind a Concat or Eltwise is taken too.
        start: how the rebirth layers start.
    """

    name: ClassVar[str] = "remove-lrn"
    kind: ClassVar[Kind] = Kind.RELEARN

    joins: bool = True
    start: Start = Start()

    def match(self, net: Net) -> Iterator[Match[Hosts] | Refusal]:
        facts = Facts(net)
        for layer in net.layers:
            if layer.type == "LRN":
                hosts = find_hosts(facts, layer, linear=True, through_joins=self.joins, through_pools=True)
                reason = strange(layer) or (hosts if isinstance(hosts, Reason) else None)
                if not reason and len(layer.tops) != 1:
                    reason = Reason(f"{layer.name} has {len(layer.tops)} tops")
                if reason:
                    yield Refusal(layer, reason)
                elif isinstance(hosts, Hosts):
                    yield Match(layer, hosts.all | {layer}, hosts)

    def apply(self, match: Match[Hosts], rewriter: Rewriter) -> Applied:
        hosts = match.plan
        done = Applied(removed=[match.layer.name], macs_before=hosts.macs, macs_after=hosts.macs)
        for host in hosts.convs:
            if host not in rewriter.made:
                done.removed.append(host.name)
            twin = rewriter.derive(host, Kind.RELEARN, [match.layer])
            set_filler(twin)
            weights = rewriter.net.weights
            if weights is not None and twin.name in weights:
                old = weights[twin.name]
                self.start.set(rewriter, twin, [blob.shape for blob in old], old)
            done.rebirth.append(twin.name)
        rewriter.erase(match.layer)
        return done
