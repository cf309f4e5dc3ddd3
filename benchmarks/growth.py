"""How the cost of training an example grows with the shop: customers, items, batch, length of the history.

    python -m benchmarks.growth --out benchmarks/growth.png
    python -m benchmarks.growth --axes items batch --repeats 1

Microseconds for an example (a purchase; a customer where the history grows) of warm steps, input included: the model of
`benchmarks.fit` for customers, items and batch, that of `benchmarks.sequence` for the history, with all else held.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import fit, sequence
from benchmarks.measure import machine, measure, step_seconds

FIT = {"users": 170_000, "items": 105_000, "batch": 2048}
PURCHASES, DIM, FEATURES, STEPS = 500_000, 128, 384, 12


@dataclass(frozen=True)
class Axis:
    """What grows: the sizes, and for each the contender and its work."""

    name: str
    sizes: tuple[int, ...]
    work: Callable[[int], tuple[Callable, Any]]


@dataclass(frozen=True)
class Point:
    """Microseconds for an example at a size: of the median step, the fastest and the slowest."""

    size: int
    microseconds: float
    low: float
    high: float


def fit_work(name: str, size: int) -> tuple[Callable, Any]:
    """A fit in which one size is another."""
    sizes = FIT | {name: size}
    work = fit.Work(sizes["users"], sizes["items"], PURCHASES, DIM, FEATURES, sizes["batch"], STEPS)
    return fit.with_tfrec, work


def history_work(size: int) -> tuple[Callable, Any]:
    """A sequence model whose customers all have histories of that length."""
    work = sequence.Work(20_000, 2_000, size + 1, batch=64, steps=STEPS, full=True, length=size)
    return sequence.with_tfrec, work


AXES = {
    axis.name: axis
    for axis in (
        Axis("users", (170_000, 340_000, 680_000, 1_360_000), lambda size: fit_work("users", size)),
        Axis("items", (10_000, 100_000, 1_000_000), lambda size: fit_work("items", size)),
        Axis("batch", (512, 2_048, 8_192), lambda size: fit_work("batch", size)),
        Axis("history", (12, 25, 50, 100), history_work),
    )
}


def main(arguments: list[str] | None = None) -> dict[str, list[Point]]:
    """Measure along every axis, print the tables, draw the plots; returns the points."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES), help="default: all")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each size (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/growth.png"), help="default: %(default)s")
    args = parser.parse_args(arguments)
    print(f"On {machine()}\n")
    points = {}
    for name in args.axes:
        points[name] = measure_axis(AXES[name], repeats=args.repeats)
        print(table(name, points[name]), flush=True)
    draw(points, args.out)
    return points


def measure_axis(axis: Axis, *, repeats: int) -> list[Point]:
    """The cost at every size of an axis."""
    points = []
    for size in axis.sizes:
        contender, work = axis.work(size)
        with tempfile.TemporaryDirectory() as folder:
            run = measure({axis.name: contender}, work, Path(folder), repeats=repeats)[axis.name]
        steps = step_seconds(run)
        costs = [1e6 * seconds / work.batch for seconds in (median(steps), min(steps), max(steps))]
        points.append(Point(size, *costs))
    return points


def table(name: str, points: list[Point]) -> str:
    """The points as a Markdown table."""
    lines = [f"| {name} | microseconds an example (min - max) | times the first |", "| --- | --- | --- |"]
    for point in points:
        spread = f"{point.microseconds:,.0f} ({point.low:,.0f} - {point.high:,.0f})"
        lines.append(f"| {point.size:,} | {spread} | {point.microseconds / points[0].microseconds:.2f} |")
    return "\n".join([*lines, ""])


def draw(points: dict[str, list[Point]], out: Path) -> None:
    """A plot for each axis, both scales logarithmic, beside what linear growth would be, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(points), 3), layout="constrained")
    for axes, (name, line) in zip(figure.subplots(1, len(points), squeeze=False)[0], points.items()):
        sizes, costs = [point.size for point in line], [point.microseconds for point in line]
        below = [point.microseconds - point.low for point in line]
        above = [point.high - point.microseconds for point in line]
        axes.errorbar(sizes, costs, yerr=[below, above], marker="o", capsize=3, color="#2f6f4f")
        axes.plot(sizes, [costs[0] * size / sizes[0] for size in sizes], ":", color="#888888")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(sizes, [f"{size // 1000}k" if size >= 10_000 else f"{size:,}" for size in sizes])
        axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        for side in (axes.xaxis, axes.yaxis):
            side.set_minor_formatter("")
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel(name)
    figure.axes[0].set_ylabel("µs an example (dotted: linear)")
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
