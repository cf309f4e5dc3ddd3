"""`RUN/report.html`: one self-contained page that shows how good a run is, and on whom.

It reads what training and evaluation left in the run's folder: `metrics.json` (needed), `history.csv`
(learning curves) and `examples.json` (customers); a section without its file is left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipelines.publish import write_whole
from tfrec.examples import EXAMPLES_FILE
from tfrec.metric_learning.names import sign_of
from tfrec.reports import charts
from tfrec.reports.customers import customers_page

if TYPE_CHECKING:
    from pipelines.prepared import Prepared

TEMPLATES = Path(__file__).parents[1] / "templates"
HEADLINE = ("recall@20", "recall@12", "recall@10", "mrr")  # the first of these that was measured leads
MAIN_METRICS = (
    *("recall@12", "recall@20", "precision@5", "hit_rate@10"),
    *("ndcg@10", "map@12", "mrr", "coverage@20", "diversity@20"),
    *("rating_rmse", "rating_mae"),
)
KEY_FIGURES = ("recall@12", "recall@20", "ndcg@10", "map@12", "coverage@20")
BASELINE_NAMES = {
    "popularity": "Popularity",
    "repurchase": "Repurchase",
    "item_cosine": "Item-item cosine",
    "tfidf": "TF-IDF of text",
    "mean_rating": "Mean rating",
    "rating_biases": "Biases of item and user",
}
METRIC_WORDS = {
    "recall": "share of a customer's next purchases found among the first k",
    "precision": "share of the first k that the customer went on to buy",
    "hit_rate": "share of customers with at least one next purchase among the first k",
    "ndcg": "recall that counts early places more, 1 for the best possible order",
    "map": "mean average precision, as Kaggle computes MAP@12",
    "mrr": "mean of 1 / place of the first hit",
    "rating_rmse": "root of the mean squared error of the predicted ratings",
    "rating_mae": "mean absolute error of the predicted ratings",
    "coverage": "share of the catalogue recommended to anybody",
    "diversity": "mean of 1 - cosine between the items of one list",
}
MAX_POINTS = 400  # of a learning curve


def write_report(run_dir: str | Path, prepared: Prepared, *, title: str | None = None, max_customers: int = 12) -> Path:
    """Write `report.html` into the run's folder.

    Args:
        run_dir: folder with `metrics.json`, and perhaps `history.csv` and `examples.json`.
        prepared: the dataset of the run, for photos, titles and attributes.
        title: the page's title; the folder's name by default.
        max_customers: customers shown at most.

    Returns:
        The path of the report.

    Raises:
        FileNotFoundError: the run has no metrics.json.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    run_dir = Path(run_dir)
    path = run_dir / "metrics.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; evaluate first: python -m tfrec.evaluate --run {run_dir}")
    results = json.loads(path.read_text(encoding="utf-8"))
    examples_path = run_dir / EXAMPLES_FILE
    examples = json.loads(examples_path.read_text(encoding="utf-8")) if examples_path.is_file() else []
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("report.html").render(
        title=title or run_dir.resolve().name,
        **metrics_view(results),
        curves=learning_curves(run_dir / "history.csv"),
        protocol=protocol_words(results["protocol"]),
        protocol_entries=[(key, value) for key, value in results["protocol"].items() if value is not None],
        customers=customers_page(prepared, examples[:max_customers]),
    )
    report = run_dir / "report.html"
    write_whole(report, html, shared=True)
    return report


def metrics_view(results: dict[str, Any]) -> dict[str, Any]:
    """What the template needs of metrics.json: headline, figures, bars, tables, cohorts, best reachable."""
    metrics, baselines = results["metrics"], results.get("baselines") or {}
    oracle = {name: _value(entry) for name, entry in (results.get("oracle") or {}).items() if name in metrics}
    lead = next((name for name in HEADLINE if name in metrics), next(iter(metrics)))
    columns = {"Model": metrics} | {_baseline_name(name): entry for name, entry in baselines.items()}
    main = [name for name in MAIN_METRICS if name in metrics] or list(metrics)
    return {
        "lead": readable(lead),
        "headline": headline(lead, metrics, baselines),
        "key_figures": [_figure(name, metrics[name]) for name in KEY_FIGURES if name in metrics],
        "bars": _bars(lead, columns, oracle),
        "reachable": _reachable(metrics, oracle),
        "columns": list(columns),
        "main_rows": [_table_row(name, columns) for name in main],
        "all_rows": [_table_row(name, columns) for name in metrics],
        "words": {name: text for name, text in METRIC_WORDS.items() if any(_kind(m) == name for m in metrics)},
        "cohorts": _cohorts(lead, results.get("cohorts") or {}),
    }


