"""The page of a metric-learning run: figures beside the baselines, and training curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from tfrec.analysis.report import Section, training_curves, write_report
from tfrec.evaluation.bootstrap import shown

NAMES = {"pixels": "raw pixels", "untrained": "encoder before training"}


def write_metric_report(run_dir: Path, content: dict[str, Any]) -> None:
    """Write `report.html` into a run.

    Args:
        run_dir: the run.
        content: of its metrics.json.
    """
    protocol, metrics = content["protocol"], content["metrics"]
    summaries = {"trained": metrics, **{NAMES[name]: found for name, found in content["baselines"].items()}}
    table = pd.DataFrame(
        {name: {metric: shown(entry) for metric, entry in found.items()} for name, found in summaries.items()}
    )
    table.index.name = f"{protocol['split']} items"
    seen = "seen in training" if protocol["classes_seen_in_training"] else "never seen in training"
    text = [
        f"{protocol['items']:,} {protocol['split']} items of {protocol['classes']} classes {seen}. k-NN accuracy asks "
        f"{protocol['voters']:,} {'other' if protocol['classes_seen_in_training'] else protocol['split']} items "
        f"({protocol['neighbors']} votes); recall and mAP@R search among the {protocol['split']} items; ARI, NMI and "
        f"purity judge {protocol['clusters']}. Cosine similarity; 95 % bootstrap intervals over items."
    ]
    sections = [
        Section("Result", text=text, points=comparison(content), tables=[table]),
        *training_curves(run_dir, run_dir / "pictures"),
    ]
    title = f"Metric learning: {run_dir.resolve().name}"
    write_report(run_dir / "report.html", title, sections, subtitle=f"{protocol['recipe']}, loss {protocol['loss']}")


def comparison(content: dict[str, Any]) -> list[str]:
    """The main metrics against the baselines, as sentences."""
    said = []
    for metric in ("knn_accuracy", "recall@1", "map@r", "ari"):
        if metric not in content["metrics"]:
            continue
        parts = [f"{NAMES[name]} {found[metric]['value']:.3f}" for name, found in content["baselines"].items()]
        said.append(f"{metric} {content['metrics'][metric]['value']:.3f}; {', '.join(parts)}.")
    return said
