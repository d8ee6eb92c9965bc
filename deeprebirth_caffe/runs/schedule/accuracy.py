"""What a test gave, how much of it was lost, and whether that may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.ir import View
from deeprebirth_caffe.nets.ranking import find_classifier
from deeprebirth_caffe.results import ABSENT, Figures

if TYPE_CHECKING:
    from deeprebirth_caffe.commands.test import Scored
    from deeprebirth_caffe.runs.schedule.model import Budget


def metrics_of(view: View) -> list[str]:
    """What budgets can go by in a net: top1, top5, and what its Accuracy layers put out."""
    outputs = {value.name for value in view.outputs}
    own = [layer.tops[0] for layer in view.layers if layer.type == "Accuracy" and layer.tops[0] in outputs]
    return (["top1", "top5"] if find_classifier(view) is not None else []) + own


def check_metric(metric: str, known: Sequence[str], where: str) -> None:
    """Raises RebirthError for a metric that the net does not have."""
    if metric not in known:
        there = f"there is {', '.join(known)}" if known else "it has no Accuracy and no loss over classes in TEST"
        raise RebirthError(f"{where}: the net has no metric {metric}; {there}")


def values_of(result: Scored) -> Figures:
    """The figures of a test by name, top1 and top5 too."""
    more = {"top1": result.top1, "top5": result.top5, "images": result.images}
    return {**result.outputs, **{name: value for name, value in more.items() if value is not ABSENT}}


def points(before: Figures, now: Figures, metrics: Sequence[str]) -> dict[str, float]:
    """Points lost by each metric: positive where it is worse now."""
    found = {}
    for name in metrics:
        old, new = before.get(name), now.get(name)
        if isinstance(old, (int, float)) and isinstance(new, (int, float)):
            found[name] = 100 * (old - new)
    return found


def over_budget(budget: Budget, metric: str, now: Figures, before: Figures, base: Figures) -> str:
    """Why a step loses more than it may; the empty string where it does not.

    Args:
        budget: what it may lose.
        metric: what counts.
        now: what it gave.
        before: what the step before gave.
        base: what the net gave that the run began with.
    """
    for most, than, words in (
        (budget.step, before, "the step before"),
        (budget.total, base, "the net it began with"),
    ):
        lost = points(than, now, [metric]).get(metric)
        if most is None:
            continue
        if lost is None:
            whose = "its" if metric not in now or now[metric] is None else f"{words}'s"
            return f"{whose} {metric} is no number"
        # Two figures that a table prints alike are alike.
        if lost > most + 1e-9:
            return f"its {metric} is {lost:.2f} points under that of {words}, and {most:g} are allowed"
    return ""
