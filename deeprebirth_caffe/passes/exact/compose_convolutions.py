"""Two convolutions in a row, with nothing between them, as one: exact.

    k1 x k1, stride s1 -> k2 x k2, stride s2      becomes      K x K, stride s1 s2, K = (k2 - 1) s1 + k1

The algebra, with dilation, and when a pad of the second convolution is exact, is in `numerics.compose`: only where the
first has no bias and, beyond the image, would see nothing but its own pad (a 1x1 convolution without bias does). Groups
are brought to their greatest common divisor. A ReLU between, in place or not, is a layer between. Only where the
predicted time falls: mostly a 1x1 beside a larger kernel with few channels outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.passes.patterns import Facts
from deeprebirth_caffe.passes.windows import Joint, apply_joint, join_windows, neighbours
from deeprebirth_caffe.rewrite import Applied, ExactPass, Match, Refusal, Rewriter


@dataclass(frozen=True)
class ComposeConvolutions(ExactPass[Joint]):
    """Joins linear convolutions that follow each other."""

    name: ClassVar[str] = "compose-convolutions"
    reshapes: ClassVar[bool] = True

    def match(self, net: Net) -> Iterator[Match[Joint] | Refusal]:
        facts = Facts(net)
        for first, second in neighbours(facts, lambda one, other: one.type == other.type == "Convolution"):
            found = join_windows(facts, first, second)
            yield Match(second, frozenset(found.pair), found) if isinstance(found, Joint) else Refusal(second, found)

    def apply(self, match: Match[Joint], rewriter: Rewriter) -> Applied:
        return apply_joint(rewriter, match.plan)
