"""Average pooling into the convolution in front of it or behind it: exact.

    average of m x m, stride q -> k x k, stride s      becomes      K x K, stride q s, K = (k - 1) q + m
    k x k, stride s -> average of m x m, stride q      becomes      K x K, stride s q, K = (m - 1) s + k

An average is a convolution with a group for each channel, so this is `numerics.compose`. Only without pad and overhang:
there Caffe divides by fewer numbers. Behind a pooling the convolution may pad only where the pool's stride is at least
its kernel. Only where the predicted time falls, which it does for small pools behind cheap convolutions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from deeprebirth_caffe.ir import Layer, Net
from deeprebirth_caffe.passes.patterns import Facts
from deeprebirth_caffe.passes.windows import Joint, apply_joint, join_windows, neighbours
from deeprebirth_caffe.rewrite import Applied, ExactPass, Match, Refusal, Rewriter


@dataclass(frozen=True)
class FoldAverage(ExactPass[Joint]):
    """Folds average pooling into neighbouring convolutions."""

    name: ClassVar[str] = "fold-average"
    reshapes: ClassVar[bool] = True
    after: ClassVar[tuple[str, ...]] = ("compose-convolutions",)

    def match(self, net: Net) -> Iterator[Match[Joint] | Refusal]:
        facts = Facts(net)
        for first, second in neighbours(facts, _fits):
            pool = first if first.type == "Pooling" else second
            if pool.param.pooling_param.pool != pool.param.pooling_param.AVE:
                continue
            found = join_windows(facts, first, second)
            yield Match(pool, frozenset(found.pair), found) if isinstance(found, Joint) else Refusal(pool, found)

    def apply(self, match: Match[Joint], rewriter: Rewriter) -> Applied:
        return apply_joint(rewriter, match.plan)


def _fits(first: Layer, second: Layer) -> bool:
    """Whether one of two layers pools and the other convolves."""
    host, pool = (first, second) if second.type == "Pooling" else (second, first)
    return host.type == "Convolution" and pool.type == "Pooling"
