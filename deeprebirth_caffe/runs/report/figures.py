"""What the figures of a run say together: accuracies against the first net's, image by image, and nets' times in pairs.

Accuracies of two nets on the same images are compared pair by pair: with d the difference of an image's hits (-1, 0 or
1), the drop is the mean of d, and its 95 % interval that mean plus or minus 1.96 standard deviations of d over the root
of the number of images. Images that both nets get right or both wrong, most of them, then add no noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprebirth_caffe.bench.breakdown import Group, LayerTime, grouped
from deeprebirth_caffe.runs.report.gather import Run, Step, Timing

NORMAL = 1.959964
"""Standard deviations on either side of the mean that hold 95 %."""
PLACES = ("top1", "top5")
"""The columns of per-image hits."""


@dataclass(frozen=True)
class Drop:
    """What a net lost against the first one.

    Attributes:
        points: percent of all images; below 0 where it gained.
        low: the lower end of the 95 % interval, from the same images in both nets; null where they are not known one by
            one, or none differs.
        high: the upper end.
    """

    points: float
    low: float | None = None
    high: float | None = None


def metrics(run: Run) -> tuple[str, ...]:
    """The accuracies that the run's tests give, the one that its schedule goes by first."""
    base = run.base or run.last
    if base is None:
        return ()
    wanted = goes_by(run)
    found = [name for name, value in base.test.items() if 0 <= value <= 1 and _accuracy(name)]
    # A net's own outputs say the same as top1 and top5 where those are there.
    shown = [name for name in found if name in PLACES] or found
    first = [wanted] if wanted in base.test else []
    return tuple(dict.fromkeys([*first, *shown]))


def goes_by(run: Run) -> str:
    """The metric that the schedule names; empty where it names none."""
    return str(run.info.get("schedule", {}).get("test", {}).get("metric") or "")


def _accuracy(name: str) -> bool:
    return any(word in name.lower() for word in ("acc", "top"))


def own_output(metric: str, outputs: Sequence[str]) -> str:
    """The output of a net itself that stands for a metric: of several heads the last, the main one; empty for none."""
    if metric in outputs:
        return metric
    words = {"top1": ("top-1", "top1", "top_1", "acc"), "top5": ("top-5", "top5", "top_5")}.get(metric, ())
    for word in words:
        if named := [name for name in outputs if word in name.lower()]:
            return named[-1]
    return ""


def drop(base: Step, step: Step, metric: str) -> Drop | None:
    """What a step's net lost.

    Returns:
        None where one of them was not tested.
    """
    before, after = base.test.get(metric), step.test.get(metric)
    if before is None or after is None:
        return None
    points = 100 * (before - after)
    if metric in PLACES and base.hits is not None and step.hits is not None and len(base.hits) == len(step.hits):
        column = PLACES.index(metric)
        return paired(base.hits[:, column], step.hits[:, column])
    return Drop(points)


def paired(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Drop:
    """Compares two nets image by image.

    Args:
        before: (images,) whether the first net was right.
        after: likewise of the other, on the same images.
    """
    differences = 100 * (before.astype(np.float64) - after)
    mean, count = float(differences.mean()), len(differences)
    if count < 2 or not differences.any():
        return Drop(mean)
    reach = NORMAL * float(differences.std(ddof=1)) / sqrt(count)
    return Drop(mean, mean - reach, mean + reach)


@dataclass(frozen=True)
class Pair:
    """The first net and the last one in one timing.

    Attributes:
        timing: which.
        before: the row of the first net in its "nets".
        after: the row of the last net.
        speedup: how many times as fast the last one is.
        low: the lower end of the 95 % interval; None where there is none.
        high: the upper end.
    """

    timing: Timing
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    speedup: float
    low: float | None
    high: float | None


def pairs(run: Run) -> list[Pair]:
    """The first net and the last one in each timing that has both."""
    found = []
    for timing in run.timings:
        rows = [(run.timed_step(net["net"]), net) for net in timing.data["nets"]]
        before = next((net for step, net in rows if step is run.base), None)
        after = next((net for step, net in rows if step is run.last), None)
        if before is not None and after is not None and before is not after:
            found.append(_pair(timing, before, after))
    return found


def _pair(timing: Timing, before: Mapping[str, Any], after: Mapping[str, Any]) -> Pair:
    for ratio in timing.data["ratios"]:
        sides = (ratio["net"], ratio["vs"])
        low, high = ratio["low"], ratio["high"]
        if sides == (before["net"], after["net"]):
            return Pair(timing, before, after, ratio["median"], low, high)
        if sides == (after["net"], before["net"]):
            ends = (None, None) if low is None or high is None else (1 / high, 1 / low)
            return Pair(timing, before, after, 1 / ratio["median"], *ends)
    return Pair(timing, before, after, before["median_ms"] / after["median_ms"], None, None)


@dataclass(frozen=True)
class Point:
    """One step on the curve of accuracy against speed-up.

    Attributes:
        name: of the step.
        speedup: how many times as fast as the first net.
        accuracy: from 0 to 1.
        measured: whether its net was timed; else its time was put together.
    """

    name: str
    speedup: float
    accuracy: float
    measured: bool


def trade(run: Run, pair: Pair, metric: str) -> list[Point]:
    """Accuracy against speed-up, step by step.

    Nets that were timed have their measured times. Those between them have a time that is put together from the first
    and the last merged one: a stage that has been merged takes its time in the latter, the others theirs in the former.
    """
    base = run.base
    if base is None or metric not in base.test:
        return []
    timed = [(run.timed_step(net["net"]), net) for net in pair.timing.data["nets"]]
    net_of = {step.folder: net for step, net in timed if step is not None}
    steps = [step for step in run.learned if metric in step.test]
    merging = [step for step in steps if step.kind != "tucker"]
    merged = net_of.get(merging[-1].folder) if merging else None
    before, after = (by_stage(net) if net is not None else {} for net in (pair.before, merged))
    found, done = [Point(base.name, 1.0, base.test[metric], True)], set[str]()
    for step in steps:
        if step.manifest is not None:
            done.update(one["stage"] for one in step.manifest.data["rewrites"])
        if step.folder in net_of:
            speedup = pair.speedup if step is run.last else pair.before["median_ms"] / net_of[step.folder]["median_ms"]
            found.append(Point(step.name, speedup, step.test[metric], True))
        elif before and after and step in merging:
            ms = sum(after.get(stage, 0.0) if stage in done else time for stage, time in before.items())
            if ms:
                found.append(Point(step.name, sum(before.values()) / ms, step.test[metric], False))
    return found


def by_stage(net: Mapping[str, Any]) -> dict[str, float]:
    """Milliseconds of each stage of a timed net; empty where the engine does not say."""
    return {stage: group.ms for stage, group in groups_of(net).items()}


def groups_of(net: Mapping[str, Any]) -> dict[str, Group]:
    """The stages of a timed net."""
    names = [field.name for field in fields(LayerTime)]
    return grouped([LayerTime(*(row[name] for name in names)) for row in net["layers"]], "stage")
