"""Line plots as SVG: axes with round numbers, lines and points that keep apart by colour and by dash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10
from typing import TYPE_CHECKING

from deeprebirth_caffe.pages.document import render

if TYPE_CHECKING:
    from markupsafe import Markup

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 480, 270, 62, 16, 26, 46
"""Size of a plot and its margins, in pixels."""
TICKS = 5
"""About as many numbers along an axis."""
SMALLEST = 1e-100
"""Values and ranges below this are nothing."""
WIDE = 30.0
"""A range of positive values that is wider than this is drawn on a logarithmic axis."""


@dataclass(frozen=True)
class Line:
    """A line of a plot.

    Attributes:
        points: (x, y) in order.
        label: what it is; empty for none in the key.
        style: class of its colour: "tensor" or "other".
        dots: whether its points are marked.
        names: of its points, where they have some.
    """

    points: Sequence[tuple[float, float]]
    label: str = ""
    style: str = "tensor"
    dots: bool = False
    names: Sequence[str] = ()


@dataclass(frozen=True)
class Axis:
    """From values to pixels.

    Attributes:
        low: the value at `start`.
        high: the value at `end`.
        logarithmic: whether equal steps are equal ratios.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Where a value lies."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        return self.start + (self.end - self.start) * (self._scaled(value) - low) / (high - low)

    def _scaled(self, value: float) -> float:
        return log10(value) if self.logarithmic else value

    def ticks(self) -> list[float]:
        """Round values within it."""
        if self.logarithmic:
            powers = range(ceil(log10(self.low) - 1e-9), floor(log10(self.high) + 1e-9) + 1)
            return [10.0**power for power in powers]
        step = nice((self.high - self.low) / TICKS)
        first = ceil(self.low / step - 1e-9)
        return [step * number for number in range(first, floor(self.high / step + 1e-9) + 1)]


def nice(step: float) -> float:
    """The next larger of 1, 2, 5 times a power of ten."""
    power = 10.0 ** floor(log10(step))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * (1 - 1e-9))


def plot(
    lines: Sequence[Line],
    title: str,
    across: str,
    *,
    marks: Sequence[float] = (),
    words: Sequence[str] = (),
    logarithmic: bool | None = None,
) -> Markup:
    """A plot.

    Args:
        lines: at least one with a point.
        title: what its height is.
        across: what its width is.
        marks: values along the width at which a line goes up.
        words: names of the whole numbers along the width, from 0, in place of numbers.
        logarithmic: of the height; None: where the values ask for it.
    """
    points = [point for line in lines for point in line.points if isfinite(point[1])]
    xs, ys = ([point[index] for point in points] for index in (0, 1))
    if logarithmic is None:
        logarithmic = min(ys) > SMALLEST and max(ys) / min(ys) > WIDE
    bottom = HEIGHT - BOTTOM - (34 if words else 0)
    width = _axis(xs, LEFT, WIDTH - RIGHT)
    height = _axis(ys, bottom, TOP, logarithmic)
    return render(
        "plot.svg",
        frame={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP},
        bottom=bottom,
        title=title,
        across="" if words else across,
        rows=[(height.at(value), tick(value)) for value in height.ticks()],
        columns=[] if words else [(width.at(value), tick(value)) for value in width.ticks()],
        words=[(width.at(number), word) for number, word in enumerate(words)],
        marks=[width.at(mark) for mark in marks],
        lines=[(line, [(width.at(x), height.at(y)) for x, y in line.points if isfinite(y)]) for line in lines],
    )


def tick(value: float) -> str:
    """A number along an axis."""
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.4g}" if abs(value) >= 1e-9 else "0"


def _axis(values: Sequence[float], start: float, end: float, logarithmic: bool = False) -> Axis:
    low, high = min(values), max(values)
    if logarithmic:
        return Axis(10 ** floor(log10(low)), 10 ** ceil(log10(high)), start, end, True)
    if high - low <= max(SMALLEST, 1e-12 * max(abs(low), abs(high))):
        reach = abs(low) / 2 or 1.0
        return Axis(low - reach, high + reach, start, end)
    rim = 0.04 * (high - low)
    return Axis(low - rim, high + rim, start, end)
