"""The tables of metrics.json that all systems' pages share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from tfrec.evaluation.bootstrap import Interval, shown
from tfrec.evaluation.names import sign_of
from tfrec.reports.page import Table

ACRONYMS = ("ndcg", "map", "mrr", "rmse", "mae", "knn", "ari", "nmi")
BASELINE_NAMES = {
    "item_cosine": "Item-item cosine",
    "tfidf": "TF-IDF of text",
    "rating_biases": "Biases of item and user",
    "linear": "Ridge regression from raw pixels",
    "pixels": "Raw pixels",
    "untrained": "Encoder before training",
}


def methods(content: dict[str, Any]) -> dict[str, dict[str, Interval]]:
    """The model and the baselines of metrics.json by their printed names."""
    baselines = content.get("baselines") or {}
    return {"Model": content["metrics"]} | {baseline_name(name): entry for name, entry in baselines.items()}


def metric_table(columns: dict[str, dict[str, Interval]], names: Sequence[str], *, fold: str = "") -> Table:
    """A row a metric, a column a method, the best value bold.

    Args:
        columns: see `methods`.
        names: metrics, in order.
        fold: see `Table`.
    """
    titles = [readable(name) for name in names]
    text = {
        method: [figure(entry[name]) if name in entry else "–" for name in names] for method, entry in columns.items()
    }
    signed = pd.DataFrame(
        {
            method: [sign_of(name) * entry[name]["value"] if name in entry else None for name in names]
            for method, entry in columns.items()
        },
        dtype=float,
    )
    best = signed.eq(signed.max(axis=1), axis=0) & (signed != 0)
    return Table(pd.DataFrame(text, index=pd.Index(titles, name="Metric")), best, fold)


def recorded(protocol: dict[str, Any]) -> Table:
    """The protocol as metrics.json holds it, folded."""
    entries = {key.replace("_", " "): str(value) for key, value in protocol.items() if value is not None}
    return Table(pd.DataFrame({"value": entries}), fold="Protocol as recorded")


def figure(entry: Interval) -> str:
    """A value, with its interval where it has one."""
    exact = entry.get("low") is None or entry.get("high") is None or entry["low"] == entry["high"]
    return f"{entry['value']:.4f}" if exact else shown(entry)


def readable(name: str) -> str:
    """A metric's name as printed: `hit_rate@10` -> `Hit rate@10`, `ndcg@10` -> `NDCG@10`."""
    kind, at, k = name.partition("@")
    text = " ".join(word.upper() if word in ACRONYMS else word for word in kind.split("_"))
    return text[:1].upper() + text[1:] + at + k


def baseline_name(name: str) -> str:
    """A baseline's name as printed."""
    return BASELINE_NAMES.get(name, name.replace("_", " ").capitalize())
