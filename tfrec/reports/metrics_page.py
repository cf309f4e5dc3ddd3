"""`RUN/report.html` of systems that recommend nothing: figures beside their baselines, and the training curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfrec.reports.metric_tables import methods, metric_table, recorded
from tfrec.reports.page import PAGE_FILE, PICTURES, Section, write_page
from tfrec.reports.training_curves import training_curves


def write_metrics_page(run_dir: Path, content: dict[str, Any], *, title: str, words: list[str]) -> Path:
    """Write the page from a run's figures and its `history.csv`.

    Args:
        run_dir: the run.
        content: of its metrics.json.
        title: what was trained.
        words: what was done, in sentences.

    Returns:
        The page.
    """
    tables = [metric_table(methods(content), list(content["metrics"])), recorded(content["protocol"])]
    sections = [Section("Figures", words, tables=tables), *training_curves(run_dir, run_dir / PICTURES)]
    return write_page(
        run_dir / PAGE_FILE, f"{title}: {run_dir.resolve().name}", sections, subtitle=content["protocol"]["recipe"]
    )
