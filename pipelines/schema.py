"""The columns of a prepared dataset's tables, and the checks every table passes before it is written.

`docs/architecture.md` describes the tables; this module is their one definition in code.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

FORMAT = "tfrec-prepared"
SCHEMA_VERSION = 1
ATTRIBUTE_PREFIX = "attr."
TRAIN, VAL, TEST = 0, 1, 2
SPLIT_CODES = {"train": TRAIN, "val": VAL, "test": TEST}

STRINGS = pa.list_(pa.string())
ITEM_COLUMNS = {
    "item_id": pa.string(),
    "title": pa.string(),
    "text": pa.string(),
    "images": STRINGS,
    "views": STRINGS,
}
ITEM_OPTIONAL = {
    "group": pa.string(),
    "label": pa.string(),
    "price": pa.float32(),
    "split": pa.int8(),
    "boxes": STRINGS,
}
USER_COLUMNS = {"user_id": pa.string()}
EVENT_COLUMNS = {"user": pa.int32(), "item": pa.int32(), "time": pa.int64(), "split": pa.int8()}
EVENT_OPTIONAL = {"rating": pa.float32(), "price": pa.float32(), "channel": pa.int8()}
IMAGE_COLUMNS = {"key": pa.string(), "offset": pa.int64(), "length": pa.int32()}
REJECTED_COLUMNS = {
    "file": pa.string(),
    "row": pa.int64(),
    "field": pa.string(),
    "value": pa.string(),
    "reason": pa.string(),
}


class PreparedError(ValueError):
    """A raw file or a prepared dataset is broken; the message names the place and the fix."""


def items_table(frame: pd.DataFrame) -> pa.Table:
    """Check an items frame and convert it to its Arrow table.

    Args:
        frame: `item_id` and any of the other item columns; absent `title`, `text`, `images` and `views` are
            filled with their "missing" value.

    Returns:
        The table with the columns in the contract's order.

    Raises:
        PreparedError: an unknown or badly typed column, a missing value where none is allowed, a repeated id,
            or `views` that do not match `images`.
    """
    if "item_id" not in frame:
        raise PreparedError("items: column 'item_id' is missing; give one string id per item")
    frame = frame.reset_index(drop=True)
    for column in ("title", "text"):
        if column not in frame:
            frame[column] = ""
    if "images" not in frame:
        frame["images"] = [[] for _ in range(len(frame))]
    if "views" not in frame:
        frame["views"] = [[""] * len(keys) for keys in frame["images"]]
    attributes = {name: STRINGS for name in frame.columns if name.startswith(ATTRIBUTE_PREFIX)}
    table = _to_table("items", frame, {**ITEM_COLUMNS, **attributes}, ITEM_OPTIONAL)
    _no_nulls("items", table, ["item_id", "title", "text", "images", "views", *attributes])
    _unique_ids("items", table["item_id"])
    images, views = pc.list_value_length(table["images"]), pc.list_value_length(table["views"])
    if not images.equals(views):
        row = int(np.flatnonzero(images.to_numpy() != views.to_numpy())[0])
        raise PreparedError(
            f"items: row {row} has {images[row]} images and {views[row]} views; "
            "give one view per image ('' when unknown)"
        )
    if "split" in table.column_names:
        _within("items", table["split"], "split", 0, 2)
    return table


def users_table(frame: pd.DataFrame) -> pa.Table:
    """Check a users frame (`user_id`, `attr.<field>` strings or null) and convert it to its Arrow table.

    Raises:
        PreparedError: an unknown or badly typed column, or a missing or repeated id.
    """
    attributes = {name: pa.string() for name in frame.columns if name.startswith(ATTRIBUTE_PREFIX)}
    table = _to_table("users", frame, {**USER_COLUMNS, **attributes}, {})
    _no_nulls("users", table, ["user_id"])
    _unique_ids("users", table["user_id"])
    return table


def events_table(frame: pd.DataFrame, previous: tuple[int, int] | None = None) -> pa.Table:
    """Check one chunk of events and convert it to its Arrow table.

    Args:
        frame: `user`, `item`, `time`, `split` and optionally `rating`, `price`, `channel`; sorted by user,
            then time.
        previous: `(user, time)` of the last event of the chunk before this one.

    Raises:
        PreparedError: an unknown or badly typed column, a missing value, a split that is not 0, 1 or 2, or a
            row out of order.
    """
    table = _to_table("events", frame, EVENT_COLUMNS, EVENT_OPTIONAL)
    _no_nulls("events", table, list(EVENT_COLUMNS))
    _within("events", table["split"], "split", 0, 2)
    _within("events", table["user"], "user", 0, None)
    _within("events", table["item"], "item", 0, None)
    user, time = table["user"].to_numpy(), table["time"].to_numpy()
    if previous is not None and len(user):
        user, time = np.insert(user, 0, previous[0]), np.insert(time, 0, previous[1])
    broken = (user[1:] < user[:-1]) | ((user[1:] == user[:-1]) & (time[1:] < time[:-1]))
    if broken.any():
        row = int(np.argmax(broken))
        raise PreparedError(
            f"events: not sorted by user, then time: user {user[row]} at {time[row]} stands before "
            f"user {user[row + 1]} at {time[row + 1]}; sort with kind='stable' before writing"
        )
    return table


def _to_table(
    name: str, frame: pd.DataFrame, required: dict[str, pa.DataType], optional: dict[str, pa.DataType]
) -> pa.Table:
    """Convert `frame` column by column to the contract's types; never silently lossy."""
    for column in required:
        if column not in frame:
            raise PreparedError(f"{name}: column {column!r} is missing; found {list(frame.columns)}")
    types = {**required, **{column: kind for column, kind in optional.items() if column in frame}}
    for column in frame.columns:
        if column not in types:
            raise PreparedError(
                f"{name}: unknown column {column!r}; allowed are {[*required, *optional]} "
                f"and '{ATTRIBUTE_PREFIX}<field>'"
            )
    arrays = []
    for column, kind in types.items():
        try:
            arrays.append(pa.chunked_array(_as_arrow(frame[column], kind), type=kind))
        except (
            pa.ArrowInvalid,
            pa.ArrowTypeError,
            pa.ArrowNotImplementedError,
            TypeError,
            ValueError,
        ) as error:
            raise PreparedError(f"{name}: column {column!r} does not fit type {kind}: {error}") from error
    return pa.table(arrays, names=list(types))