def headline(lead: str, metrics: dict[str, Any], baselines: dict[str, Any]) -> str:
    """The page's first sentence: the leading metric against the best rule."""
    value = _value(metrics[lead])
    said = f"{readable(lead)} is {charts.number(value)}"
    rules = {name: _value(entry[lead]) for name, entry in baselines.items() if lead in entry}
    if not rules:
        return f"{said}."
    best = max(rules, key=lambda name: rules[name])
    rule = f"{_baseline_name(best)} ({charts.number(rules[best])})"
    if rules[best] <= 0:
        return f"{said}; every simple rule is at 0."
    if value < rules[best]:
        return f"{said}, below the best simple rule, {rule}."
    return f"{said}, {value / rules[best]:.2f} times the best simple rule, {rule}."


def learning_curves(path: Path) -> list[charts.LineChart]:
    """Charts of every logged quantity: training and validation together, the loss first.

    Args:
        path: `history.csv` with a `step` (or `epoch`) column, a column a quantity, cells empty where nothing
            was logged.
    """
    if not path.is_file():
        return []
    frame = pd.read_csv(path)
    x_name = next((name for name in ("step", "epoch") if name in frame), None)
    if x_name is None or frame.empty:
        return []
    groups: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for name in frame.columns.drop([c for c in ("step", "epoch") if c in frame]):
        y = pd.to_numeric(frame[name], errors="coerce").to_numpy(np.float64)
        at = np.flatnonzero(np.isfinite(y))
        if len(at):
            at = at[np.unique(np.linspace(0, len(at) - 1, min(len(at), MAX_POINTS)).astype(int))]
            line = "validation" if name.startswith("val_") else "training"
            x = frame[x_name].to_numpy(np.float64)
            groups.setdefault(name.removeprefix("val_"), {})[line] = x[at], y[at]
    order = sorted(groups, key=lambda name: (name != "loss", "val" not in str(list(groups[name])), name))
    return [charts.line_chart(readable(name), x_name, groups[name]) for name in order]


def protocol_words(protocol: dict[str, Any]) -> list[str]:
    """The protocol as sentences a stranger understands."""
    get = protocol.get
    days = f"the {get('test_days')} days from {get('cutoff')}" if get("split") == "test" else "the validation days"
    if get("split_kind") == "temporal":
        first = f"What customers bought in {days} is predicted from everything they bought before."
    elif str(get("split_kind")).startswith("random"):
        first = "Interactions drawn at random are held out and predicted from all others."
    elif get("split_kind") == "time-ratio":
        first = "The latest interactions of all are held out and predicted from those before them."
    else:
        what = "interaction" if get("held_out") == "last interaction" else "new item"
        last = "last but one" if get("split") == "val" else "last"
        first = f"Each customer's {last} {what} is held out and predicted from the purchases before it."
    sentences = [f"Split “{get('split', '?')}” of the dataset “{get('dataset', '?')}”. {first}"]
    if get("users") is not None and get("candidates") is not None:
        sentences.append(
            f"{get('users'):,} customers with earlier purchases are evaluated; every one of the "
            f"{get('candidates'):,} items is ranked for each of them, exactly."
        )
    if get("cold_users"):
        sentences.append(f"{get('cold_users'):,} customers without any purchase before are a cohort apart.")
    if get("max_users") and get("eligible_users", 0) > get("max_users"):
        sentences.append(f"They are a random sample of {get('eligible_users'):,} (seed {get('seed')}).")
    if get("min_rating"):
        sentences.append(f"Only ratings of {get('min_rating'):g} and more count as purchases.")
    if get("seen_filter") is not None:
        seen = "are never recommended again" if get("seen_filter") else "may be recommended again"
        sentences.append(f"Items a customer has bought before {seen}.")
    if get("missed_repeat_targets"):
        sentences.append(f"{get('missed_repeat_targets'):,} held-out items are such, and count as misses.")
    if get("dropped_repeat_targets"):
        sentences.append(
            f"{get('dropped_repeat_targets'):,} held-out items were such and are no targets; "
            f"{get('dropped_users'):,} customers had no other and are left out."
        )
    sentences.append("Intervals are 95 % confidence intervals over customers.")
    return sentences


