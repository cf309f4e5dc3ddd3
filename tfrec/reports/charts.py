"""Geometry of the report's charts; the templates draw them as inline SVG and HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

WIDTH, HEIGHT = 340, 190  # of a line chart, in CSS pixels at its natural size
LEFT, RIGHT, TOP, BOTTOM = 58, 22, 10, 28  # its margins


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis: `at` in pixels."""

    at: float
    label: str


@dataclass(frozen=True)
class Line:
    """One series: `points` as SVG's `points` attribute, and where it ends."""

    name: str
    points: str
    end: tuple[float, float]
    last: str


@dataclass(frozen=True)
class LineChart:
    """A small line chart: pixel coordinates in a `WIDTH` x `HEIGHT` box, and a description in words."""

    title: str
    x_label: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    description: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM


def line_chart(title: str, x_label: str, series: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> LineChart:
    """Lay out a chart of one or more series.

    Args:
        title: what is drawn.
        x_label: what the horizontal axis counts.
        series: name -> (x `[P]`, y `[P]`), finite, at least one point each.
    """
    x_ticks = nice_ticks(np.concatenate([x for x, _ in series.values()]), 4)
    y_ticks = nice_ticks(np.concatenate([y for _, y in series.values()]), 4)

    def x_at(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * _share(x, x_ticks)

    def y_at(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * _share(y, y_ticks)

    lines, words = [], []
    for name, (xs, ys) in series.items():
        points = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in zip(xs, ys))
        lines.append(Line(name, points, (x_at(xs[-1]), y_at(ys[-1])), number(ys[-1])))
        words.append(f"{name} goes from {number(ys[0])} to {number(ys[-1])}")
    return LineChart(
        title=title,
        x_label=x_label,
        lines=lines,
        x_ticks=[Tick(x_at(x), label) for x, label in zip(x_ticks, tick_labels(x_ticks))],
        y_ticks=[Tick(y_at(y), label) for y, label in zip(y_ticks, tick_labels(y_ticks))],
        description=f"{title} by {x_label}: {'; '.join(words)}.",
    )


@dataclass(frozen=True)
class Bar:
    """A value with its interval on a common scale: places in percent of the width."""

    name: str
    text: str
    interval: str
    at: float
    low: float
    high: float
    kind: str = "rule"


def bars(rows: list[tuple[str, float, float | None, float | None, str]]) -> list[Bar]:
    """Put values on one scale from 0 to the largest upper end.

    Args:
        rows: `(name, value, low, high, kind)`; low and high may be None.
    """
    ends = [value if high is None else high for _, value, _, high, _ in rows]
    top = max([*ends, 1e-12])
    result = []
    for name, value, low, high, kind in rows:
        interval = "" if low is None or high is None else f"{score(low)} to {score(high)}"
        at, start, end = (100 * (value if place is None else place) / top for place in (value, low, high))
        result.append(Bar(name, score(value), interval, at, start, end, kind))
    return result


def nice_ticks(values: np.ndarray, about: int) -> list[float]:
    """About so many round numbers that enclose the values; steps are 1, 2, 2.5 or 5 times a power of 10."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = (low - abs(low) * 0.1, high + abs(high) * 0.1) if low else (0.0, 1.0)
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [place * step for place in range(first, last + 1)]


def tick_labels(ticks: list[float]) -> list[str]:
    """The ticks with as many decimals as their step needs, or with an exponent where they are tiny."""
    step = ticks[1] - ticks[0]
    if step < 0.0001:
        return ["0" if tick == 0 else f"{tick:.1e}" for tick in ticks]
    decimals = next(digits for digits in range(7) if math.isclose(step, round(step, digits), rel_tol=1e-6))
    return [f"{tick:,.{decimals}f}" for tick in ticks]


def score(value: float) -> str:
    """A metric with four decimals, so that columns of them can be compared."""
    return f"{value:.4f}" if math.isfinite(value) else "–"


def number(value: float) -> str:
    """A figure in running text: three significant digits, large ones with thousands separators."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 0.0001:
        return f"{value:.1e}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{min(digits, 4)}f}"
    return text if "." not in text or abs(value) < 1 else text.rstrip("0").rstrip(".")


def _share(value: float, ticks: list[float]) -> float:
    return (value - ticks[0]) / (ticks[-1] - ticks[0])
