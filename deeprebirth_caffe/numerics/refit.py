"""Fits the weights of a linear layer to a goal, by least squares over many rows.

A row a is the layer's input at a place, t >= 0 the goal of its block there. With the weights W, the bias b
and a ReLU behind the layer, the error |max(a W + b, 0) - t|^2 is not convex in W. An upper bound is:

    e = (a W + b - t)^2 where t > 0,  max(a W + b, 0)^2 where t = 0

So each t has a z, the goal of the layer itself, and two updates take turns; neither raises the mean
of e and its prior:

    (W, b) = argmin  |a W + b - z|^2 / n + r |W - W0|^2,        z = t where t > 0, else min(a W + b, 0)

The rows' second moment about their mean, S = E[(a - m)(a - m)'], does not change, so one
Cholesky factor of S + r I serves all rounds:

    W = W0 + (S + r I)^-1 (E[(a - m)(z - E z)'] - S W0),        b = E z - m W

r is `ridge` times the mean of S's diagonal: with it the solution is defined at any rank of S, and directions without
information in the rows keep W0. Without a bias the moments are about zero. A layer with groups counts as many layers.

Only sums over rows are kept, in double precision; the rows come from files in chunks. Moments are products in double
precision too; the rounds add up products of chunks in single precision.

Least squares does not suit the first layer of a net: next to an edge, its window's pixels say little about the edge's
maximum, so the fit would only give the mean. `rescale` keeps its kernels and gives each output the size of its
goal: a gain g with E[max(g (a w + b), 0)^2] = E[t^2] under a ReLU, else the deviation and the mean of t.
Without it, outputs that an LRN or a pool would have scaled stay unscaled, and learning starts far off, or diverges.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deeprebirth_caffe.numerics.rows import RowFile

Array = npt.NDArray[Any]

MAX_FEATURES = 4608
"""Layers with more inputs (3 x 3 x 512) are not fitted: their moment takes 162 MiB, the factors four times that."""
_CHUNK = 1 << 22
"""Numbers that are in memory at a time."""
_CONSTANT = 1e-12
"""Rows with a variance below this part of their mean square count as constant."""


@dataclass(frozen=True)
class FitOptions:
    """How a layer is fitted.

    Attributes:
        ridge: weight of the prior, relative to the mean variance of the inputs; above 0.
        rounds: how often z is updated; only with a ReLU behind the layer.
        prior: "start": W0 are the weights at the start; "zero": W0 = 0.
    """

    ridge: float = 1e-2
    rounds: int = 20
    prior: str = "start"


@dataclass(frozen=True)
class Fit:
    """The result of a fit.

    Attributes:
        weight: (outputs, inputs of a group).
        bias: (outputs,), or None for a layer without bias.
        before, after: relative error |f(a W + b) - t| / |t| over all rows at the start and at the end; None if all
            t are 0.
        note: for people, if something went wrong; else empty.
    """

    weight: Array
    bias: Array | None
    before: float | None
    after: float | None
    note: str = ""


def fit(
    rows: RowFile, goals: RowFile, weight: Array, bias: Array | None, group: int, relu: bool, options: FitOptions
) -> Fit:
    """Fits a layer.

    Args:
        rows: the layer's inputs, a row for each place; (n, inputs).
        goals: (n, outputs). With `relu` these are t where t > 0, else a first guess of z, at most 0; else t.
        weight: (outputs, inputs / group) at the start.
        bias: (outputs,) at the start, or None.
        group: how many groups the layer has.
        relu: whether a ReLU stands behind it.
        options: how.

    Returns:
        Finite weights, whatever the rows hold. The start, if the fit is no better.
    """
    start_weight = np.asarray(weight, np.float64)
    start_bias = None if bias is None else np.asarray(bias, np.float64)
    problem = _Problem(rows, goals, group, relu, start_bias is not None)
    if not problem.finite:
        return Fit(start_weight, start_bias, None, None, "its input or its goal is not finite; it keeps its start")
    before = problem.measure(start_weight, start_bias)
    note = ""
    if problem.constant:
        if start_bias is None:
            return Fit(start_weight, None, before, before, "its input is constant, so there is nothing to fit")
        note = "its input is constant: only its bias was fitted"
    problem.prepare(options, start_weight)
    solution = problem.solve()
    for _ in range(options.rounds if relu else 0):
        problem.measure(*solution, again=True)
        solution = problem.solve()
    after = problem.measure(*solution)
    if before is not None and (after is None or not after < before):
        return Fit(start_weight, start_bias, before, before, note or "no fit is better than its start, which stays")
    return Fit(*solution, before, after, note)


def rescale(rows: RowFile, goals: RowFile, weight: Array, bias: Array | None, group: int, relu: bool) -> Fit:
    """Only scales each output of a layer to the size of its goal; arguments and result as in `fit`."""
    start_weight = np.asarray(weight, np.float64)
    start_bias = None if bias is None else np.asarray(bias, np.float64)
    problem = _Problem(rows, goals, group, relu, start_bias is not None)
    if not problem.finite:
        return Fit(start_weight, start_bias, None, None, "its input or its goal is not finite; it keeps its start")
    before = problem.measure(start_weight, start_bias)
    (given_mean, given), (wanted_mean, wanted) = problem.sizes(start_weight, start_bias)
    if not relu and start_bias is not None:
        # The bias takes the mean; the gain the deviation.
        given, wanted = np.maximum(given - given_mean**2, 0), np.maximum(wanted - wanted_mean**2, 0)
    known = (given > 0) & (wanted > 0)
    gain = np.sqrt(np.divide(wanted, given, out=np.ones_like(given), where=known))
    scaled, offset = start_weight * gain[:, None], None
    if start_bias is not None:
        offset = start_bias * gain if relu else wanted_mean + (start_bias - given_mean) * gain
    note = "" if known.all() else f"{int((~known).sum())} of its outputs have constant values or goals; they stay"
    return Fit(scaled, offset, before, problem.measure(scaled, offset), note)


class _Problem:
    """The sums over rows of a layer."""

    def __init__(self, rows: RowFile, goals: RowFile, group: int, relu: bool, centred: bool) -> None:
        """Takes the moments.

        Args:
            rows: as in `fit`.
            goals: as in `fit`.
            group: how many groups the layer has.
            relu: whether a ReLU stands behind it.
            centred: whether moments are about the mean, as with a bias.
        """
        self._rows, self._goals, self._group, self._relu, self._centred = rows, goals, group, relu, centred
        self._step = max(64, _CHUNK // (rows.width + 3 * goals.width))
        self._inputs = [slice(i * rows.width // group, (i + 1) * rows.width // group) for i in range(group)]
        self._outputs = [slice(i * goals.width // group, (i + 1) * goals.width // group) for i in range(group)]
        self._count = max(rows.count, 1)
        self._take_moments()
        self._factors: list[Array] = []
        self._prior: Array | None = None

    def _take_moments(self) -> None:
        """Mean and second moment of the rows, and the sums of the goals for the first solution.

        All are about the mean of the first chunk, because the square of a large mean would hide a small variance.
        """
        width, outputs = self._rows.width, self._goals.width
        self._shift = np.zeros(width, np.float32)
        mean, square = np.zeros(width), 0.0
        moments = [np.zeros((part.stop - part.start,) * 2) for part in self._inputs]
        cross = [self._empty(i) for i in range(self._group)]
        goal_mean, first = np.zeros(outputs), True
        self.finite = True
        for rows, goals in self._chunks(shifted=False):
            if not (np.isfinite(rows).all() and np.isfinite(goals).all()):
                self.finite = False
                return
            if first and self._centred:
                self._shift = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
            first = False
            square += float(np.square(rows, dtype=np.float64).sum())
            wide, wide_goals = (rows - self._shift).astype(np.float64), goals.astype(np.float64)
            mean += wide.sum(axis=0)
            goal_mean += wide_goals.sum(axis=0)
            for i, (part, out) in enumerate(zip(self._inputs, self._outputs, strict=True)):
                moments[i] += wide[:, part].T @ wide[:, part]
                cross[i] += wide[:, part].T @ wide_goals[:, out]
        self._mean, self._cross, self._goal_mean = mean / self._count, cross, goal_mean / self._count
        self._moments = [moment / self._count for moment in moments]
        if self._centred:
            for moment, part in zip(self._moments, self._inputs, strict=True):
                moment -= np.outer(self._mean[part], self._mean[part])
        variance = sum(float(np.trace(moment)) for moment in self._moments)
        self.constant = variance <= _CONSTANT * square / self._count

    def _empty(self, group: int) -> Array:
        part, out = self._inputs[group], self._outputs[group]
        return np.zeros((part.stop - part.start, out.stop - out.start))

    def _chunks(self, shifted: bool = True) -> Any:
        for rows, goals in zip(self._rows.chunks(self._step), self._goals.chunks(self._step), strict=True):
            yield (rows - self._shift if shifted else rows), goals

    def prepare(self, options: FitOptions, start: Array) -> None:
        """Computes the factors that all rounds share."""
        self._prior = start if options.prior == "start" or self.constant else np.zeros_like(start)
        if self.constant:
            return
        for moment in self._moments:
            ridge = options.ridge * max(float(np.trace(moment)) / len(moment), np.finfo(np.float64).tiny)
            while True:
                ridged = moment.copy()
                ridged.flat[:: len(moment) + 1] += ridge
                try:
                    ridged = np.linalg.cholesky(ridged)
                except np.linalg.LinAlgError:
                    ridge *= 10  # rounding was larger than a tiny ridge
                else:
                    break
            self._factors.append(np.linalg.inv(ridged))

    def solve(self) -> tuple[Array, Array | None]:
        """Weights and bias for the current z."""
        assert self._prior is not None, "prepare comes first"
        weight = self._prior.copy()
        for i, factor in enumerate(self._factors):
            part, out = self._inputs[i], self._outputs[i]
            cross = self._cross[i] / self._count
            if self._centred:
                cross = cross - np.outer(self._mean[part], self._goal_mean[out])
            old = self._prior[out].T
            weight[out] = (old + factor.T @ (factor @ (cross - self._moments[i] @ old))).T
        if not self._centred:
            return weight, None
        bias = self._goal_mean.copy()
        for part, out in zip(self._inputs, self._outputs, strict=True):
            bias[out] -= weight[out] @ (self._mean[part] + self._shift[part])
        return weight, bias

    def measure(self, weight: Array, bias: Array | None, again: bool = False) -> float | None:
        """The relative error of weights, None if it is no number; `again` updates z and its sums."""
        error = size = 0.0
        cross = [self._empty(i) for i in range(self._group)]
        goal_mean = np.zeros(self._goals.width)
        for rows, goals, values in self._values(weight, bias):
            wanted = np.maximum(goals, 0) if self._relu else goals
            given = np.maximum(values, 0) if self._relu else values
            error += float(np.square(given - wanted, dtype=np.float64).sum())
            size += float(np.square(wanted, dtype=np.float64).sum())
            if again:
                np.minimum(values, 0, out=values)
                np.copyto(values, goals, where=goals > 0)
                goal_mean += values.sum(axis=0, dtype=np.float64)
                for i, (part, out) in enumerate(zip(self._inputs, self._outputs, strict=True)):
                    cross[i] += rows[:, part].T @ values[:, out]
        if again:
            self._cross, self._goal_mean = cross, goal_mean / self._count
        return float(np.sqrt(error / size)) if size and np.isfinite(error) else None

    def sizes(self, weight: Array, bias: Array | None) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """The mean and the mean square of each output: with these weights, and of its goal."""
        sums = np.zeros((4, self._goals.width))
        for _, goals, values in self._values(weight, bias):
            for index, array in enumerate((values, goals)):
                wide = np.maximum(array, 0) if self._relu else array
                sums[2 * index] += wide.sum(axis=0, dtype=np.float64)
                sums[2 * index + 1] += np.square(wide, dtype=np.float64).sum(axis=0)
        sums /= self._count
        return (sums[0], sums[1]), (sums[2], sums[3])

    def _values(self, weight: Array, bias: Array | None) -> Iterator[tuple[Array, Array, Array]]:
        """By chunks: the rows about their shift, the goals, and the layer's outputs in front of the activation."""
        single = np.asarray(weight, np.float32)
        offset = np.zeros(self._goals.width) if bias is None else bias.copy()
        for part, out in zip(self._inputs, self._outputs, strict=True):
            offset[out] += weight[out] @ self._shift[part]
        single_offset = offset.astype(np.float32)
        for rows, goals in self._chunks():
            values = np.empty_like(goals)
            for part, out in zip(self._inputs, self._outputs, strict=True):
                np.matmul(rows[:, part], single[out].T, out=values[:, out])
            values += single_offset
            yield rows, goals, values
