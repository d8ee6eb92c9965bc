"""Line plots as SVG: axes with round numbers, lines and points that keep apart by colour and by dash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, isfinite, log10

from deeprebirth_caffe.pages.document import svg

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
) -> str:
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
    parts = [svg(WIDTH, HEIGHT), f'<text x="{LEFT}" y="14">{escape(title)}</text>']
    for value in height.ticks():
        y = height.at(value)
        parts.append(
            f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick(value)}</text>'
        )
    parts += _below(width, bottom, across, words)
    parts += [f'<path class="mark" d="M{width.at(mark):.1f} {TOP}V{bottom}"/>' for mark in marks]
    for line in lines:
        parts += _drawn(line, width, height)
    parts += _key(lines)
    return "".join([*parts, "</svg>"])


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


def _below(width: Axis, bottom: float, across: str, words: Sequence[str]) -> list[str]:
    parts = [f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{WIDTH - RIGHT}"/>']
    if words:
        # Names go down to the left, each ends below its point.
        for number, word in enumerate(words):
            x = width.at(number)
            turned = f'transform="rotate(-35 {x:.1f} {bottom + 14})"'
            parts.append(
                f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="end" class="small" {turned}>{escape(word)}</text>'
            )
        return parts
    for value in width.ticks():
        x = width.at(value)
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick(value)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:g}" y="{bottom + 36}" text-anchor="middle">{escape(across)}</text>')
    return parts


def _drawn(line: Line, width: Axis, height: Axis) -> list[str]:
    places = [(width.at(x), height.at(y)) for x, y in line.points if isfinite(y)]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    parts = [f'<path class="line {line.style}-line" d="M{path}"/>'] if len(places) > 1 else []
    if line.dots or len(places) == 1:
        for index, (x, y) in enumerate(places):
            name = f"<title>{escape(line.names[index])}</title>" if line.names else ""
            parts.append(f'<circle class="{line.style}" cx="{x:.1f}" cy="{y:.1f}" r="4">{name}</circle>')
    return parts


def _key(lines: Sequence[Line]) -> list[str]:
    """What the lines are, above the plot, from the right."""
    parts, x = [], float(WIDTH - RIGHT)
    for line in reversed([line for line in lines if line.label]):
        parts.append(f'<text x="{x:g}" y="14" text-anchor="end" class="{line.style}">{escape(line.label)}</text>')
        x -= 8.5 * len(line.label) + 12
    return parts
