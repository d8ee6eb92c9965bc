"""The ranks of all layers of a net: within a budget of weights, or by variational Bayes.

Budget: each layer's choices are itself and every pair of ranks (or rank) at which multiply-adds and predicted time
fall. What is made as large as can be is the product over the layers of the part of their energy that is left, each
weighed by the layer's input (Zhang et al. 2016, who take PCA energies): a sum of errors would rather give up one large
layer wholly. So a choice's error is the negative logarithm of what it keeps. `numerics.ranks` spends the budget.

Variational Bayes (`numerics.vbmf`): ranks of both unfoldings of the kernel, or of the matrix; of groups the largest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from deeprebirth_caffe.ir import Weights
from deeprebirth_caffe.numerics.ranks import Menu, allocate
from deeprebirth_caffe.numerics.tucker import energies, matrix_errors, tucker_errors
from deeprebirth_caffe.numerics.vbmf import signal_rank
from deeprebirth_caffe.passes.relearn.factors import Cost, Ranks, Site

Array = npt.NDArray[Any]


@dataclass
class Choice:
    """Ranks by layer, and why the other layers stay as they are."""

    ranks: dict[str, Ranks] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


def by_budget(sites: Sequence[Site], weights: Weights, budget: int, moments: Mapping[str, Array]) -> Choice:
    """The ranks that fit a budget with the least error.

    Args:
        sites: the layers that may be decomposed; all have weights.
        weights: theirs.
        budget: how many weights (and biases) they may have together afterwards.
        moments: second moments of what they read, by layer, where they are known.
    """
    choice = Choice()
    menus: dict[str, Menu] = {}
    grids: dict[str, tuple[Site, Array, Array]] = {}
    kept = 0
    for site in sites:
        name, now = site.layer.name, site.now()
        grid = _costs(site)
        pays = grid.valid & (grid.weights < now.weights) & (grid.macs < now.macs) & (grid.time < now.time)
        if not pays.any():
            choice.left[name] = "at no rank would its weights, its multiply-adds and its predicted time all fall"
            kept += now.weights
            continue
        errors = _errors(site, weights[name][0], moments)
        menus[name] = Menu(np.append(grid.weights[pays], now.weights), np.append(errors[pays], 0.0))
        grids[name] = site, pays, np.argwhere(pays)
    for name, index in allocate(menus, budget - kept).items():
        site, _, places = grids[name]
        if index == len(places):
            choice.left[name] = "it stays whole: the budget is better saved elsewhere"
        else:
            choice.ranks[name] = tuple(int(site.group * (place + 1)) for place in places[index])
    return choice


def by_variational_bayes(sites: Sequence[Site], weights: Weights) -> Choice:
    """As many components as stand out of the noise."""
    choice = Choice()
    for site in sites:
        name = site.layer.name
        split = site.split(weights[name][0])
        found = []
        for axis in (1, 0) if site.kernel else (0 if site.outputs <= site.inputs else 1,):
            ranks = []
            for weight in split:
                rows = weight.shape[axis]
                ranks.append(signal_rank(energies(weight, axis), rows, weight.size // rows).rank)
            found.append(site.group * max(ranks))
        if min(found) == 0:
            choice.left[name] = "variational Bayes sees nothing but noise in its weights"
        elif tuple(found) == site.whole:
            choice.left[name] = "variational Bayes finds it of full rank"
        else:
            choice.ranks[name] = site.trimmed(tuple(found))
    return choice


def _errors(site: Site, weight: Array, moments: Mapping[str, Array]) -> Array:
    """The negative logarithm of the energy kept at each rank; for a kernel by the core's inputs, then its outputs."""
    lost: Array | None = None
    whole = 0.0
    for part, metric in zip(site.split(weight), site.metrics(moments), strict=True):
        wide = metric.weigh(np.asarray(part, dtype=np.float64))
        energy = float((wide**2).sum())
        found = energy * (tucker_errors(wide) if site.kernel else matrix_errors(wide))
        lost = found if lost is None else lost + found
        whole += energy
    assert lost is not None
    kept = 1 - lost / whole if whole else np.ones_like(lost)
    return np.asarray(-np.log(np.clip(kept, 1e-300, 1.0)))


@dataclass(frozen=True)
class _Costs:
    """Of a site at all ranks: arrays like those of `_errors`.

    Attributes:
        weights, macs, time: as of `Cost`.
        valid: whether there can be such ranks.
    """

    weights: Array
    macs: Array
    time: Array
    valid: Array


def _costs(site: Site) -> _Costs:
    """What `ops` says, at all ranks at once: the cost of a part is linear in each rank that it depends on."""
    full = tuple(rank // site.group for rank in site.whole)
    if not site.kernel:
        rank = np.arange(1, full[0] + 1, dtype=np.float64)
        ends = [_vector(site.then((site.group * one,))) for one in (1, 2)]
        weights, macs, time = ends[0][:, None] + (ends[1] - ends[0])[:, None] * (rank - 1)
        return _Costs(weights, macs, time, np.ones(full, dtype=bool))
    less, more = np.meshgrid(*(np.arange(most, dtype=np.float64) for most in full), indexing="ij")
    has_in, has_out = less < full[0] - 1, more < full[1] - 1
    first = _plane(site, "in", less, more) * has_in
    core = np.where(has_out, _plane(site, "core", less, more), _plane(site, "core and bias", less, more))
    last = _plane(site, "out", less, more) * has_out
    valid = (~has_out | (more < (less + 1) * site.taps)) & (~has_in | (less < (more + 1) * site.taps))
    weights, macs, time = first + core + last
    return _Costs(weights, macs, time, valid)


def _plane(site: Site, role: str, less: Array, more: Array) -> Array:
    """Weights, multiply-adds and time of one part, by the core's inputs and outputs less one."""
    one, two = site.group, 2 * site.group
    base, right, down, both = (
        _vector(site.alone(role, ranks))[:, None, None] for ranks in ((one, one), (two, one), (one, two), (two, two))
    )
    return np.asarray(base + (right - base) * less + (down - base) * more + (both - right - down + base) * less * more)


def _vector(cost: Cost) -> Array:
    return np.array([cost.weights, cost.macs, cost.time], dtype=np.float64)
