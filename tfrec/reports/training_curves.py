"""The training curves of a run, as its pages show them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from tfrec.reports import charts
from tfrec.reports.metric_tables import readable
from tfrec.reports.page import Picture, Section

Series = dict[str, tuple[list[float], list[float]]]  # name -> x, y
COUNTERS = ("step", "epoch")


def training_curves(run: Path, out: Path) -> list[Section]:
    """The section of the curves of `history.csv`, drawn into the folder `out`; none where the run kept no history."""
    counter, panels = read_curves(run)
    if not panels:
        return []
    ends = {
        title: {f"{name}, last {y[-1]:.4g}": (x, y) for name, (x, y) in series.items()}
        for title, series in panels.items()
    }
    out.mkdir(exist_ok=True)
    file = charts.lines(ends, (counter, ""), out / "training_curves")
    return [Section("Training curves", pictures=[Picture(file, alt=" ".join(map(_words, panels, panels.values())))])]


def read_curves(run: Path) -> tuple[str, dict[str, Series]]:
    """What a run's `history.csv` tells: a `step` or `epoch` column, and a column a quantity, cells empty where nothing was
    logged.

    Returns:
        What is counted, and quantity -> its `training` and `validation` series, the loss first; none without the file.
    """
    path = run / "history.csv"
    history = pd.read_csv(path) if path.is_file() else pd.DataFrame()
    counter = next((name for name in COUNTERS if name in history), "row")
    counted = history.get(counter, history.index.to_series())
    panels: dict[str, Series] = {}
    for name, column in history.select_dtypes("number").items():
        values = column.dropna()
        if name not in COUNTERS and len(values):
            kind = "validation" if str(name).startswith("val_") else "training"
            series = counted[values.index].tolist(), values.tolist()
            panels.setdefault(readable(str(name).removeprefix("val_")), {})[kind] = series
    order = sorted(panels, key=lambda title: (title != "Loss", "validation" not in panels[title], title))
    return counter, {title: panels[title] for title in order}


def _words(title: str, series: Series) -> str:
    ends = (f"{name} goes from {y[0]:.4g} to {y[-1]:.4g}" for name, (_, y) in series.items())
    return f"{title}: {'; '.join(ends)}."
