"""A chart of by how much each step leads its baselines, from the files that the benchmarks wrote with --json.

    python -m benchmarks.fit --json benchmarks/figures/fit.json
    python -m benchmarks.chart --out benchmarks/speed.png

A bar is the time of the other contender over that of `tfrec` in the same run, on a logarithmic axis; the tick in it is the
ratio that was aimed at. What compares `tfrec` with itself is left out.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks.measure import Ratio

FIGURES = Path(__file__).parent / "figures"
REACHED, MISSED, TICK = "#2f6f4f", "#b5803a", "#1b1b1b"


def main(arguments: list[str] | None = None) -> int:
    """Draw the chart; 0 on success, 2 where a file holds no ratios."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chart", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "files", type=Path, nargs="*", help="written with --json (default: those in benchmarks/figures)"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/speed.png"), help="default: %(default)s")
    args = parser.parse_args(arguments)
    files = args.files or sorted(FIGURES.glob("*.json"))
    try:
        ratios = [ratio for file in files for ratio in read_ratios(file) if not ratio.check]
        if not ratios:
            raise ValueError(f"{FIGURES} holds no ratios of a benchmark; write some with --json")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    draw(ratios, args.out)
    return 0


def read_ratios(file: Path) -> list[Ratio]:
    """The ratios in a file.

    Raises:
        ValueError: it holds none.
    """
    try:
        return [Ratio(**row) for row in json.loads(file.read_text(encoding="utf-8"))["ratios"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} holds no ratios of a benchmark ({error!r}); write it with --json") from None


def draw(ratios: list[Ratio], out: Path) -> None:
    """Draw a bar for each ratio, the first one on top, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.9 + 0.36 * len(ratios)), layout="constrained")
    axes = figure.subplots()
    for place, ratio in enumerate(ratios):
        missed = ratio.wanted is not None and ratio.ratio < ratio.wanted
        axes.barh(place, ratio.ratio - 1, left=1, color=MISSED if missed else REACHED, height=0.66)
        axes.annotate(
            f"{ratio.ratio:.2f}x",
            (max(ratio.ratio, ratio.wanted or 1, 1), place),
            (4, 0),
            textcoords="offset points",
            va="center",
        )
        if ratio.wanted is not None:
            axes.vlines(ratio.wanted, place - 0.4, place + 0.4, color=TICK, linewidth=2)
    axes.set_yticks(range(len(ratios)), [f"{ratio.work} / {ratio.against}" for ratio in ratios])
    axes.set_ylim(len(ratios) - 0.4, -0.6)
    axes.set_xscale("log", base=2)
    low, high = min(1.0, *(r.ratio for r in ratios)), max(r.wanted or 1 for r in ratios)
    axes.set_xlim(0.9 * low, 1.6 * max(high, *(r.ratio for r in ratios)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.axvline(1, color=TICK, linewidth=0.8)
    axes.set_xlabel("time of the other over that of tfrec; dark tick: aimed at")
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
