"""Pooling folded into a stride: the solver against brute force over every pad."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import pytest

from deeprebirth_caffe.ops import conv_output_size, pool_output_size
from deeprebirth_caffe.passes.relearn.geometry import Axis, AxisPlan


def axes() -> list[Axis]:
    """Every small problem in which Caffe runs both layers."""
    found = []
    grid = product((5, 9, 14), (1, 2, 3, 5), (1, 2), (0, 1, 2), (1, 2), (1, 2, 3), (1, 2, 3), (0, 1))
    for size, kernel, stride, pad, dilation, window, step, pool_pad in grid:
        middle = conv_output_size(size, kernel, stride, pad, dilation)
        if middle < 1 or pool_pad >= window or size + 2 * pad < dilation * (kernel - 1) + 1:
            continue
        out = pool_output_size(middle, window, step, pool_pad)
        if out >= 1:
            found.append(Axis(size, out, kernel, stride, pad, dilation, window, step, pool_pad))
    return found


def centre_of_both(axis: Axis) -> Fraction:
    """The mean input position that output 0 looks at, tap by tap."""
    seen = [
        axis.stride * row - axis.pad + axis.dilation * tap
        for row in range(-axis.pool_pad, -axis.pool_pad + axis.pool_kernel)
        for tap in range(axis.kernel)
    ]
    return Fraction(sum(seen), len(seen))


def centre_of_one(axis: Axis, kernel: int, pad: int) -> Fraction:
    return Fraction(sum(axis.dilation * tap - pad for tap in range(kernel)), kernel)


AXES = axes()


@pytest.mark.parametrize("extra", [0, 1, 4])
def test_solve_finds_the_smallest_shift_that_keeps_the_size(extra: int) -> None:
    solved = refused = 0
    for axis in AXES:
        kernel = axis.kernel + extra
        reach = axis.dilation * (kernel - 1) + 1
        stride = axis.stride * axis.pool_stride
        sizes = {
            pad: conv_output_size(axis.size, kernel, stride, pad, axis.dilation)
            for pad in range(reach)
            if axis.size + 2 * pad >= reach
        }
        shifts = {
            pad: centre_of_one(axis, kernel, pad) - centre_of_both(axis)
            for pad, size in sizes.items()
            if size == axis.out
        }
        plan = axis.solve(kernel)
        if isinstance(plan, AxisPlan):
            solved += 1
            assert (plan.kernel, plan.stride) == (kernel, stride)
            assert sizes[plan.pad] == axis.out, axis
            assert plan.shift == shifts[plan.pad], axis
            assert abs(plan.shift) == min(map(abs, shifts.values())), axis
        else:
            refused += 1
            assert not shifts, axis
            nearest = min((abs(size - axis.out) for size in sizes.values()), default=axis.out)
            assert abs(plan - axis.out) == nearest, axis
    assert solved > 300 and refused > 10


@pytest.mark.parametrize("extra", [-1, 0, 1, 2, 4])
def test_old_taps_come_to_lie_where_they_looked(extra: int) -> None:
    """Of all places inside the new window, the taps get the one nearest to the middle of what they saw."""
    for axis in AXES:
        kernel = axis.kernel + extra
        plan = axis.solve(kernel) if kernel > 0 else 0
        if not isinstance(plan, AxisPlan):
            continue

        def off(offset: int, axis: Axis = axis, plan: AxisPlan = plan) -> Fraction:
            middle = axis.dilation * Fraction(axis.kernel - 1, 2)
            return abs(axis.dilation * offset - plan.pad + middle - centre_of_both(axis))

        places = range(min(0, extra), max(0, extra) + 1)
        assert plan.offset in places
        assert off(plan.offset) == min(map(off, places)), axis


def test_receptive_kernel_covers_every_input_seen() -> None:
    for axis in AXES:
        seen = [
            axis.stride * row + axis.dilation * tap for row in range(axis.pool_kernel) for tap in range(axis.kernel)
        ]
        kernel = axis.receptive_kernel()
        assert axis.dilation * (kernel - 1) >= max(seen)
        assert axis.dilation * (kernel - 2) < max(seen) or kernel == axis.kernel


@pytest.mark.parametrize(
    ("axis", "kernel", "expected"),
    [
        # GoogLeNet's conv1 and pool1: the receptive kernel does not fit with the convolution's own pad 3.
        (Axis(224, 56, 7, 2, 3, 1, 3, 2, 0), 7, AxisPlan(7, 4, 2, 0, Fraction(-1))),
        (Axis(224, 56, 7, 2, 3, 1, 3, 2, 0), 11, AxisPlan(11, 4, 4, 3, Fraction(-1))),
        (Axis(224, 56, 7, 2, 3, 1, 3, 2, 0), 12, AxisPlan(12, 4, 4, 3, Fraction(-1, 2))),
        # AlexNet: 12 is the smallest kernel that fits, and 19, all that both saw, does not shift.
        (Axis(227, 27, 11, 4, 0, 1, 3, 2, 0), 11, 28),
        (Axis(227, 27, 11, 4, 0, 1, 3, 2, 0), 12, AxisPlan(12, 8, 0, 1, Fraction(-7, 2))),
        (Axis(227, 27, 11, 4, 0, 1, 3, 2, 0), 19, AxisPlan(19, 8, 0, 4, Fraction(0))),
        (Axis(227, 27, 11, 4, 0, 1, 3, 2, 0), 20, AxisPlan(20, 8, 1, 5, Fraction(-1, 2))),
    ],
)
def test_known_nets(axis: Axis, kernel: int, expected: AxisPlan | int) -> None:
    assert axis.solve(kernel) == expected
