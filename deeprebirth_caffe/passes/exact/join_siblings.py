"""Convolutions with the same window on one blob (the 1x1s of an inception module) as one and a Slice: exact.

    1x1 a of x, 1x1 b of x      becomes      1x1 (a; b) of x -> Slice -> a, b

`passes.siblings` does it. The image is then packed for the matrix product once instead of once a convolution; the
Slice copies what comes out. So wide convolutions of a thin blob stay out: of each family, taken from the narrowest on,
as many are joined as make the predicted time least, if any do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.passes.costs import no_gain
from deeprebirth_caffe.passes.patterns import Facts
from deeprebirth_caffe.passes.siblings import Family, Member, apply_family, find_families, plan_family
from deeprebirth_caffe.rewrite import Applied, ExactPass, Match, Reason, Refusal, Rewriter


@dataclass(frozen=True)
class JoinSiblings(ExactPass[Family]):
    """Joins convolutions that differ in their weights alone."""

    name: ClassVar[str] = "join-siblings"
    reshapes: ClassVar[bool] = True
    after: ClassVar[tuple[str, ...]] = ("widen-branches",)

    def match(self, net: Net) -> Iterator[Match[Family] | Refusal]:
        facts = Facts(net)
        for found in find_families(facts):
            if isinstance(found, Refusal):
                yield found
                continue
            alike: dict[object, list[Member]] = {}
            for member in found:
                alike.setdefault(replace(member.window, num_output=0, bias=False), []).append(member)
            for members in alike.values():
                if len(members) > 1:
                    yield _best(facts, members)

    def apply(self, match: Match[Family], rewriter: Rewriter) -> Applied:
        return apply_family(rewriter, match.plan)


def _best(facts: Facts, members: list[Member]) -> Match[Family] | Refusal:
    """As many of the members, from the narrowest on, as gain most."""
    narrow = sorted(members, key=lambda member: member.window.num_output)
    best: Family | None = None
    why: Reason | None = None
    chosen = {narrow[0].layer}
    for member in narrow[1:]:
        chosen.add(member.layer)
        # In the order of the file, which is how people expect to find them in the Slice.
        parts = [(one.layer, (0, 0)) for one in members if one.layer in chosen]
        plan = plan_family(facts, parts, parts[0][0])
        reason = plan if isinstance(plan, Reason) else no_gain(plan.before, plan.after)
        if isinstance(plan, Reason) or reason:
            why = why or reason
        elif best is None or plan.after - plan.before < best.after - best.before:
            best = plan
    if best is None:
        assert why is not None, "there are two members at least"
        return Refusal(members[0].layer, why)
    return Match(best.members[0], best.touches, best)
