"""The closing lines of a reader: what was written, how it was split, what was kept aside."""

from __future__ import annotations

import datetime
from pathlib import Path

import pyarrow.parquet as pq

from pipelines.prepared import Prepared, open_prepared
from pipelines.time_bounds import DAY


def print_summary(out: str | Path) -> None:
    """Open the dataset just written, which checks it, and describe it in a few lines."""
    data = open_prepared(out)
    counts, split = data.manifest["counts"], dict(data.manifest["split"])
    sizes = [f"{counts[name]:,} {name}" for name in ("items", "users", "events", "images") if counts[name]]
    rule = ", ".join(f"{name} {value}" for name, value in split.items() if name != "kind")
    print(f"{data.path}: {', '.join(sizes)}")
    print(f"split: {split.get('kind', 'none')} ({rule})" if rule else f"split: {split.get('kind', 'none')}")
    if counts["events"]:
        parts = ", ".join(f"{number:,} {name}" for name, number in counts["events_by_split"].items())
        print(f"events: {parts}{log_days(data)}")
    for reason, number in data.manifest["rejected"].items():
        print(f"kept aside: {number:,} x {reason} (rejected.parquet)")


def log_days(data: Prepared) -> str:
    """` (first day to last day)` of the events, "" where their times are no dates but places in a sequence."""
    file = pq.read_metadata(data.path / "events.parquet")
    column = file.schema.to_arrow_schema().names.index("time")
    groups = [file.row_group(group).column(column).statistics for group in range(file.num_row_groups)]
    if not groups or any(group is None or not group.has_min_max for group in groups):
        return ""
    first, last = min(group.min for group in groups), max(group.max for group in groups)
    if last < DAY:
        return ""
    days = (datetime.date(1970, 1, 1) + datetime.timedelta(days=second // DAY) for second in (first, last))
    return f" ({' to '.join(map(str, days))})"
