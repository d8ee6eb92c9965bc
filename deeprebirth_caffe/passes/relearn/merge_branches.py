"""Branch merging (paper, horizontal): a module's cheap branches into its larger convolutions.

In a module found by structure (`inception.py`):

- a pool branch (pool, stride 1 -> 1x1 projection) goes to the cheapest convolution branch whose kernel is at least as
  large as the pool's;
- a branch of one small convolution goes to the branch with the next larger kernel (the cheaper one of two);
- the host's last convolution takes over their output channels, and so do a BatchNorm, Scale or PReLU behind it;
- the 1x1 reducer in front of the convolution that grew most is scaled by `reduce`, others only where a pattern says so.

The Concat then joins fewer blobs. Its channels keep their order: a host's channels are laid out in the order that its
parts had; where that cannot restore the order, the readers' weights are permuted with it (`channels.py`), or the merge
is refused.

Cost gate: all merges of a module together must not raise its multiply-adds, or else the small branches alone, or else
the pool branches alone; what would raise them is refused.

Start (`numerics.inherit`): the host's old rows over the reducer channels that stay; for the new channels, the guest's
kernel brought to the reduced input by least squares, on the centre tap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from typing import ClassVar

import numpy as np

from deeprebirth_caffe.ir import Layer, Net
from deeprebirth_caffe.ops import conv_geometry, pool_geometry
from deeprebirth_caffe.options.convert import DEFAULT_REDUCE
from deeprebirth_caffe.passes.channels import has_channel_blobs, readers_to_permute
from deeprebirth_caffe.passes.patterns import Facts, is_pointwise
from deeprebirth_caffe.passes.relearn.graft import Graft, Grown, Shrunk, apply_graft
from deeprebirth_caffe.passes.relearn.inception import (
    Branch,
    Module,
    find_modules,
    guest_reason,
    host_reason,
)
from deeprebirth_caffe.passes.relearn.start import Start
from deeprebirth_caffe.rewrite import Applied, Kind, Match, Pass, Reason, Refusal, Rewriter


@dataclass(frozen=True)
class MergeBranches(Pass[Graft]):
    """Merges the branches of inception-like modules.

    Attributes:
        reduce: what the reducer in front of the convolution that grew most is scaled by.
        patterns: (pattern, ratio) for reducers by name, before `reduce`; they may also name a squeeze layer in front of
            the fork.
        force: merge even where the predicted cost rises.
        start: how the rebirth layers start.
    """

    name: ClassVar[str] = "merge-branches"
    kind: ClassVar[Kind] = Kind.RELEARN

    reduce: float = DEFAULT_REDUCE
    patterns: tuple[tuple[str, float], ...] = ()
    force: bool = False
    start: Start = Start()

    def match(self, net: Net) -> Iterator[Match[Graft] | Refusal]:
        facts = Facts(net)
        for found in find_modules(facts):
            if isinstance(found, Module):
                yield from self._judge(facts, found)
            else:
                yield found

    def _judge(self, facts: Facts, module: Module) -> Iterator[Match[Graft] | Refusal]:
        """The best affordable graft of one module, and why the other branches stay."""
        hosts = _Hosts(facts, [branch for branch in module.branches if not host_reason(facts, branch)])
        pairs: list[tuple[Branch, Branch]] = []
        for branch in module.branches:
            host = self._host_for(facts, branch, hosts)
            if isinstance(host, Branch):
                pairs.append((branch, host))
            elif host:
                yield Refusal(branch.layers[0], host)
        # A branch that is taken in cannot take others in: its guests move on to where it goes.
        going = dict(pairs)
        pairs = [(guest, _last(going, host)) for guest, host in pairs]
        small = [pair for pair in pairs if pair[0].pool is None]
        pools = [pair for pair in pairs if pair[0].pool is not None]
        why: Reason | None = None  # the largest merge is not made; what is left out is left out for this
        taken: set[int] = set()
        for option in (pairs, small, pools):
            graft = self._plan(facts, module, option) if option else None
            if not isinstance(graft, Graft):
                why = why or graft
            elif graft.macs_after > graft.macs_before and not self.force:
                why = why or _rises(graft.macs_before, graft.macs_after)
            else:
                yield Match(module.concat, module.all | graft.touches, graft)
                taken = {guest.position for guest, _ in option}
                break
        for guest, _ in pairs:
            if guest.position not in taken:
                assert why is not None, "the largest merge takes all"
                yield Refusal(guest.layers[0], why)

    def _host_for(self, facts: Facts, guest: Branch, hosts: _Hosts) -> Branch | Reason | None:
        """The branch that takes a guest in; a reason; or None for a branch that is no guest by kind (a host itself)."""
        if not guest.layers:
            return None
        reason = guest_reason(facts, guest)
        if guest.pool is not None:
            if not reason:
                reason = _pool_reason(facts, guest.pool)
            if reason:
                return reason
            window = _window(facts, guest.pool)
            able = hosts.at_least(window)
            need = f"a kernel of at least {window[0]}x{window[1]}"
        else:
            if reason:
                return None if len(guest.convs) > 1 else reason
            able = hosts.next_larger(guest.geometry.kernel)
            if not able:
                return None if hosts.count > 1 else Reason(f"no branch has a larger kernel than {guest.tail.name}")
            need = "a larger kernel"
        return hosts.cheapest(able, guest, need)

    def _plan(self, facts: Facts, module: Module, pairs: Sequence[tuple[Branch, Branch]]) -> Graft | Reason:
        parts: dict[Branch, list[Branch]] = {}
        for guest, host in pairs:
            parts.setdefault(host, [host]).append(guest)
        grown = [Grown(host, tuple(sorted(members, key=lambda part: part.position))) for host, members in parts.items()]
        order = _order(module, grown)
        readers: list[Layer] = []
        if not np.array_equal(order, np.arange(len(order))):
            found = readers_to_permute(facts, module.concat)
            if isinstance(found, Reason):
                return found
            readers = found
        shrunk = self._shrink(facts, module, grown, {guest.position for guest, _ in pairs})
        return Graft.plan(facts, module, tuple(grown), tuple(shrunk), order, tuple(readers))

    def _shrink(self, facts: Facts, module: Module, grown: Sequence[Grown], gone: set[int]) -> list[Shrunk]:
        """Which reducers lose how many channels."""
        most = max(grown, key=lambda one: (one.added, _macs_per_channel(facts, one.host)))
        found = []
        for branch in module.branches:
            if branch.position in gone or not branch.convs:
                continue
            reducer = branch.reducer()
            by_pattern_only = branch is not most.host
            if reducer is None:
                reducer, by_pattern_only = _squeeze(facts, module, branch, gone), True
            if reducer is None or host_reason(facts, branch):
                continue
            if any(facts.fixed(layer) for layer in (reducer[0], *filter(has_channel_blobs, reducer[1]))):
                continue
            ratio = next((value for pattern, value in self.patterns if fnmatchcase(reducer[0].name, pattern)), None)
            if ratio is None:
                ratio = 1.0 if by_pattern_only else self.reduce
            channels = conv_geometry(reducer[0].param).num_output
            keep = max(1, min(channels, round(channels * ratio)))
            if keep < channels:
                found.append(Shrunk(reducer[0], reducer[1], branch, keep))
        return found

    def apply(self, match: Match[Graft], rewriter: Rewriter) -> Applied:
        graft = match.plan
        return apply_graft(graft, rewriter, self.start)


class _Hosts:
    """The branches of a module that can take others in, by kernel and by what stands behind the convolution."""

    def __init__(self, facts: Facts, branches: Sequence[Branch]) -> None:
        self.count = len(branches)
        self._best: dict[tuple[tuple[int, ...], tuple[bytes, ...]], tuple[int, int, Branch]] = {}
        self._first: dict[tuple[int, ...], tuple[int, Branch]] = {}
        self._larger: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        for index, branch in enumerate(branches):
            kernel = tuple(branch.geometry.kernel)
            mine = (_macs_per_channel(facts, branch), index, branch)
            key = kernel, branch.ending
            self._best[key] = min(self._best.get(key, mine), mine, key=lambda one: one[:2])
            self._first.setdefault(kernel, (index, branch))

    def at_least(self, window: Sequence[int]) -> list[tuple[int, ...]]:
        """The kernels that are as large as a window."""
        return [kernel for kernel in self._first if _at_least(kernel, window)]

    def next_larger(self, kernel: Sequence[int]) -> list[tuple[int, ...]]:
        """The smallest kernels that are larger than another."""
        own = tuple(kernel)
        if own not in self._larger:
            able = [other for other in self._first if _larger(other, own)]
            smallest = min((prod(other) for other in able), default=0)
            self._larger[own] = [other for other in able if prod(other) == smallest]
        return self._larger[own]

    def cheapest(self, kernels: Sequence[tuple[int, ...]], guest: Branch, need: str) -> Branch | Reason:
        """The cheapest host of some kernels that ends as a guest does, or why there is none."""
        fitting = [self._best[key] for kernel in kernels if (key := (kernel, guest.ending)) in self._best]
        if fitting:
            return min(fitting, key=lambda one: one[:2])[2]
        if kernels:
            _, first = min((self._first[kernel] for kernel in kernels), key=lambda one: one[0])
            return Reason(f"what stands behind {guest.tail.name} is not what stands behind {first.tail.name}")
        return Reason(f"no convolution branch with {need} reads the same blob")


def _last(going: dict[Branch, Branch], host: Branch) -> Branch:
    while host in going:
        host = going[host]
    return host


def _rises(before: int, after: int) -> Reason:
    return Reason(
        f"merging it raises the predicted cost {after / max(before, 1):.1f}x ({before:,} to {after:,} multiply-adds); "
        "--force-merge merges it all the same"
    )


def _pool_reason(facts: Facts, pool: Layer) -> Reason | None:
    into, out = facts.value_in(pool).shape, facts.value_out(pool).shape
    if into is None or out is None or into[2:] != out[2:]:
        return Reason(f"{pool.name} changes the size of the image")
    return None


def _window(facts: Facts, pool: Layer) -> tuple[int, ...]:
    shape = facts.value_in(pool).shape
    assert shape is not None
    return tuple(pool_geometry(pool.param, shape).kernel)


def _at_least(kernel: Sequence[int], other: Sequence[int]) -> bool:
    return all(mine >= its for mine, its in zip(kernel, other, strict=True))


def _larger(kernel: Sequence[int], other: Sequence[int]) -> bool:
    return _at_least(kernel, other) and tuple(kernel) != tuple(other)


def _macs_per_channel(facts: Facts, host: Branch) -> int:
    return (facts.macs(host.tail) or 0) // host.geometry.num_output


def _order(module: Module, grown: Sequence[Grown]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Which old channel each channel of the Concat will be."""
    starts = np.concatenate([[0], np.cumsum(module.channels)])
    parts_of = {one.host.position: [part.position for part in one.parts] for one in grown}
    gone = {part.position for one in grown for part in one.parts if part is not one.host}
    order = [
        np.arange(starts[part], starts[part + 1])
        for position in range(len(module.channels))
        if position not in gone
        for part in parts_of.get(position, [position])
    ]
    return np.concatenate(order)


def _squeeze(facts: Facts, module: Module, branch: Branch, gone: set[int]) -> tuple[Layer, tuple[Layer, ...]] | None:
    """The 1x1 convolution in front of the fork, where the branch's only convolution will be the fork's only reader."""
    maker, top = module.fork
    alone = len(module.branches) == len(gone) + 1 and branch.position not in gone
    if len(branch.convs) != 1 or branch.layers[0] is not branch.tail or not alone or maker is None:
        return None
    inside = {b.layers[0] for b in module.branches if b.layers}
    if {reader for reader, _ in facts.net.readers(maker, top)} != inside:
        return None
    between: list[Layer] = []
    while is_pointwise(maker) and len(maker.bottoms) == 1:
        between.append(maker)
        found = facts.before(maker)
        if isinstance(found, Reason):
            return None
        maker = found
    if maker.type != "Convolution" or set(conv_geometry(maker.param).kernel) != {1}:
        return None
    return (maker, tuple(reversed(between))) if conv_geometry(maker.param).group == 1 else None
