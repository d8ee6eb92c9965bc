"""Factors linear layers into smaller ones: Tucker-2 of a kernel, SVD of a matrix, with errors known in advance.

A weight is (out, in, taps): taps are the kernel's places, 1 for a matrix. A layer's metric weighs its input: the
root R of the second moment M = E[x x'] (R R = M). An error D of a matrix then costs E|D x|^2 = |D R|^2. For a kernel M
is that of a single place, so all taps count alike. Without moments R is 1.

    matrix    W  ~  U (U' W)                         U: the first left singular vectors of W R
    kernel    W  ~  G x_out U x_in (R^-1 V)          (G; U, V): Tucker-2 of W x_in R, by tensorly (HOOI)

The matrix is the best of its rank in that measure. A side of full rank gets no factor, which would only turn a basis.

The error of the truncated HOSVD (V, U from the unfoldings alone) is known for all ranks at once: in the bases
of both unfoldings the kernel becomes G, both projections keep a corner of it, and the error is the energy outside.
HOOI starts there and only improves it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.extras import pip_install

Array = npt.NDArray[Any]

RIDGE = 1e-3
"""Added to a moment's diagonal, times its mean, so that directions missing from the data still count."""
MAX_EXACT = 1024
"""If a matrix's smaller side is longer, tensorly's randomized method gives its singular vectors, in float32."""
ROUNDS, TOLERANCE = 20, 1e-5
"""Of HOOI."""


@dataclass(frozen=True)
class Metric:
    """The weight of each direction of a layer's input.

    Attributes:
        root: (in, in), symmetric; or (in,) if only the diagonal is known; None: all count alike.
        inverse: of `root`, in the same shape.
    """

    root: Array | None = None
    inverse: Array | None = None

    def weigh(self, weight: Array) -> Array:
        """The weight (out, in, taps) with its input axis times the root."""
        return _times(weight, self.root)

    def unweigh(self, factor: Array) -> Array:
        """Turns a factor (in, rank) of a weighted weight into a factor for the unweighted input."""
        if self.inverse is None:
            return factor
        return self.inverse[:, None] * factor if self.inverse.ndim == 1 else np.asarray(self.inverse @ factor)


