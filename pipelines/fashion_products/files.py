"""Reads Fashion Product Images' `styles.csv` and photos and writes them as a prepared dataset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from pipelines.label_splits import split_labels
from pipelines.photos.images import store_photos
from pipelines.photos.item_photos import photo_of, photos_by_name
from pipelines.prepared import PreparedError, PreparedWriter
from pipelines.raw.raw_csv import open_records

FIELDS = ("gender", "masterCategory", "subCategory", "articleType", "baseColour", "season", "usage")
COLUMNS = ("id", *FIELDS, "productDisplayName")
MISSING = frozenset({"", "NA", "nan"})
WRONG_COUNT = ("productDisplayName", "wrong number of cells")  # Kaggle's file has unquoted commas in some names


def prepare(
    raw: str | Path, out: str | Path, *, split: str, shares: dict, size: int = 256, overwrite: bool = False
) -> None:
    """Write the prepared dataset: one item a row of `styles.csv` that has a photo; the label is its article
    type.

    Args:
        raw: folder with `styles.csv` and `images/`.
        out: folder to make.
        split: `stratified` or `class-disjoint`.
        shares: `test_share`, `val_share` and `seed` of `pipelines.label_splits.split_labels`.
        size: longest side of a stored photo.
        overwrite: replace `out`.

    Raises:
        PreparedError: the table is missing or of other columns, or no row can be used.
    """
    raw = Path(raw)
    options = {"split": split, **shares, "size": size}
    with PreparedWriter(
        out, dataset="fashion_products", source=str(raw), options=options, overwrite=overwrite
    ) as writer:
        rows = list(read_styles(raw / "styles.csv", writer))
        folder = raw / "images"
        photos = photos_by_name(folder)
        paths = {row["item_id"]: photo_of(row["item_id"], photos) or folder / f"{row['item_id']}.jpg" for row in rows}
        stored = store_photos(paths, writer=writer, size=size)
        frame = pd.DataFrame([row for row in rows if row["item_id"] in stored])
        if not len(frame):
            named = len(photos.keys() & paths.keys())
            raise PreparedError(
                f"{raw}: no row of styles.csv has a usable photo ({folder} holds {len(photos)}, {named} of them named by "
                f"an id); rejected: {writer.rejected}"
            )
        frame["split"] = split_labels(frame["label"].to_numpy(), kind=split, **shares)
        writer.split = {"kind": split, **shares}
        writer.items(frame)


def read_styles(file: Path, writer: PreparedWriter) -> Iterator[dict]:
    """Parse `styles.csv`; rows with too many or too few cells, an open quote, a bad or repeated id or no article
    type are rejected.

    Yields:
        Rows of the items table.

    Raises:
        PreparedError: the file or a column is missing, or it is not UTF-8.
    """
    if not file.is_file():
        raise PreparedError(f"{file} is missing; --raw must be the folder with styles.csv and images/")
    seen: set[str] = set()
    header, rows = open_records(file, COLUMNS, reject=writer.reject)
    for number, cells in rows:
        record = dict(zip(header, cells))
        fault = _fault(record, seen) if len(cells) == len(header) else WRONG_COUNT
        if fault:
            field, reason = fault
            writer.reject(file=file.name, row=number, field=field, value=record.get(field), reason=reason)
            continue
        seen.add(record["id"].strip())
        yield _row(record)


def _fault(record: dict, seen: set[str]) -> tuple[str, str] | None:
    """The column at fault and the reason, or None."""
    identifier = record["id"].strip()
    if not identifier.isdecimal():
        return "id", "id is not a number"
    if identifier in seen:
        return "id", "repeated id"
    if record["articleType"].strip() in MISSING:
        return "articleType", "no article type"
    return None


def _row(record: dict) -> dict:
    """One row of the items table."""
    identifier, name = record["id"].strip(), record["productDisplayName"].strip()
    values = {field: record[field].strip() for field in FIELDS}
    return {
        "item_id": identifier,
        "title": name,
        "text": name,
        "images": [identifier],
        "label": values["articleType"],
        **{f"attr.{field}": [] if value in MISSING else [value] for field, value in values.items()},
    }
