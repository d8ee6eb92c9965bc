"""Chooses a rank for each layer, so that all together fit a budget of weights with the least error.

Each layer offers choices (weights, error): its factorizations and the unchanged layer (error 0). From its smallest
choice the lower convex hull of the others gives steps of falling gain (error saved for each weight spent). The steps
of all layers are taken in the order of their gain. If the budget ends in the middle of a step, two ways are tried,
and the better is kept:

- the layer stops there, and later steps of other layers may follow, as far as they fit;
- nothing follows, but the layer of that step takes the best of its choices that fits, on the hull or not.

So a larger budget never gives a larger error. In the second way, a larger budget goes further on the same path. In the
first way, consider the first step that only the larger budget fits: it saves more than all that the smaller budget can
still do with the rest, because every later step has less gain and they have fewer weights together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Menu:
    """The choices of a layer.

    Attributes:
        weights: of each choice.
        errors: of each choice, comparable between layers.
    """

    weights: Array
    errors: Array

    def front(self) -> Array:
        """The choices that no other choice beats in both weights and error; fewest weights first."""
        order = np.lexsort((self.errors, self.weights))
        errors = self.errors[order]
        better = np.ones(len(order), dtype=bool)
        better[1:] = errors[1:] < np.minimum.accumulate(errors)[:-1]
        return order[better]


def allocate(menus: Mapping[str, Menu], budget: int) -> dict[str, int]:
    """Picks a choice for each layer.

    Args:
        menus: by layer; each has at least one choice.
        budget: the most weights of all choices together. If even the smallest choices have more, those are picked.

    Returns:
        The index of each layer's choice.
    """
    fronts = {name: menu.front() for name, menu in menus.items()}
    start = {name: int(front[0]) for name, front in fronts.items()}
    left = budget - _total(menus, start)
    steps = _steps(menus, fronts)
    return min(_onwards(menus, start, left, steps), _part(menus, fronts, start, left, steps), key=lambda it: it[0])[1]


Steps = list[tuple[str, int]]
"""Layers and their next choices, best gain first."""
Picked = tuple[float, dict[str, int]]
"""The total error, and the choices of the layers."""


def _steps(menus: Mapping[str, Menu], fronts: Mapping[str, Array]) -> Steps:
    steps = []
    for place, (name, front) in enumerate(fronts.items()):
        for number, (before, after) in enumerate(pairwise(_hull(menus[name], front))):
            gain = float(menus[name].errors[before] - menus[name].errors[after]) / _spent(menus[name], before, after)
            # Within a layer the steps keep their order, even if rounding swaps their gains.
            steps.append((-gain, place, number, name, after))
    return [(name, after) for _, _, _, name, after in sorted(steps)]


def _onwards(menus: Mapping[str, Menu], start: dict[str, int], left: int, steps: Steps) -> Picked:
    """Takes every step that fits."""
    picked, ended = dict(start), set()
    for name, after in steps:
        spent = _spent(menus[name], picked[name], after)
        if name in ended or spent > left:
            ended.add(name)
        else:
            picked[name] = after
            left -= spent
    return _error(menus, picked), picked


def _part(
    menus: Mapping[str, Menu], fronts: Mapping[str, Array], start: dict[str, int], left: int, steps: Steps
) -> Picked:
    """Takes steps up to the first that does not fit, then the best choice of that layer that fits."""
    picked = dict(start)
    for name, after in steps:
        menu, front = menus[name], fronts[name]
        spent = _spent(menu, picked[name], after)
        if spent > left:
            fits = front[menu.weights[front] - menu.weights[picked[name]] <= max(left, 0)]
            picked[name] = int(fits[-1])  # errors fall along the front
            break
        picked[name] = after
        left -= spent
    return _error(menus, picked), picked


def _spent(menu: Menu, before: int, after: int) -> int:
    return int(menu.weights[after] - menu.weights[before])


def _total(menus: Mapping[str, Menu], picked: Mapping[str, int]) -> int:
    return sum(int(menus[name].weights[choice]) for name, choice in picked.items())


def _error(menus: Mapping[str, Menu], picked: Mapping[str, int]) -> float:
    return sum(float(menus[name].errors[choice]) for name, choice in picked.items())


def _hull(menu: Menu, front: Array) -> list[int]:
    """The choices of a front on its lower convex hull."""
    hull: list[int] = []
    for choice in front:
        while len(hull) > 1 and _above(menu, hull[-2], hull[-1], int(choice)):
            hull.pop()
        hull.append(int(choice))
    return hull


def _above(menu: Menu, first: int, middle: int, last: int) -> bool:
    """Whether a choice lies on or above the line between two others."""
    weights, errors = menu.weights, menu.errors
    left = (errors[first] - errors[middle]) * float(weights[last] - weights[middle])
    right = (errors[middle] - errors[last]) * float(weights[middle] - weights[first])
    return bool(left <= right)