def make_metric(moment: Array | None) -> Metric:
    """The metric of a second moment: (in, in), its diagonal (in,), or None.

    A moment without information (all zero, or not finite) counts as none.
    """
    if moment is None:
        return Metric()
    wide = np.asarray(moment, dtype=np.float64)
    mean = float((wide if wide.ndim == 1 else np.diagonal(wide)).mean()) if np.isfinite(wide).all() else 0.0
    if not mean > 0:
        return Metric()
    if wide.ndim == 1:
        root = np.sqrt(wide / mean + RIDGE)
        return Metric(root, 1 / root)
    values, vectors = np.linalg.eigh((wide + wide.T) / (2 * mean))
    roots = np.sqrt(np.maximum(values, 0) + RIDGE)
    return Metric((vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T)


def energies(weight: Array, axis: int) -> Array:
    """The squared singular values of an unfolding, the largest first.

    Args:
        weight: (out, in, taps).
        axis: the axis of the rows; 0 or 1.
    """
    return np.asarray(np.maximum(_gram_eigh(weight, axis)[0], 0))


def matrix_errors(weight: Array) -> Array:
    """The squared errors of a matrix (out, in, 1) cut to each rank from 1 to full, as parts of its energy."""
    spectrum = energies(weight, 0 if weight.shape[0] <= weight.shape[1] * weight.shape[2] else 1)
    return _losses(np.cumsum(spectrum), spectrum.sum())


def tucker_errors(weight: Array) -> Array:
    """The squared errors of a kernel (out, in, taps) cut to each pair of ranks, as parts of its energy.

    Returns:
        (in, out): the entry [s - 1, r - 1] is for s inputs and r outputs of the core.
    """
    out, inputs, taps = weight.shape
    wide = np.asarray(weight, dtype=np.float64)
    left, right = _gram_eigh(wide, 0)[1], _gram_eigh(wide, 1)[1]
    core = np.tensordot(left, wide.reshape(out, -1), axes=(0, 0)).reshape(out, inputs, taps)
    core = np.einsum("oit,ij->ojt", core, right, optimize=True)
    kept = np.cumsum(np.cumsum((core**2).sum(axis=2), axis=0), axis=1).T
    return _losses(kept, float((wide**2).sum()))


def low_rank(weight: Array, rank: int, metric: Metric) -> tuple[Array, Array]:
    """A matrix as a product of two.

    Args:
        weight: (out, in, taps); the taps count as inputs.
        rank: from 1 to the smaller of out and in x taps.
        metric: of the input.

    Returns:
        (rank, in, taps) and (out, rank), whose product is the best of that rank.
    """
    wide = np.asarray(weight, dtype=np.float64)
    flat = wide.reshape(len(wide), -1)
    left = _left_vectors(metric.weigh(wide).reshape(flat.shape), rank)
    return (left.T @ flat).reshape(rank, *wide.shape[1:]), left


def tucker2(weight: Array, ranks: tuple[int, int], metric: Metric) -> tuple[Array | None, Array, Array | None]:
    """A kernel as a product of three.

    Args:
        weight: (out, in, taps).
        ranks: inputs and outputs of the core.
        metric: of the input.

    Returns:
        (s, in), or None if s equals in; the core (r, s, taps); (out, r), or None if r equals out.
    """
    out, inputs, taps = weight.shape
    less, fewer = ranks
    if less == inputs:
        if fewer == out:
            return None, weight, None
        core, last = low_rank(weight, fewer, metric)
        return None, core, last
    wide = metric.weigh(np.asarray(weight, dtype=np.float64))
    if fewer == out:
        sideways = np.moveaxis(wide, 1, 0).reshape(inputs, -1)
        first = _left_vectors(sideways, less)
        core = (first.T @ sideways).reshape(less, out, taps).transpose(1, 0, 2)
        return metric.unweigh(first).T, core, None
    tensorly = _tensorly()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (core, (last, first)), _ = tensorly.decomposition.partial_tucker(
            wide, rank=[fewer, less], modes=[0, 1], n_iter_max=ROUNDS, tol=TOLERANCE, init="svd", random_state=0
        )
    return metric.unweigh(np.asarray(first)).T, np.asarray(core), np.asarray(last)


def product(first: Array | None, core: Array, last: Array | None) -> Array:
    """The weight (out, in, taps) that the factors multiply to."""
    kernel = np.asarray(core, dtype=np.float64)
    if first is not None:
        kernel = np.einsum("rst,si->rit", kernel, first, optimize=True)
    return kernel if last is None else np.einsum("or,rit->oit", last, kernel, optimize=True)


def relative_error(weight: Array, approximation: Array, metric: Metric) -> float:
    """The distance of an approximation relative to the norm, both weighed; 0 for a weight of zeros."""
    whole = float(np.linalg.norm(metric.weigh(np.asarray(weight, dtype=np.float64))))
    lost = float(np.linalg.norm(metric.weigh(np.asarray(weight, dtype=np.float64) - approximation)))
    return lost / whole if whole else 0.0


def _times(weight: Array, matrix: Array | None) -> Array:
    if matrix is None:
        return weight
    if matrix.ndim == 1:
        return weight * matrix[None, :, None]
    return np.asarray(np.einsum("oit,ij->ojt", weight, matrix, optimize=True))


def _gram_eigh(weight: Array, axis: int) -> tuple[Array, Array]:
    """The eigenvalues, the largest first, and eigenvectors of an unfolding's Gram matrix."""
    flat = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    gram = np.zeros((len(flat), len(flat)))
    for start in range(0, flat.shape[1], 4096):  # avoids a whole copy of a large InnerProduct's weights
        part = np.asarray(flat[:, start : start + 4096], dtype=np.float64)
        gram += part @ part.T
    values, vectors = np.linalg.eigh(gram)
    return values[::-1], vectors[:, ::-1]


def _losses(kept: Array, whole: float) -> Array:
    return np.maximum(1 - kept / whole, 0) if whole > 0 else np.zeros_like(kept)


def _left_vectors(matrix: Array, rank: int) -> Array:
    """The first left singular vectors, as columns."""
    tensorly = _tensorly()
    large = min(matrix.shape) > MAX_EXACT and 2 * rank < min(matrix.shape)
    more = {"n_iter": 2, "random_state": 0} if large else {}
    vectors, _, _ = tensorly.tenalg.svd_interface(
        matrix.astype(np.float32) if large else matrix,
        n_eigenvecs=rank,
        method="randomized_svd" if large else "truncated_svd",
        **more,
    )
    return np.asarray(vectors)


def _tensorly() -> Any:
    try:
        import tensorly
        import tensorly.decomposition
        import tensorly.tenalg
    except ImportError as error:
        raise RebirthError(f"decomposing needs tensorly: {pip_install('tucker')}") from error
    return tensorly
