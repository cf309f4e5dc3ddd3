"""The closing lines of a reader: what was written, how it was split, what was kept aside."""

from __future__ import annotations

from pathlib import Path

from pipelines.prepared import open_prepared


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
        print(f"events: {parts}")
    for reason, number in data.manifest["rejected"].items():
        print(f"kept aside: {number:,} x {reason} (rejected.parquet)")
