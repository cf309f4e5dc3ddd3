"""The closing lines of a reader: what was written, how it was split, what was kept aside."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
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


def print_unmatched(
    ids: Sequence[str], rows: np.ndarray, known: Iterable[str], *, kind: str, here: str, table: str, without: str
) -> None:
    """Say how many ids of a log its table does not have; where they are most of them, warn, with one of either side.

    Args:
        ids: those that the table does not have.
        rows: the row number of each line of the log, int `[E]`, whether the table has it or not.
        known: those of the table.
        kind: what they are, such as "customers".
        here: the log.
        table: the table's name.
        without: what those lack.
    """
    if not ids:
        return
    total = np.count_nonzero(np.bincount(rows))  # of millions of rows np.unique takes many times as long
    print(f"{len(ids):,} of {total:,} {kind} of {here} are not in {table}")
    if 2 * len(ids) <= total:
        return
    forms: dict[str, str] = {}
    for name in known:
        forms.setdefault(_bare(name), name)
    if not forms:
        return
    alike = next((name for name in ids if _bare(name) in forms), None)
    mine = ids[0] if alike is None else alike
    other = forms.get(_bare(mine), next(iter(forms.values())))
    print(
        f"warning: most {kind} of {here} have no {without}, as {table} does not have their ids; are they written "
        f"differently? {here}: {mine!r}, {table}: {other!r}"
    )


def _bare(name: str) -> str:
    """An id without what tables change on the way: blanks, capitals, leading zeros, a decimal point."""
    return name.strip().casefold().removesuffix(".0").lstrip("0")
