"""Small charts as coordinates that a template draws as SVG: lines, points, intervals. Knows no slides.

A chart is `WIDTH` x `HEIGHT` units of SVG, y downwards. The stylesheet decides how a series is drawn, by its `kind`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, isfinite, log10
from typing import Literal

WIDTH, HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 10, 36
_MOST_TICKS = 5

Shape = Literal["line", "steps", "area", "points", "intervals"]
Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """Values to draw.

    Attributes:
        name: As the legend has it; "" leaves it out of the legend.
        kind: What it looks like: a class of the stylesheet.
        points: (x, y) each; those that are not finite are left out.
        shape: How they are drawn; `intervals` joins each two that follow one another.
    """

    name: str
    kind: str
    points: Sequence[Point]
    shape: Shape = "line"


@dataclass(frozen=True)
class DrawnSeries:
    """A series in the chart's own units."""

    name: str
    kind: str
    shape: Shape
    path: str
    dots: Sequence[Point]


@dataclass(frozen=True)
class Tick:
    """A place on an axis, and what it says there."""

    at: float
    label: str


@dataclass(frozen=True)
class Chart:
    """Chart as a template draws it.

    Attributes:
        title: What it shows.
        x: The horizontal axis's name.
        y: The vertical axis's name.
        drawn: The series.
        x_ticks: Along the horizontal axis.
        y_ticks: Along the vertical axis.
        x_label: Whether the horizontal ticks have labels.
        width: Units.
        height: Units.
        left: Left edge of the area of values; the others alike.
        right: Right edge.
        top: Upper edge.
        bottom: Lower edge.
    """

    title: str
    x: str
    y: str
    drawn: Sequence[DrawnSeries]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM

    @property
    def legend(self) -> list[DrawnSeries]:
        """The series that have a name, each name once."""
        return list({entry.name: entry for entry in reversed(self.drawn) if entry.name}.values())[::-1]


def chart(
    title: str, x: str, y: str, series: Iterable[Series], counts: bool = False, covers: Sequence[float] = ()
) -> Chart | None:
    """Lay series out.

    Args:
        title: What the chart shows.
        x: The horizontal axis's name.
        y: The vertical axis's name.
        series: What to draw, the lowest first.
        counts: Whether the horizontal axis counts something: it ends where the values do, and its ticks are whole.
        covers: What the vertical axis covers whatever the values are.

    Returns:
        The chart; None where there is no finite value.
    """
    kept = [
        Series(entry.name, entry.kind, [point for point in entry.points if all(map(isfinite, point))], entry.shape)
        for entry in series
    ]
    kept = [entry for entry in kept if entry.points]
    if not kept:
        return None
    xs, ys = zip(*(point for entry in kept for point in entry.points), strict=True)
    heights = (*ys, *covers)
    x_ticks, y_ticks = ticks(min(xs), max(xs), 1.0 if counts else 0.0), ticks(min(heights), max(heights))
    x_low, x_high = x_ticks[0], x_ticks[-1]
    if counts and min(xs) < max(xs):
        x_low, x_high = min(xs), max(xs)
    across = _Scale(x_low, x_high, _LEFT, WIDTH - _RIGHT)
    down = _Scale(y_ticks[0], y_ticks[-1], HEIGHT - _BOTTOM, _TOP)
    drawn = [
        _draw_series(entry, [(across(px), down(py)) for px, py in entry.points], down(y_ticks[0])) for entry in kept
    ]
    return Chart(
        title,
        x,
        y,
        drawn,
        [Tick(across(at), label) for at, label in zip(x_ticks, _labels(x_ticks), strict=True) if x_low <= at <= x_high],
        [Tick(down(at), label) for at, label in zip(y_ticks, _labels(y_ticks), strict=True)],
    )


def ticks(low: float, high: float, least: float = 0.0) -> list[float]:
    """Round numbers from at most `low` to at least `high`, two to seven, a step of 1, 2 or 5 times 10^k apart.

    Args:
        low: The smallest value.
        high: The largest.
        least: The smallest step, itself such a number.
    """
    if high - low < 1e-9 * max(abs(low), abs(high), 1.0):
        margin = max(abs(low) * 0.1, 1e-3)
        low, high = low - margin, high + margin
    rough = (high - low) / _MOST_TICKS
    power = 10.0 ** floor(log10(rough))
    step = max(least, next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9)))
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _labels(at: Sequence[float]) -> list[str]:
    """Format what ticks say: all with as many decimals as the step between them needs."""
    step = at[1] - at[0]
    if not 1e-4 <= step < 1e6:
        return [f"{value:g}" for value in at]
    decimals = max(0, -floor(log10(step) + 1e-9))
    return [f"{value:.{decimals}f}" for value in at]


class _Scale:
    """From values to units, along one axis."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self._low, self._start = low, start
        self._per_unit = (end - start) / (high - low)

    def __call__(self, value: float) -> float:
        return round(self._start + (value - self._low) * self._per_unit, 1)


def _draw_series(series: Series, points: Sequence[Point], floor_y: float) -> DrawnSeries:
    """Draw a series whose points are in the chart's units."""
    if series.shape == "points":
        return DrawnSeries(series.name, series.kind, series.shape, "", points)
    if series.shape == "intervals":
        pairs = zip(points[::2], points[1::2], strict=True)
        return DrawnSeries(series.name, series.kind, series.shape, "".join(_path(pair) for pair in pairs), ())
    path = _path(_step_outline(points) if series.shape in ("steps", "area") else points)
    if series.shape == "area":
        path = f"M{points[0][0]:g} {floor_y:g}L{path[1:]}V{floor_y:g}Z"
    return DrawnSeries(series.name, series.kind, series.shape, path, ())


def _step_outline(points: Sequence[Point]) -> list[Point]:
    """Return a histogram's outline: each value holds until the next one's place; the last holds nowhere."""
    outline: list[Point] = []
    for (x, y), (next_x, _) in pairwise(points):
        outline += [(x, y), (next_x, y)]
    return outline or list(points)


def _path(points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
