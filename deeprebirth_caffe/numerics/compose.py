"""Two linear windows in a row, as a single window.

With z[j] = sum_a A[a] x[j s1 + a d1 - p1] + c and y[i] = sum_b B[b] z[i s2 + b d2 - p2] + e,

    y[i] = sum_ab B[b] A[a] x[i s1 s2 + (b d2 s1 + a d1) - (p2 s1 + p1)] + (e + sum_b B[b] c)

which is a window of stride s1 s2 and pad p2 s1 + p1, whose taps lie at b d2 s1 + a d1. It is exact while the second
window sees no pad (p2 = 0). With pad, the formula gives the zeros there only if c = 0 and the first window,
placed beyond the image, sees only pad: (k1 - 1) d1 - s1 - p1 < 0 in front, n s1 - p1 >= size behind (n: the outputs
of the first window). All of it is in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Axis:
    """One axis of a window."""

    kernel: int
    stride: int
    pad: int
    dilation: int

    def fits(self, size: int) -> bool:
        """Whether the window fits into the padded image."""
        return size + 2 * self.pad >= self.dilation * (self.kernel - 1) + 1

    def beyond(self, size: int, out: int) -> bool:
        """Whether the window sees only pad if it is placed a stride beyond its `out` places."""
        before = (self.kernel - 1) * self.dilation - self.stride - self.pad < 0
        return before and out * self.stride - self.pad >= size

    def always_beyond(self) -> bool:
        """Whether `beyond` holds for images of every size."""
        return self.pad >= (self.kernel - 1) * self.dilation

    def then(self, after: Axis) -> Axis:
        """This window and then another, as a single window."""
        steps = [after.dilation * self.stride] * (after.kernel > 1) + [self.dilation] * (self.kernel > 1)
        dilation = gcd(*steps) or 1
        span = (after.kernel - 1) * after.dilation * self.stride + (self.kernel - 1) * self.dilation
        return Axis(span // dilation + 1, self.stride * after.stride, after.pad * self.stride + self.pad, dilation)

    def places(self, after: Axis) -> list[list[int]]:
        """The tap of the joint window for tap a of this window and tap b of the other: [b][a]."""
        dilation = self.then(after).dilation
        return [
            [(b * after.dilation * self.stride + a * self.dilation) // dilation for a in range(self.kernel)]
            for b in range(after.kernel)
        ]


def regroup(weight: Array, group: int, fewer: int) -> Array:
    """A grouped weight (out, in / group, ...) with fewer groups, with zeros where it had no connection."""
    if group == fewer:
        return weight
    outs, ins = weight.shape[0] // group, weight.shape[1]
    ratio = group // fewer
    new = np.zeros((weight.shape[0], ins * ratio, *weight.shape[2:]), dtype=weight.dtype)
    for index in range(group):
        rows = slice(index * outs, (index + 1) * outs)
        start = index % ratio * ins
        new[rows, start : start + ins] = weight[rows]
    return new


def compose(
    first: tuple[Array, Array | None, int], second: tuple[Array, Array | None, int], axes: Sequence[tuple[Axis, Axis]]
) -> tuple[Array, Array | None, int]:
    """The weight, bias and group count of the joint window of two 2-d windows.

    Args:
        first: weight (mid, in / group, kh, kw), bias (mid,) or None, group.
        second: weight (out, mid / group, kh, kw), bias, group.
        axes: the two windows, for height and for width.
    """
    group = gcd(first[2], second[2])
    first_kernel, second_kernel = (
        regroup(np.asarray(weight, dtype=np.float64), groups, group) for weight, _, groups in (first, second)
    )
    first_kernel = first_kernel.reshape(group, -1, *first_kernel.shape[1:])
    second_kernel = second_kernel.reshape(group, -1, *second_kernel.shape[1:])
    (high1, high2), (wide1, wide2) = axes
    rows, columns = high1.places(high2), wide1.places(wide2)
    size = high1.then(high2).kernel, wide1.then(wide2).kernel
    new = np.zeros((group, second_kernel.shape[1], first_kernel.shape[2], *size))
    taps = product(range(high2.kernel), range(high1.kernel), range(wide2.kernel), range(wide1.kernel))
    for b, a, d, c in taps:
        new[..., rows[b][a], columns[d][c]] += second_kernel[..., b, d] @ first_kernel[..., a, c]
    bias = None if second[1] is None else np.asarray(second[1], dtype=np.float64)
    if first[1] is not None:
        # second_kernel is (group, out, mid, kh, kw): sums the constant of each middle channel.
        constant = np.asarray(first[1], dtype=np.float64).reshape(group, 1, -1)
        added = (second_kernel.sum(axis=(3, 4)) * constant).sum(axis=2).reshape(-1)
        bias = added if bias is None else bias + added
    return new.reshape(-1, first_kernel.shape[2], *size), bias, group
