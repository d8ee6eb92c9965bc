"""Joins linear windows on the same image whose outputs are added, and finds windows that fit into another.

    y[i] = sum_n c_n (sum_a W_n[a] x[i s + a d_n - p_n] + b_n)

Tap a of window n lies at a d_n - p_n, whatever i. So together they are a window of stride s with a tap wherever any
of them has a tap: pad P = max p_n, dilation D = the greatest common divisor of the distances, kernel K up to the last
tap, zeros where none has a tap, and the bias sum c_n b_n. Caffe's pad is the same at both ends and decides the number
of outputs, so the joint window may need taps of zeros at an end to have as many as its parts. They are fewer than its
other taps: in front of the first tap it needs at most the distance between the last taps of two windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from deeprebirth_caffe.numerics.compose import Axis
from deeprebirth_caffe.ops import conv_output_size

Array = npt.NDArray[Any]
Sizes = Sequence[tuple[int, int]]
"""(input, output) sizes of a window along an axis, in each state of a net."""


class Around(NamedTuple):
    """The joint window along an axis, and for each window the joint window's taps where its own lie."""

    window: Axis
    taps: list[list[int]]


def around(windows: Sequence[Axis], sizes: Sizes) -> Around:
    """The smallest window that has a tap wherever any of these windows has a tap.

    Args:
        windows: with the same stride.
        sizes: (input, output) that it must give.

    Raises:
        ValueError: the windows do not give these sizes.
    """
    lies = [[tap * window.dilation - window.pad for tap in range(window.kernel)] for window in windows]
    start = min(min(lie) for lie in lies)
    step = gcd(*(place - start for lie in lies for place in lie)) or 1
    needed = (max(max(lie) for lie in lies) - start) // step + 1
    for more in range(needed):
        for front in {0, more}:
            axis = Axis(needed + more, windows[0].stride, front * step - start, step)
            if _gives(axis, sizes):
                return Around(axis, [[(place - start) // step + front for place in lie] for lie in lies])
    raise ValueError("the windows do not fit into their image or put out images of different sizes")


def within(host: Axis, kernel: int, sizes: Sizes) -> Axis | None:
    """A window with fewer taps and as many outputs as its host, with every tap on a tap of the host.

    Args:
        host: the larger window.
        kernel: the number of its taps.
        sizes: (input, output) of the host.

    Returns:
        The window closest to the host's middle; None if there is none.
    """
    free = host.kernel - kernel
    for first in sorted(range(free + 1), key=lambda first: (abs(2 * first - free), first)):
        pad = host.pad - first * host.dilation
        if pad >= 0 and _gives(axis := Axis(kernel, host.stride, pad, host.dilation), sizes):
            return axis
    return None


def _gives(window: Axis, sizes: Sizes) -> bool:
    return all(
        window.fits(size) and conv_output_size(size, window.kernel, window.stride, window.pad, window.dilation) == out
        for size, out in sizes
    )


def add_up(
    parts: Sequence[tuple[Array, Array | None]], coefficients: Sequence[float], axes: tuple[Around, Around]
) -> tuple[Array, Array | None]:
    """The weight and bias of the joint window, in double precision.

    Args:
        parts: weight (out, in / group, kh, kw) and bias (out,) of each; with the same out, in and group.
        coefficients: the factor of each.
        axes: the joint window, for height and for width.
    """
    kernel = [axis.window.kernel for axis in axes]
    weight = np.zeros((*parts[0][0].shape[:2], *kernel))
    bias: Array | None = None
    for (part, shift), factor, rows, columns in zip(parts, coefficients, axes[0].taps, axes[1].taps, strict=True):
        weight[:, :, np.array(rows)[:, None], np.array(columns)] += factor * np.asarray(part, dtype=np.float64)
        if shift is not None:
            added = factor * np.asarray(shift, dtype=np.float64).reshape(-1)
            bias = added if bias is None else bias + added
    return weight, bias
