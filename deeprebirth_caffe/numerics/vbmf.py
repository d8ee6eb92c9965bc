"""The rank of the signal in a matrix: the analytic solution of empirical variational Bayesian matrix factorization.

Nakajima, Sugiyama, Babacan and Tomioka ("Global analytic solution of fully-observed variational Bayesian matrix
factorization", JMLR 14, 2013): an L x M matrix (L <= M) is B A' plus Gaussian noise of variance s2, with Gaussian
priors on the columns of A and B whose variances are estimated too. The solution needs only the singular values g_h.
With a = L / M, the component h is kept where

    g_h^2 > M s2 X,    X = (1 + t) (1 + a / t),    t the zero of phi(t) + phi(t / a),    phi(z) = log(1 + z) / z - 1/2,

and the noise variance is the minimum, over the one unknown s2, of the free energy

    sum over h of   x_h + log s2 + [x_h > X] (log(1 + T) + a log(1 + T / a) - T),    x_h = g_h^2 / (M s2),
    T = (x_h - 1 - a + sqrt((x_h - 1 - a)^2 - 4 a)) / 2

(without terms that lack s2), between bounds that the theory gives.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_GRID = 200
_TINY = 1e-14
"""Energies below this part of the largest are rounding errors of single-precision weights."""


class Signal(NamedTuple):
    """The number of signal components, and the variance of the noise on each element."""

    rank: int
    noise: float


def signal_rank(energies: Array, rows: int, columns: int) -> Signal:
    """Tells signal from noise.

    Args:
        energies: the squared singular values of the matrix, in any order; missing ones are 0.
        rows: of the matrix.
        columns: of the matrix.

    Returns:
        The rank, from 0 (all noise) to the smaller side, and the noise.
    """
    short, long = sorted((rows, columns))
    squares = np.zeros(short)
    given = np.sort(np.asarray(energies, dtype=np.float64).reshape(-1))[::-1][:short]
    squares[: len(given)] = np.maximum(given, 0)
    if not squares[0] > 0:
        return Signal(0, 0.0)
    ratio = short / long
    limit = _threshold(ratio)
    low, high = _bounds(squares, long, ratio, limit)
    noise = _minimum(squares / long, ratio, limit, low, high) if high > low else low
    return Signal(int((squares > long * noise * limit).sum()), float(noise))


def _threshold(ratio: float) -> float:
    """X, which g^2 / (M s2) must exceed."""

    def phi(z: float) -> float:
        return float(np.log1p(z) / z) - 0.5

    # phi falls from 1/2; the zero lies between that of the larger argument's term and that of the smaller's.
    low, high = 2.0 * ratio, 3.0
    for _ in range(100):
        middle = (low + high) / 2
        if phi(middle) + phi(middle / ratio) > 0:
            low = middle
        else:
            high = middle
    return (1 + low) * (1 + ratio / low)


def _bounds(squares: Array, long: int, ratio: float, limit: float) -> tuple[float, float]:
    """The bounds of the noise's variance."""
    short = len(squares)
    most = min(int(np.ceil(short / (1 + ratio))) - 1, short - 1)  # signals that the model can detect
    low = max(squares[most] / (long * limit), squares[most:].mean() / long, _TINY * squares[0] / long)
    return low, squares.sum() / (short * long)


def _minimum(scaled: Array, ratio: float, limit: float, low: float, high: float) -> float:
    """The noise with the least free energy: a scan of the logarithm (it has several dips), then golden section."""

    def energy(logarithm: float) -> float:
        x = scaled / np.exp(logarithm)
        kept = x[x > limit] - 1 - ratio
        t = (kept + np.sqrt(np.maximum(kept**2 - 4 * ratio, 0))) / 2
        gain = np.log1p(t) + ratio * np.log1p(t / ratio) - t
        return float(x.sum() + len(x) * logarithm + gain.sum())

    grid = np.linspace(np.log(low), np.log(high), _GRID)
    best = int(np.argmin([energy(point) for point in grid]))
    left, right = grid[max(best - 1, 0)], grid[min(best + 1, _GRID - 1)]
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(60):
        first, second = right - golden * (right - left), left + golden * (right - left)
        if energy(first) < energy(second):
            right = second
        else:
            left = first
    return float(np.exp((left + right) / 2))
