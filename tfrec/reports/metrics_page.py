"""`RUN/report.html` of systems that recommend nothing: figures beside their baselines, and the learning curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfrec.evaluation.bootstrap import Interval, shown

SKIPPED = ("learning_rate", "step")


def write_page(run_dir: Path, content: dict[str, Any], *, title: str, words: list[str]) -> Path:
    """Write the page from a run's figures and its `history.csv`.

    Args:
        run_dir: the run.
        content: of its metrics.json.
        title: the page's heading.
        words: what was done, in sentences.

    Returns:
        The page.
    """
    import pandas as pd

    from tfrec.analysis import charts
    from tfrec.analysis.inputs import read_history
    from tfrec.analysis.report import Picture, Section, write_report

    columns = {"model": content["metrics"], **content["baselines"]}
    table = {name: {metric: figure(entry) for metric, entry in values.items()} for name, values in columns.items()}
    frame = pd.DataFrame(table).reindex(list(content["metrics"])).fillna("")
    sections = [Section("Figures", words, tables=[frame])]
    pictures, history = [], read_history(run_dir)
    if history is not None:
        for name in history.columns:
            values = history[["step", name]].dropna()
            if name not in SKIPPED and len(values) > 1:
                series = {name: (values["step"].tolist(), values[name].tolist())}
                file = run_dir / "curves" / name.replace("@", "_at_")
                file.parent.mkdir(exist_ok=True)
                pictures.append(Picture(charts.lines(series, ("step", name), name, file)))
    if pictures:
        sections.append(Section("Learning curves", pictures=pictures))
    page = run_dir / "report.html"
    write_report(page, title, sections, subtitle=run_dir.resolve().name)
    return page


def figure(entry: Interval) -> str:
    """A value, with its interval where it has one."""
    return f"{entry['value']:.4f}" if entry["low"] == entry["high"] else shown(entry)
