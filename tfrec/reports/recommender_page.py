"""`RUN/report.html` of a recommender: how good a run is, and on whom.

It reads what training and evaluation left in the run's folder: `metrics.json` (needed), `history.csv`
(training curves) and `examples.json` (customers); a section without its file is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from tfrec.evaluation.bootstrap import Interval
from tfrec.examples import EXAMPLES_FILE
from tfrec.reports import charts
from tfrec.reports.customers import customers_section
from tfrec.reports.metric_tables import baseline_name, figure, methods, metric_table, readable, recorded
from tfrec.reports.page import PAGE_FILE, PICTURES, Picture, Section, Table, write_page
from tfrec.reports.training_curves import training_curves

if TYPE_CHECKING:
    from pipelines.prepared import Prepared

HEADLINE = ("recall@20", "recall@12", "recall@10", "mrr")  # the first of these that was measured leads
MAIN_METRICS = (
    *("recall@12", "recall@20", "precision@5", "hit_rate@10"),
    *("ndcg@10", "map@12", "mrr", "coverage@20", "diversity@20"),
    *("rating_rmse", "rating_mae"),
)
REACHABLE = "Best reachable"
REACHABLE_COLOUR = "#c9a227"
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


def write_recommender_page(
    run_dir: str | Path, prepared: Prepared, *, title: str | None = None, max_customers: int = 12
) -> Path:
    """Write `report.html` into the run's folder.

    Args:
        run_dir: folder with `metrics.json`, and perhaps `history.csv` and `examples.json`.
        prepared: the dataset of the run, for photos, titles and attributes.
        title: the page's title; the folder's name by default.
        max_customers: customers shown at most.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: the run has no metrics.json.
    """
    run_dir = Path(run_dir)
    path, pictures, examples_path = run_dir / "metrics.json", run_dir / PICTURES, run_dir / EXAMPLES_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; evaluate first: python -m tfrec.evaluate --run {run_dir}")
    results = json.loads(path.read_text(encoding="utf-8"))
    examples = json.loads(examples_path.read_text(encoding="utf-8")) if examples_path.is_file() else []
    pictures.mkdir(exist_ok=True)
    metrics, oracle = results["metrics"], results.get("oracle") or {}
    lead = next((name for name in HEADLINE if name in metrics), next(iter(metrics)))
    sections = [
        _against_rules(lead, methods(results), oracle, pictures),
        *_reachable(metrics, oracle),
        _metrics(methods(results)),
        *_cohorts(lead, results.get("cohorts") or {}, pictures),
        *training_curves(run_dir, pictures),
        Section("Protocol", protocol_words(results["protocol"]), tables=[recorded(results["protocol"])]),
        *customers_section(prepared, examples[:max_customers]),
    ]
    said = headline(lead, metrics, results.get("baselines") or {})
    return write_page(run_dir / PAGE_FILE, title or run_dir.resolve().name, sections, subtitle=said)


def headline(lead: str, metrics: dict[str, Interval], baselines: dict[str, dict[str, Interval]]) -> str:
    """The page's first sentence: the leading metric against the best rule."""
    value = metrics[lead]["value"]
    said = f"{readable(lead)} is {value:.4f}"
    rules = {name: entry[lead]["value"] for name, entry in baselines.items() if lead in entry}
    if not rules:
        return f"{said}."
    best = max(rules, key=lambda name: rules[name])
    rule = f"{baseline_name(best)} ({rules[best]:.4f})"
    if rules[best] <= 0:
        return f"{said}; every simple rule is at 0."
    if value < rules[best]:
        return f"{said}, below the best simple rule, {rule}."
    return f"{said}, {value / rules[best]:.2f} times the best simple rule, {rule}."