def readable(name: str) -> str:
    """A metric's name as printed: `hit_rate@10` -> `Hit rate@10`, `ndcg@10` -> `NDCG@10`."""
    kind = _kind(name)
    shown = kind.upper() if kind in ("ndcg", "map", "mrr") else kind.replace("_", " ").capitalize()
    shown = shown.replace("rmse", "RMSE").replace("mae", "MAE")
    return name.replace(kind, shown, 1)


def _kind(name: str) -> str:
    return name.split("@")[0]


def _value(entry: dict[str, float] | float) -> float:
    return float(entry["value"] if isinstance(entry, dict) else entry)


def _baseline_name(name: str) -> str:
    return BASELINE_NAMES.get(name, name.replace("_", " ").capitalize())


def _interval(entry: dict[str, Any]) -> str:
    if entry.get("low") is None or entry.get("high") is None:
        return ""
    return f"{charts.score(entry['low'])}–{charts.score(entry['high'])}"


def _figure(name: str, entry: dict[str, Any]) -> dict[str, str]:
    return {"name": readable(name), "value": charts.number(_value(entry)), "interval": _interval(entry)}


def _bars(lead: str, columns: dict[str, Any], oracle: dict[str, float]) -> list[charts.Bar]:
    """The leading metric of the model, the rules, and the best reachable one, on one scale."""
    rows = [
        (
            name,
            _value(entry[lead]),
            entry[lead].get("low"),
            entry[lead].get("high"),
            "rule" if row else "model",
        )
        for row, (name, entry) in enumerate(columns.items())
        if lead in entry
    ]
    if lead in oracle:
        rows.append(("Best reachable", oracle[lead], None, None, "oracle"))
    return charts.bars(rows)


def _reachable(metrics: dict[str, Any], oracle: dict[str, float]) -> list[dict[str, str]]:
    """How near the model comes to the best reachable value of the metrics that count hits."""
    rows = []
    for name in MAIN_METRICS:
        best = oracle.get(name, 0.0)
        if best > 0 and _kind(name) not in ("coverage", "diversity"):
            value = _value(metrics[name])
            shown = {"name": readable(name), "best": charts.score(best), "model": charts.score(value)}
            rows.append(shown | {"share": f"{100 * value / best:.0f} %"})
    return rows


def _table_row(name: str, columns: dict[str, Any]) -> dict[str, Any]:
    """A metric's row: a cell for each model or rule, the best value marked."""
    measured = [_value(entry[name]) for entry in columns.values() if name in entry]
    best = max(measured, key=lambda value: sign_of(name) * value)
    cells = [
        _cell(entry[name], best) if name in entry else {"value": "–", "interval": "", "best": False}
        for entry in columns.values()
    ]
    return {"name": readable(name), "cells": cells}


def _cell(entry: dict[str, float], best: float) -> dict[str, Any]:
    value = _value(entry)
    return {"value": charts.score(value), "interval": _interval(entry), "best": value == best > 0}


def _cohorts(lead: str, cohorts: dict[str, Any]) -> list[dict[str, Any]]:
    """Each cohort's counts and its leading metric as a bar."""
    known = {name: entry for name, entry in cohorts.items() if isinstance(entry, dict) and lead in entry}
    rows = [
        (name, _value(entry[lead]), entry[lead].get("low"), entry[lead].get("high"), "model")
        for name, entry in known.items()
    ]
    return [
        {
            "name": _cohort_name(name),
            "users": f"{entry['users']:,}" if "users" in entry else "",
            "targets": f"{entry['targets']:,}" if "targets" in entry else "",
            "bar": bar,
        }
        for (name, entry), bar in zip(known.items(), charts.bars(rows))
    ]


def _cohort_name(name: str) -> str:
    if name.startswith("history "):
        count = name.removeprefix("history ")
        return f"{count} purchase{'' if count == '1' else 's'} before"
    return name.capitalize()