def _as_arrow(series: pd.Series, kind: pa.DataType) -> list[pa.Array]:
    """One column as Arrow chunks: floats may lose precision to float32, anything else must fit exactly."""
    if pa.types.is_floating(kind):
        return [pa.array(series.to_numpy(dtype=np.float32, na_value=np.nan), type=kind)]
    array = pa.array(series, from_pandas=True)
    chunks = array.chunks if isinstance(array, pa.ChunkedArray) else [array]
    return [chunk.cast(kind) for chunk in chunks]


def _no_nulls(name: str, table: pa.Table, columns: Sequence[str]) -> None:
    for column in columns:
        if table[column].null_count:
            row = int(np.argmax(table[column].is_null().to_numpy()))
            raise PreparedError(
                f"{name}: column {column!r} has no value in row {row}; 'missing' is '' or an empty list"
            )


def _unique_ids(name: str, ids: pa.ChunkedArray) -> None:
    ids = ids.cast(pa.large_string())  # the distinct ones are one array, which may hold more than 2 GiB
    if len(ids.unique()) < len(ids):
        counts = pc.value_counts(ids)
        repeated = pc.index(pc.greater(counts.field("counts"), 1), True).as_py()
        raise PreparedError(f"{name}: id {counts.field('values')[repeated].as_py()!r} occurs more than once")
    if pc.index(ids, "").as_py() >= 0:
        raise PreparedError(f"{name}: row {pc.index(ids, '').as_py()} has an empty id")


def _within(name: str, column: pa.ChunkedArray, field: str, low: int, high: int | None) -> None:
    if not len(column):
        return
    seen = pc.min_max(column).as_py()
    if seen["min"] is not None and (seen["min"] < low or (high is not None and seen["max"] > high)):
        allowed = f">= {low}" if high is None else f"in {low}..{high}"
        raise PreparedError(f"{name}: column {field!r} spans {seen['min']}..{seen['max']}; it must be {allowed}")
