"""The main figures of metrics.json as a table for the terminal."""

from __future__ import annotations

from typing import Any

from tfrec.evaluation.bootstrap import shown

PREFERRED = (
    "recall@12",
    "recall@20",
    "ndcg@10",
    "map@12",
    "hit_rate@10",
    "mrr",
    "knn_accuracy",
    "recall@1",
    "map@r",
    "ari",
)
RATINGS = ("rating_rmse", "rating_mae")  # a table of their own: other rules are judged by them
COLUMNS = 4


def summary_table(content: dict[str, Any]) -> str:
    """The model beside the baselines, and beside the best reachable where that is known.

    Args:
        content: of metrics.json.

    Returns:
        Lines of text: a row a method; the model's row carries its 95 % intervals.
    """
    names = [name for name in PREFERRED if name in content["metrics"]] or list(content["metrics"])
    ratings = [name for name in RATINGS if name in content["metrics"]]
    lines = [_about(content["protocol"]), *_table(content, [n for n in names if n not in ratings][:COLUMNS])]
    return "\n".join(line.rstrip() for line in lines + (_table(content, ratings) if ratings else []))


def _table(content: dict[str, Any], names: list[str]) -> list[str]:
    """The metrics `names`: a line a method that has any of them, under one of their names."""
    rows = {"model": [shown(content["metrics"][name]) for name in names]}
    others = {"best reachable": content["oracle"]} if content.get("oracle") else {}
    for name, summary in (others | content.get("baselines", {})).items():
        if any(metric in summary for metric in names):
            rows[name.replace("_", " ")] = [f"{summary[m]['value']:.4f}" if m in summary else "" for m in names]
    first = max(len(name) for name in rows)
    width = max(len(cell) for cells in rows.values() for cell in cells)
    head = " " * first + "".join(f"  {name:{width}}" for name in names)
    return [head, *(f"{name:{first}}" + "".join(f"  {cell:{width}}" for cell in cells) for name, cells in rows.items())]


def _about(protocol: dict[str, Any]) -> str:
    """What was evaluated, in one line."""
    if "classes" in protocol:  # photos by their labels
        return f"{protocol['split']} split, {protocol['items']:,} items of {protocol['classes']} classes"
    if "users" not in protocol:
        return f"{protocol.get('split', 'held-out')} split, {protocol.get('items', 0):,} items"
    seen = "seen items left out" if protocol["seen_filter"] else "seen items stay candidates"
    return f"{protocol['split']} split, {protocol['users']:,} customers, {protocol['candidates']:,} candidates, {seen}"
