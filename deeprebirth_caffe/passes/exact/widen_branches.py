"""A convolution with a small kernel (1x1) into a sibling with a larger one on the same blob, by zero-padding: exact.

    k x k, pad p of x, K x K, pad P of x      becomes      K x K, pad P of x -> Slice

With the same stride and the same size of output, tap a of the small kernel looks at i s + a d - p, which is where tap
(P - p) / D + a d / D of the large one (dilation D) looks; all its other taps are 0. A 1x1 without pad beside a 3x3 with
pad 1 so becomes its middle tap. `passes.siblings` does the rest. The small kernel's multiply-adds grow (ninefold), so
the predicted time seldom falls: for a few channels beside many.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from deeprebirth_caffe.ir import Layer, Net
from deeprebirth_caffe.ops import ConvGeometry
from deeprebirth_caffe.passes.costs import no_gain
from deeprebirth_caffe.passes.patterns import THIS_SIZE, Facts, any_size
from deeprebirth_caffe.passes.siblings import Family, Member, apply_family, find_families, plan_family
from deeprebirth_caffe.rewrite import Applied, ExactPass, Match, Reason, Refusal, Rewriter

MOST = 32
"""Larger families are left alone: each member would be tried with each other, again after every one that fits."""


@dataclass(frozen=True)
class WidenBranches(ExactPass[Family]):
    """Pads small kernels with zeros to join them with larger ones."""

    name: ClassVar[str] = "widen-branches"
    reshapes: ClassVar[bool] = True
    after: ClassVar[tuple[str, ...]] = ("fold-average",)
    """A small branch looks for a larger one before it joins its like."""

    def match(self, net: Net) -> Iterator[Match[Family] | Refusal]:
        facts = Facts(net)
        for found in find_families(facts):
            if isinstance(found, Refusal):
                yield found
                continue
            if len(found) > MOST:
                why = Reason(f"more than {MOST} convolutions of its kind read {found[0].layer.bottoms[0]}")
                yield Refusal(found[0].layer, why)
                continue
            taken: set[Layer] = set()
            for guest in found:
                if guest.layer in taken:  # it waits for the next sweep
                    continue
                for one in _judge(facts, guest, found):
                    if isinstance(one, Match):
                        taken |= one.touches
                    yield one

    def apply(self, match: Match[Family], rewriter: Rewriter) -> Applied:
        return apply_family(rewriter, match.plan)


def _judge(facts: Facts, guest: Member, family: list[Member]) -> Iterator[Match[Family] | Refusal]:
    """The cheapest sibling that can take a member in, or why there is none; nothing where none is larger."""
    plans: list[Family] = []
    why: Reason | None = None
    for host in family:
        if not _larger(host.window, guest.window):
            continue
        shift = _shift(facts, guest, host)
        if isinstance(shift, Reason):
            why = why or shift
            continue
        parts = [(one.layer, shift if one is guest else (0, 0)) for one in family if one is guest or one is host]
        plan = plan_family(facts, parts, host.layer)
        reason = plan if isinstance(plan, Reason) else no_gain(plan.before, plan.after)
        if isinstance(plan, Family) and not reason:
            plans.append(plan)
        why = why or reason
    if plans:
        best = min(plans, key=lambda plan: plan.after - plan.before)
        yield Match(guest.layer, best.touches, best)
    elif why:
        yield Refusal(guest.layer, why)


def _larger(host: ConvGeometry, guest: ConvGeometry) -> bool:
    pairs = list(zip(host.kernel, guest.kernel, strict=True))
    return all(large >= small for large, small in pairs) and host.kernel != guest.kernel


def _shift(facts: Facts, guest: Member, host: Member) -> tuple[int, ...] | Reason:
    """Where the guest's first tap lies in the host's kernel, or why it does not fit."""
    sizes = zip(facts.net.values_out(guest.layer), facts.net.values_out(host.layer), strict=True)
    small, large = guest.window, host.window
    names = f"{guest.layer.name} and {host.layer.name}"
    if small.stride != large.stride:
        return Reason(f"{names} have different strides")
    if any(a.shape is None or b.shape is None or a.shape[2:] != b.shape[2:] for a, b in sizes):
        return Reason(f"{names} put out images of different sizes")
    if any_size(facts, guest.layer) and _loss(small) != _loss(large):
        return Reason(f"{names} put out images of different sizes for other sizes of theirs, {THIS_SIZE}")
    shift = []
    for axis in range(2):
        alike = small.kernel[axis] == 1 or small.dilation[axis] == large.dilation[axis]
        start, rest = divmod(large.pad[axis] - small.pad[axis], large.dilation[axis])
        if not alike or rest or not 0 <= start <= large.kernel[axis] - small.kernel[axis]:
            return Reason(f"the taps of {guest.layer.name} do not lie on those of {host.layer.name}")
        shift.append(start)
    return tuple(shift)


def _loss(window: ConvGeometry) -> list[int]:
    """How much smaller than the image the places are that a window can lie at, which tells the sizes it puts out."""
    return [extent - 2 * pad for extent, pad in zip(window.extent, window.pad, strict=True)]
