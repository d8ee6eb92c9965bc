"""Per-channel affine maps y = scale * x + shift, and folding them into the weights in front of them.

BatchNorm with global statistics (Caffe stores sums, divided by the third blob, where 0 means 0) is

    y = (x - mean) / sqrt(var + eps)            scale = 1 / sqrt(var + eps), shift = -mean * scale

Scale is y = gamma * x + beta. Two maps in a row compose to (s2 * s1, s2 * t1 + t2). Behind a linear layer
x = W a + b they fold to W' = scale * W (per output channel), b' = scale * b + shift. In front of one,
y = W (scale * a + shift) + b, they fold to W' = W * scale (per input channel), b' = b + W shift. All of it in float64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Affine(NamedTuple):
    """y = scale * x + shift, with an entry for each channel."""

    scale: Array
    shift: Array

    def then(self, after: Affine) -> Affine:
        """This map, then another."""
        return Affine(after.scale * self.scale, after.scale * self.shift + after.shift)

    def over(self, channels: int) -> Affine:
        """The same map with an entry for each of so many channels, if it has a single entry for all."""
        return Affine(*(np.array(np.broadcast_to(part, (channels,))) for part in self))


def batch_norm(mean: Array, variance: Array, factor: Array, eps: float) -> Affine:
    """The map of a BatchNorm layer with global statistics.

    Args:
        mean: the layer's first blob (C,), a sum to be divided by `factor`.
        variance: the second blob (C,), a sum to be divided by `factor`.
        factor: the third blob (1,).
        eps: batch_norm_param.eps.
    """
    total = float(np.asarray(factor, dtype=np.float64).reshape(-1)[0])
    weight = 0.0 if total == 0 else 1.0 / total
    scale = 1.0 / np.sqrt(np.asarray(variance, dtype=np.float64).reshape(-1) * weight + eps)
    return Affine(scale, -np.asarray(mean, dtype=np.float64).reshape(-1) * weight * scale)


def scale(gamma: Array, beta: Array | None = None) -> Affine:
    """The map of a Scale layer over channels; without bias_term there is no beta."""
    factor = np.asarray(gamma, dtype=np.float64).reshape(-1)
    return Affine(factor, np.zeros_like(factor) if beta is None else np.asarray(beta, dtype=np.float64).reshape(-1))


def fold(weight: Array, bias: Array | None, after: Affine, *, group: int = 0) -> tuple[Array, Array]:
    """Folds a map into the linear layer in front of it.

    Args:
        weight: (out, in / group, ...) as Convolution and InnerProduct keep it; with `group`, (in, out / group, ...) as
            Deconvolution does.
        bias: (out,) or None.
        after: the map over the layer's output channels.
        group: the group count of a Deconvolution; 0 for the other layers.

    Returns:
        The new weight, in the shape of the old, and the new bias (out,); float64.
    """
    wide = np.asarray(weight, dtype=np.float64)
    if group:
        grouped = wide.reshape(group, wide.shape[0] // group, wide.shape[1], -1)
        new = grouped * after.scale.reshape(group, 1, wide.shape[1], 1)
    else:
        new = wide.reshape(wide.shape[0], -1) * after.scale[:, None]
    old_bias = 0.0 if bias is None else np.asarray(bias, dtype=np.float64).reshape(-1)
    return new.reshape(wide.shape), after.scale * old_bias + after.shift


def fold_ahead(weight: Array, bias: Array | None, before: Affine, *, group: int = 1) -> tuple[Array, Array]:
    """Folds a map into the linear layer behind it.

    Args:
        weight: (out, in / group, ...) as Convolution and InnerProduct keep it; an InnerProduct may have any number of
            inputs for each channel.
        bias: (out,) or None.
        before: the map over the layer's input channels.
        group: the group count.

    Returns:
        The new weight, in the shape of the old, and the new bias (out,); float64. The bias is right only where every
        output sees every tap.
    """
    wide = np.asarray(weight, dtype=np.float64)
    inputs = before.scale.size // group
    taps = wide.reshape(group, wide.shape[0] // group, inputs, -1)
    new = taps * before.scale.reshape(group, 1, inputs, 1)
    shifted = (taps * before.shift.reshape(group, 1, inputs, 1)).sum(axis=(2, 3)).reshape(-1)
    old_bias = 0.0 if bias is None else np.asarray(bias, dtype=np.float64).reshape(-1)
    return new.reshape(wide.shape), old_bias + shifted


def fold_ahead_transposed(weight: Array, bias: Array | None, before: Affine, *, group: int = 1) -> tuple[Array, Array]:
    """As `fold_ahead`, for a Deconvolution: (in, out / group, ...). The bias is right for a kernel of one tap."""
    wide = np.asarray(weight, dtype=np.float64)
    taps = wide.reshape(group, wide.shape[0] // group, wide.shape[1], -1)
    new = taps * before.scale.reshape(group, -1, 1, 1)
    shifted = (taps * before.shift.reshape(group, -1, 1, 1)).sum(axis=(1, 3)).reshape(-1)
    old_bias = 0.0 if bias is None else np.asarray(bias, dtype=np.float64).reshape(-1)
    return new.reshape(wide.shape), old_bias + shifted
