"""Pooling into the stride of the convolution in front (paper, streamline merging).

    conv (k, s, p) -> [ReLU, LRN, BatchNorm, Scale, …] -> pool (m, q, r)   becomes   conv (k', s * q, p') -> […]

The layers between see one position at a time, so they stay where they are, on the smaller blob. A pool behind a
Concat or an Eltwise goes into the last convolution of every branch; nobody else may read what lies between. The pad
(`geometry.py`) keeps the output's height and width, the blob keeps the pool's name, and the shift of the sampling grid
is reported. The kernel k' is k (`keep`), the receptive field k + (m - 1) * s (`receptive`), or a number.

As in the paper (`paper`), pools behind a join stay, and so do all pools of a net without inception modules: the paper
folds pool1 and pool2 of GoogLeNet, and leaves those of AlexNet, a plain chain, and ResNet-50, whose branches are added.

Start: the old taps, placed so that they look at the middle of the pool's window as far as the kernel's size allows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from deeprebirth_caffe.ir import Layer, Net, unknown_shape
from deeprebirth_caffe.numerics.inherit import embed
from deeprebirth_caffe.ops import conv_geometry, pool_geometry
from deeprebirth_caffe.passes.convs import set_geometry
from deeprebirth_caffe.passes.patterns import Facts, Hosts, any_size, find_hosts, strange
from deeprebirth_caffe.passes.relearn.geometry import Axis, AxisPlan
from deeprebirth_caffe.passes.relearn.inception import Module, find_modules
from deeprebirth_caffe.passes.relearn.start import Start, set_filler
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.rewrite import Applied, Kind, Match, Pass, Reason, Refusal, Rewriter

PAPER_KEEPS = Reason(
    "left alone by --paper: the paper folds pools into strides in nets of inception modules (GoogLeNet) alone; "
    "its AlexNet and ResNet-50 keep theirs"
)


@dataclass(frozen=True)
class _Plan:
    """What `match` found out for `apply`."""

    hosts: Hosts
    axes: dict[Layer, tuple[AxisPlan, ...]]
    macs_before: int
    macs_after: int


@dataclass(frozen=True)
class PoolToStride(Pass[_Plan]):
    """Folds pooling into strides.

    Attributes:
        kernel: "keep", "receptive" or a size.
        paper: take the pools alone that the paper takes; see the module.
        force: merge even where the predicted cost rises.
        start: how the rebirth layers start.
    """

    name: ClassVar[str] = "pool-to-stride"
    kind: ClassVar[Kind] = Kind.RELEARN

    kernel: str | int = "keep"
    paper: bool = False
    force: bool = False
    start: Start = Start()

    def match(self, net: Net) -> Iterator[Match[_Plan] | Refusal]:
        facts = Facts(net)
        kept = PAPER_KEEPS if self.paper and not _has_modules(facts) else None
        for layer in net.layers:
            if layer.type == "Pooling":
                found = self._look(facts, layer, kept)
                if isinstance(found, Reason):
                    yield Refusal(layer, found)
                else:
                    yield Match(layer, found.hosts.all | {layer}, found)

    def _look(self, facts: Facts, pool: Layer, kept: Reason | None) -> _Plan | Reason:
        if reason := strange(pool):
            return reason
        if len(pool.tops) != 1:
            return Reason(f"somebody may read the mask {pool.tops[1]}")
        if pool.param.pooling_param.global_pooling:
            return Reason("global pooling: its averages are what the layers behind it need")
        if kept:
            return kept
        hosts = find_hosts(facts, pool, through_joins=not self.paper)
        if isinstance(hosts, Reason):
            return hosts
        axes: dict[Layer, tuple[AxisPlan, ...]] = {}
        before = after = 0
        for host in hosts.convs:
            plan = self._solve(facts, pool, host)
            if isinstance(plan, Reason):
                return plan
            axes[host] = plan
            param = _with_axes(host, plan)
            before += facts.macs(host) or 0
            after += facts.macs(host, param) or 0
        if after > before and not self.force:
            return Reason(
                f"its predicted cost rises {after / before:.1f}x ({before:,} to {after:,} multiply-adds); --force-merge"
            )
        return _Plan(hosts, axes, before, after)

    def _solve(self, facts: Facts, pool: Layer, host: Layer) -> tuple[AxisPlan, ...] | Reason:
        conv = conv_geometry(host.param)
        if len(conv.kernel) != 2 or conv.axis != 1:
            return Reason(f"{host.name} is not a 2-d convolution over channels")
        plans: tuple[AxisPlan, ...] | None = None
        for into, pooled, out in zip(
            facts.net.values_in(host), facts.net.values_in(pool), facts.net.values_out(pool), strict=True
        ):
            for value in (into, pooled, out):
                if value.shape is None:
                    return Reason(unknown_shape(value))
            assert into.shape and pooled.shape and out.shape
            window = pool_geometry(pool.param, pooled.shape)
            if out.shape[2:] == (1, 1):
                beyond = any(size < kernel for size, kernel in zip(pooled.shape[2:], window.kernel, strict=True))
                if beyond and any_size(facts, pool):
                    return Reason(
                        f"its image of {pooled.shape[2]}x{pooled.shape[3]} is smaller than its window: the size in the "
                        "file is not that of real images, and nothing fixes it; give one with --input-shape"
                    )
                return Reason(
                    "global pooling: its window covers the whole image, and the layers behind it need its averages"
                )
            solved: list[AxisPlan | int] = []
            for axis in range(2):
                problem = Axis(
                    into.shape[2 + axis],
                    out.shape[2 + axis],
                    conv.kernel[axis],
                    conv.stride[axis],
                    conv.pad[axis],
                    conv.dilation[axis],
                    window.kernel[axis],
                    window.stride[axis],
                    window.pad[axis],
                )
                solved.append(problem.solve(self._kernel(problem)))
            fits = tuple(plan for plan in solved if isinstance(plan, AxisPlan))
            if len(fits) != 2:
                gives = "x".join(
                    str(out.shape[2 + axis] if isinstance(p, AxisPlan) else p) for axis, p in enumerate(solved)
                )
                stride = "x".join(str(a * b) for a, b in zip(conv.stride, window.stride))
                return Reason(
                    f"geometry: {gives} where pooling gave {out.shape[2]}x{out.shape[3]}, whatever the pad "
                    f"({host.name} with stride {stride}); try another --kernel"
                )
            if plans is not None and [(p.kernel, p.pad) for p in plans] != [(p.kernel, p.pad) for p in fits]:
                return Reason(
                    f"geometry: the phases have images of different sizes, and no one pad fits {host.name} in all"
                )
            plans = fits
        assert plans is not None, "a layer that is alive in no state reads from nobody, and so has no host"
        return plans

    def _kernel(self, axis: Axis) -> int:
        if self.kernel == "keep":
            return axis.kernel
        if self.kernel == "receptive":
            return axis.receptive_kernel()
        return int(self.kernel)

    def apply(self, match: Match[_Plan], rewriter: Rewriter) -> Applied:
        plan = match.plan
        pool = match.layer
        done = Applied(removed=[pool.name], macs_before=plan.macs_before, macs_after=plan.macs_after)
        for host, axes in plan.axes.items():
            if host not in rewriter.made:
                done.removed.append(host.name)
            kernel = [axis.kernel for axis in axes]
            old = (
                rewriter.net.weights[host.name] if rewriter.net.weights and host.name in rewriter.net.weights else None
            )
            twin = rewriter.derive(host, Kind.RELEARN, [pool])
            twin.param.CopyFrom(_with_axes(twin, axes))
            set_filler(twin)
            if old is not None:
                offset = [axis.offset for axis in axes]
                shapes = [(*old[0].shape[:2], *kernel), *(blob.shape for blob in old[1:])]
                inherited = [embed(old[0], kernel, offset), *old[1:]]
                self.start.set(rewriter, twin, shapes, inherited)
            done.rebirth.append(twin.name)
            done.notes.append(_note(twin, axes))
        rewriter.erase(pool)
        return done


def _has_modules(facts: Facts) -> bool:
    """Whether somewhere several branches with convolutions part at one blob and meet in a Concat."""
    return any(
        sum(bool(branch.convs) for branch in found.branches) > 1
        for found in find_modules(facts)
        if isinstance(found, Module)
    )


def _with_axes(layer: Layer, axes: tuple[AxisPlan, ...]) -> pb.LayerParameter:
    """The layer's message with the merged kernel, stride and pad."""
    param = pb.LayerParameter()
    param.CopyFrom(layer.param)
    set_geometry(
        param.convolution_param,
        [axis.kernel for axis in axes],
        [axis.stride for axis in axes],
        [axis.pad for axis in axes],
    )
    return param


def _note(layer: Layer, axes: tuple[AxisPlan, ...]) -> str:
    def pair(values: list[str]) -> str:
        return values[0] if len(set(values)) == 1 else "x".join(values)

    shifts = pair([_signed(axis.shift) for axis in axes])
    return (
        f"{layer.name}: kernel {pair([str(a.kernel) for a in axes])}, stride {pair([str(a.stride) for a in axes])}, "
        f"pad {pair([str(a.pad) for a in axes])}, grid shifted by {shifts} px"
    )


def _signed(shift: Fraction) -> str:
    return f"{float(shift):+g}" if shift else "0"
