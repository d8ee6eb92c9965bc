"""The weights that a rebirth layer keeps of the layers it replaces.

- A kernel that only changes its size keeps its taps, at a given place of the new window (`embed`).
- A host that takes over a branch gets that branch's output channels as new rows. The branch read x; the host reads
  r = R x, the output of its 1x1 reducer. The row W' with W' R closest to the branch's W is W R^+ (`through`); it sits
  on the host's centre tap. Without a reducer the host reads x, and W' = W (exact for a 1x1 branch).
- A reducer that loses channels keeps the most important ones (`strongest`): those with the largest product of the
  L1 norms of the weights that write a channel and of those that read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def embed(weight: Array, kernel: Sequence[int], offset: Sequence[int]) -> Array:
    """Puts a kernel into a window of another size, with zeros around it; taps outside are cut off.

    Args:
        weight: (out, in, k_h, k_w), or any number of spatial axes.
        kernel: the new spatial size.
        offset: the place of the old kernel's tap 0 in the new kernel; may be negative.
    """
    new = np.zeros((*weight.shape[:2], *kernel), dtype=weight.dtype)
    into, out_of = [slice(None), slice(None)], [slice(None), slice(None)]
    for old_size, new_size, start in zip(weight.shape[2:], kernel, offset):
        low, high = max(0, start), min(new_size, start + old_size)
        into.append(slice(low, max(low, high)))
        out_of.append(slice(low - start, max(low, high) - start))
    new[tuple(into)] = weight[tuple(out_of)]
    return new


def centred(weight: Array, kernel: Sequence[int]) -> Array:
    """`embed` with the old kernel in the middle."""
    return embed(weight, kernel, [(new - old) // 2 for old, new in zip(weight.shape[2:], kernel)])


def strongest(makes: Array, reads: Array, count: int) -> Array:
    """The most important channels between two linear layers.

    Args:
        makes: (channels, ...) weights that write them.
        reads: (out, channels, ...) weights that read them.
        count: how many to keep.

    Returns:
        The indices, ascending.
    """
    channels = makes.shape[0]
    written = np.abs(makes.reshape(channels, -1)).sum(axis=1, dtype=np.float64)
    read = np.abs(np.moveaxis(reads, 1, 0).reshape(channels, -1)).sum(axis=1, dtype=np.float64)
    order = np.argsort(-(written * read), kind="stable")
    return np.sort(order[:count])


def through(branch: Array, reducer: Array) -> Array:
    """The 1x1 weights on a reducer's output that are closest to a branch's 1x1 weights on the reducer's input.

    Args:
        branch: (out, in).
        reducer: (reduced, in).

    Returns:
        (out, reduced), the least-squares solution of W' R = W; finite whatever the rank of R.
    """
    solution, *_ = np.linalg.lstsq(
        np.asarray(reducer, dtype=np.float64).T, np.asarray(branch, dtype=np.float64).T, rcond=1e-6
    )
    return np.asarray(solution.T)


def dense(weight: Array, group: int) -> Array:
    """A grouped convolution's weights without groups: zeros between different groups.

    Args:
        weight: (out, in / group, ...).
        group: how many groups.

    Returns:
        (out, in, ...).
    """
    if group == 1:
        return weight
    per_out, per_in = weight.shape[0] // group, weight.shape[1]
    full = np.zeros((weight.shape[0], per_in * group, *weight.shape[2:]), dtype=weight.dtype)
    for index in range(group):
        rows = slice(index * per_out, (index + 1) * per_out)
        full[rows, index * per_in : (index + 1) * per_in] = weight[rows]
    return full
