"""Charts for papers and pages: every figure is written as PNG and as SVG."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tfrec.reports.fonts import font_files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

OTHER = "other"
MAX_COLOURS = 20
GREY = "#c8ccd2"
BLUE = "#3a78b5"
MOST_MARKED = 30  # points of a line that are marked each
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.dpi": 110,
    "savefig.bbox": "tight",
    "svg.fonttype": "none",
    "text.parse_math": False,  # of labels with two dollars it would take what is between for a formula
    "svg.hashsalt": "tfrec",  # equal inputs give equal files
}


def palette(labels: Sequence[str]) -> dict[str, str]:
    """A colour for each of the 20 commonest labels, and grey for `other`."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    commonest = [name for name, _ in Counter(name for name in labels if name != "").most_common(MAX_COLOURS)]
    map_name = "tab10" if len(commonest) <= 10 else "tab20"
    return {**{name: to_hex(colormaps[map_name](n)) for n, name in enumerate(commonest)}, OTHER: GREY}


def scatter(
    panels: Sequence[tuple[str, np.ndarray, Sequence[str] | None]], colours: Mapping[str, str], file: Path
) -> Path:
    """Draw projections side by side, coloured by label.

    Args:
        panels: `(title, points [n, 2], labels [n] or None)`.
        colours: label -> colour, with `other`.
        file: path without suffix.

    Returns:
        The PNG.
    """
    figure, axes = _figure(len(panels), (4.4, 4.2))
    used: dict[str, str] = {}
    for axis, (title, points, labels) in zip(axes, panels):
        names = np.array([name if name in colours else OTHER for name in labels or [""] * len(points)], dtype=str)
        for name in [OTHER, *(key for key in colours if key != OTHER)]:
            chosen = names == name
            if chosen.any():
                used[name] = colours[name]
                axis.scatter(
                    points[chosen, 0],
                    points[chosen, 1],
                    s=5,
                    color=colours[name],
                    alpha=0.75,
                    linewidths=0,
                    rasterized=True,
                )
        axis.set_title(title)
        axis.set_xticks([])
        axis.set_yticks([])
    if set(used) != {OTHER}:
        handles = [_dot(colour) for colour in used.values()]
        figure.legend(handles, list(used), loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    return _save(figure, file)


def confusion(true: Sequence[str], predicted: Sequence[str], file: Path, *, most: int = 25) -> Path:
    """Draw a confusion matrix, rows normalised, of the commonest true labels.

    Args:
        true: `[N]`.
        predicted: `[N]`.
        file: path without suffix.
        most: labels shown.

    Returns:
        The PNG.
    """
    names = [name for name, _ in Counter(true).most_common(most)]
    counts = pd.crosstab(pd.Series(list(true), name="true"), pd.Series(list(predicted), name="predicted"))
    shares = counts.div(counts.sum(axis=1), axis=0).reindex(index=names, columns=names, fill_value=0.0)
    return heat_map(shares, "Predicted by nearest neighbours (columns), share of the true label (rows)", file)


def heat_map(table: pd.DataFrame, title: str, file: Path, *, digits: int = 2) -> Path:
    """Draw a table of numbers as a heat map with its values; returns the PNG."""
    size = (max(4.0, 0.42 * table.shape[1] + 2.2), max(2.4, 0.34 * table.shape[0] + 1.4))
    figure, (axis,) = _figure(1, size)
    values = table.to_numpy(np.float64)
    axis.imshow(np.ma.masked_invalid(values), cmap="YlGnBu", aspect="auto")
    axis.set_xticks(range(table.shape[1]), [str(name) for name in table.columns], rotation=45, ha="right")
    axis.set_yticks(range(table.shape[0]), [str(name) for name in table.index])
    low, high = (np.nanmin(values), np.nanmax(values)) if np.isfinite(values).any() else (0.0, 1.0)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value) and round(abs(value), digits) > 0:
            ink = "white" if value > low + 0.6 * (high - low) else "#20242a"
            axis.text(column, row, f"{value:.{digits}f}", ha="center", va="center", color=ink, fontsize=7)
    axis.set_title(title)
    axis.spines[:].set_visible(False)
    return _save(figure, file)


def ranking(
    names: Sequence[str],
    values: Sequence[float],
    title: str,
    file: Path,
    *,
    intervals: Sequence[tuple[float, float]] | None = None,
    colours: Sequence[str] | str = BLUE,
) -> Path:
    """Draw horizontal bars, the first name on top, with the ends of their intervals; returns the PNG."""
    figure, (axis,) = _figure(1, (6.2, max(1.6, 0.26 * len(names) + 0.8)))
    places = np.arange(len(names))[::-1]
    ends = np.array([(value, value) for value in values] if intervals is None else intervals)
    errors = np.abs(ends - np.asarray(values)[:, None]).T
    axis.barh(places, values, color=colours, xerr=errors, error_kw={"lw": 0.8, "ecolor": "#444"})
    axis.set_yticks(places, [str(name) for name in names])
    for place, value, end in zip(places, values, ends[:, 1]):
        axis.text(end, place, f" {value:.4f}", va="center", fontsize=7)
    axis.set_xlim(min(0.0, *ends[:, 0]), 1.15 * max(1e-9, *ends[:, 1]))
    axis.set_title(title)
    return _save(figure, file)


def lines(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]], labels: tuple[str, str], file: Path
) -> Path:
    """Draw charts of named lines side by side; returns the PNG.

    Args:
        panels: title -> name -> `(x, y)`.
        labels: of the axes.
        file: path without suffix.
    """
    figure, axes = _figure(len(panels), (5.4, 3.2) if len(panels) == 1 else (3.4, 2.5), columns=3)
    for axis, (title, series) in zip(axes, panels.items()):
        for name, (x, y) in series.items():
            axis.plot(x, y, marker="o" if len(x) <= MOST_MARKED else "", ms=3, lw=1.2, label=name)
        axis.set_xlabel(labels[0])
        axis.set_ylabel(labels[1])
        axis.set_title(title)
        axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return _save(figure, file)


def _figure(panels: int, size: tuple[float, float], columns: int = 4) -> tuple[Figure, list[Axes]]:
    """A figure with `panels` axes, without pyplot's global state."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    mpl.rcParams.update({**STYLE, "font.family": list(font_files())})
    columns = min(columns, panels)
    rows = -(-panels // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows))
    FigureCanvasAgg(figure)
    axes = list(np.atleast_1d(figure.subplots(rows, columns)).ravel())
    for axis in axes[panels:]:
        axis.set_visible(False)
    return figure, axes[:panels]


def _dot(colour: str) -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D([], [], marker="o", ls="", ms=5, color=colour)


def _save(figure: Figure, file: Path) -> Path:
    """Write both formats without dates, so that equal inputs give equal files."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the page says so, once
        figure.savefig(file.with_suffix(".svg"), metadata={"Date": None})
        figure.savefig(file.with_suffix(".png"), metadata={"Software": None})
    return file.with_suffix(".png")
