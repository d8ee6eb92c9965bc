"""Whether an engine computes what real Caffe computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import Array

TOLERANCE = 1e-4
"""Largest max|a-b| / max|a| of an output that counts as the same."""


@dataclass(frozen=True)
class Agreement:
    """One output compared.

    Attributes:
        blob: its name.
        worst: max|a-b| / max|a|; infinite where there is no number for it.
        varies: whether Caffe's values are not all the same (or 0), so that the comparison says something.
        failure: what is wrong, in words; empty where it agrees.
    """

    blob: str
    worst: float
    varies: bool
    failure: str = ""


def agree(wanted: Mapping[str, Array], found: Mapping[str, Array]) -> list[Agreement]:
    """Compares outputs by name: Caffe's, and another engine's."""
    return [_agreement(name, array, found.get(name)) for name, array in wanted.items()]


def _agreement(name: str, wanted: Array, found: Array | None) -> Agreement:
    flat = wanted.reshape(-1)
    varies = bool(flat.any() if flat.size == 1 else (flat != flat[:1]).any())
    if found is None:
        return Agreement(name, float("inf"), varies, f'output "{name}" is missing')
    if found.shape != wanted.shape:
        text = f'output "{name}" has shape {found.shape}, in Caffe {wanted.shape}'
        return Agreement(name, float("inf"), varies, text)
    # Pooling windows without a pixel give -FLT_MAX or NaN: these have to be the same, and are no scale for the rest.
    odd = ~np.isfinite(wanted) | (np.abs(wanted) >= np.finfo(np.float32).max)
    if not np.array_equal(wanted[odd], found[odd], equal_nan=True) or not np.isfinite(found[~odd]).all():
        return Agreement(
            name, float("inf"), varies, f'output "{name}" is not finite where it should be, or the reverse'
        )
    a, b = wanted[~odd].astype(np.float64), found[~odd].astype(np.float64)
    scale = float(np.abs(a).max(initial=0.0))
    worst = float(np.abs(a - b).max(initial=0.0)) / (scale or 1.0)
    failure = ""
    if worst > TOLERANCE:
        failure = f'output "{name}" differs by {worst:.2e} of its largest value (at most {TOLERANCE:.0e} is allowed)'
    return Agreement(name, worst, varies, failure)


def first_failure(found: Sequence[Agreement]) -> str:
    """The first output that does not agree, in words; empty where all do."""
    return next((one.failure for one in found if one.failure), "")
