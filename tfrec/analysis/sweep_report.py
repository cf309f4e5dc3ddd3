"""The comparison of a sweep's runs as pictures, tables, computed findings and one page."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pandas as pd

from tfrec.analysis.statistics import (
    Runs,
    best_runs,
    correlations,
    findings,
    group_means,
    paired_tests,
    read_runs,
)
from tfrec.reports import charts
from tfrec.reports.page import PAGE_FILE, Picture, Section, Table, write_page
from tfrec.reports.training_curves import read_curves


def write_comparison(folder: Path, out: Path) -> None:
    """Write `report.html`, `analysis.json`, `results.csv` and every picture.

    Args:
        folder: the `--out` of a sweep.
        out: folder to write into.

    Raises:
        AnalysisError: the folder is no sweep's, or none of its runs succeeded.
    """
    runs = read_runs(folder)
    out.mkdir(parents=True, exist_ok=True)
    tests = {axis: paired_tests(runs, axis) for axis in runs.axes if runs.frame[axis].nunique() > 1}
    said = findings(runs, tests)
    best = best_runs(runs)
    sections = [
        Section("Findings", points=said),
        Section(
            "Best settings", ["Metrics are means over seeds."], tables=[Table(best)], pictures=[_ranking(runs, out)]
        ),
        _effects(runs, tests, out),
        Section("Two axes at a time", pictures=_heat_maps(runs, out)),
        Section("What goes with what", pictures=_correlations(runs, out)),
        *_curves(folder, best, runs, out),
        *_failures(runs),
    ]
    subtitle = f"{len(runs.frame)} runs over {', '.join(runs.axes)}; evaluated by {runs.main}"
    subtitle += " (smaller is better)" if runs.smaller_is_better else ""
    write_page(out / PAGE_FILE, f"Comparison of runs: {folder.resolve().name}", sections, subtitle=subtitle)
    runs.frame.to_csv(out / "results.csv")
    content = {
        "main": runs.main,
        "findings": said,
        "best": json.loads(best.to_json(orient="records")),
        "means": {axis: json.loads(group_means(runs, axis).to_json(orient="index")) for axis in runs.axes},
        "tests": {axis: json.loads(table.reset_index().to_json(orient="records")) for axis, table in tests.items()},
        "correlations": json.loads(correlations(runs).to_json(orient="index")),
        "failed": list(runs.failed.index),
    }
    text = json.dumps(content, indent=2, ensure_ascii=False)
    (out / "analysis.json").write_text(text + "\n", encoding="utf-8")


def _ranking(runs: Runs, out: Path, most: int = 30) -> Picture:
    """Every setting's deciding metric, with its spread over seeds."""
    grouped = runs.frame.groupby(runs.axes)[runs.main].agg(["mean", "std"])
    grouped = grouped.sort_values("mean", ascending=runs.smaller_is_better).head(most)
    names = [", ".join(map(str, key if isinstance(key, tuple) else (key,))) for key in grouped.index]
    means, spread = grouped["mean"], grouped["std"].fillna(0.0)
    intervals = list(zip(means - spread, means + spread))
    file = charts.ranking(names, means.tolist(), runs.main, out / "ranking", intervals=intervals)
    return Picture(file, "Mean over seeds; the bars' ends show one standard deviation.")


def _effects(runs: Runs, tests: dict[str, pd.DataFrame], out: Path) -> Section:
    """Means by axis, and the paired tests."""
    section = Section(
        "Effect of each axis",
        ["Pairs agree in all else; p is that of a sign-flip permutation test, Holm-corrected within the axis."],
    )
    for axis, table in tests.items():
        means = group_means(runs, axis)
        section.tables += [Table(means), Table(table)]
        names, values = [str(name) for name in means.index], means["mean"].tolist()
        file = charts.ranking(names, values, f"{runs.main} by {axis}", out / f"by_{_file_name(axis)}")
        section.pictures.append(Picture(file))
    return section


def _heat_maps(runs: Runs, out: Path) -> list[Picture]:
    pictures = []
    for rows, columns in itertools.combinations([a for a in runs.axes if runs.frame[a].nunique() > 1], 2):
        table = runs.frame.pivot_table(index=rows, columns=columns, values=runs.main, aggfunc="mean")
        file = out / f"heat_{_file_name(rows)}_{_file_name(columns)}"
        pictures.append(Picture(charts.heat_map(table, f"{runs.main}: {rows} x {columns}", file, digits=3)))
    return pictures


def _correlations(runs: Runs, out: Path) -> list[Picture]:
    table = correlations(runs)
    if table.shape[0] < 2 or len(runs.frame) < 3:
        return []
    return [Picture(charts.heat_map(table, "Spearman's rank correlation over runs", out / "correlations"))]


def _curves(folder: Path, best: pd.DataFrame, runs: Runs, out: Path, most: int = 6) -> list[Section]:
    """Training curves of the best settings' runs, where the runs kept a history."""
    series = {}
    for _, setting in best.head(most).iterrows():
        matches = (runs.frame[runs.axes] == setting[runs.axes]).all(axis=1)
        name = str(runs.frame.index[matches.to_numpy()][0])
        _, curves = read_curves(folder / "runs" / name)
        if "training" in curves.get("Loss", {}):
            series[", ".join(str(setting[axis]) for axis in runs.axes)] = curves["Loss"]["training"]
    if not series:
        return []
    file = charts.lines({"Training loss of the best settings": series}, ("step", "loss"), out / "curves")
    return [Section("Training curves", pictures=[Picture(file)])]


def _failures(runs: Runs) -> list[Section]:
    return [Section("Runs that failed", tables=[Table(runs.failed)])] if len(runs.failed) else []


def _file_name(axis: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in axis)