def _against_rules(
    lead: str, columns: dict[str, dict[str, Interval]], oracle: dict[str, Interval], out: Path
) -> Section:
    """The leading metric of the model, the rules, and the best reachable one, on one scale."""
    rows = {name: entry[lead] for name, entry in (columns | {REACHABLE: oracle}).items() if lead in entry}
    own = {"Model": charts.BLUE, REACHABLE: REACHABLE_COLOUR}
    picture = _bars(rows, readable(lead), out / "against_rules", [own.get(name, charts.GREY) for name in rows])
    text = "All were measured on the same customers, with the same candidates. The thin line on a bar is the 95 % interval."
    return Section("Against simple rules", [text], pictures=[picture])


def _bars(rows: Mapping[str, Interval], title: str, file: Path, colours: list[str] | str = charts.BLUE) -> Picture:
    values = [entry["value"] for entry in rows.values()]
    intervals = [(entry.get("low", value), entry.get("high", value)) for entry, value in zip(rows.values(), values)]
    charts.ranking(list(rows), values, title, file, intervals=intervals, colours=colours)
    return Picture(file.with_suffix(".png"), alt="; ".join(f"{name} {figure(entry)}" for name, entry in rows.items()))


def _reachable(metrics: dict[str, Interval], oracle: dict[str, Interval]) -> list[Section]:
    """How near the model comes to the best reachable value of the metrics that count hits."""
    rows = {}
    for name in MAIN_METRICS:
        best = oracle[name]["value"] if name in oracle and name in metrics else 0.0
        if best > 0 and not name.startswith(("coverage", "diversity")):
            value = metrics[name]["value"]
            rows[readable(name)] = {"Model": value, REACHABLE: best, "Reached": f"{100 * value / best:.0f} %"}
    text = (
        "These data were generated, so the probabilities behind every purchase are known. A ranking by them is the best "
        "that any model could do."
    )
    frame = pd.DataFrame.from_dict(rows, "index").rename_axis("Metric")
    return [Section(REACHABLE, [text], tables=[Table(frame)])] if rows else []


def _metrics(columns: dict[str, dict[str, Interval]]) -> Section:
    """The main metrics beside the rules', and folded all of them, and what they mean."""
    names = list(columns["Model"])
    main = [name for name in MAIN_METRICS if name in names] or names
    kinds = {name.split("@")[0] for name in names}
    words = {readable(kind): text for kind, text in METRIC_WORDS.items() if kind in kinds}
    tables = [metric_table(columns, main)]
    if len(names) > len(main):
        tables.append(metric_table(columns, names, fold=f"All {len(names)} metrics"))
    if words:
        tables.append(Table(pd.DataFrame({"": words}), fold="What the metrics mean"))
    return Section("Metrics", tables=tables)


def _cohorts(lead: str, cohorts: dict[str, Any], out: Path) -> list[Section]:
    """Each cohort's counts and its leading metric."""
    known = {_cohort_name(name): row for name, row in cohorts.items() if isinstance(row, dict) and lead in row}
    if not known:
        return []
    text = (
        f"{readable(lead)} of the model, for customers by how much they bought before, and for items by whether the "
        "customer bought them before (repeat, new) and whether anybody bought them in the training period (warm, cold)."
    )
    rows = {
        name: {
            "Customers": row.get("users", ""),
            "Purchases": row.get("targets", ""),
            readable(lead): figure(row[lead]),
        }
        for name, row in known.items()
    }
    table = Table(pd.DataFrame.from_dict(rows, "index").rename_axis("Cohort"))
    picture = _bars({name: row[lead] for name, row in known.items()}, readable(lead), out / "cohorts")
    return [Section("Cohorts", [text], tables=[table], pictures=[picture])]


def _cohort_name(name: str) -> str:
    if name.startswith("history "):
        count = name.removeprefix("history ")
        return f"{count} purchase{'' if count == '1' else 's'} before"
    return name.capitalize()


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
    if get("history_min_rating"):
        sentences.append(f"The model reads ratings of {get('history_min_rating'):g} and more alone.")
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
