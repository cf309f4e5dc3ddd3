"""What the shop window shows of a prepared dataset: customers, their purchases, items, photos."""

from __future__ import annotations

import bisect
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.prepared import open_prepared
from pipelines.time_bounds import DAY
from tfrec.serve.errors import Code, ServeError, shown

MAX_CHOICES = 60  # a field with more values is no filter that a person could choose from
LATEST = 24  # purchases shown of a customer
READ = 1024  # that models may read: the longest histories of the recipes have 200, of what was liked alone


class ShopData:
    """A prepared dataset, by ids.

    Args:
        path: its folder.

    Raises:
        PreparedError: it is broken.
    """

    def __init__(self, path: Path):
        self._prepared = open_prepared(path)
        items, users = self._prepared.items, self._prepared.users
        self._item_row = {item: row for row, item in enumerate(items["item_id"])}
        self._user_row = {user: row for row, user in enumerate(users["user_id"])}
        self._items = {name: items[name].to_numpy() for name in items.columns}
        self._users = {name: users[name].to_numpy() for name in users.columns}
        rated = "rating" in self._prepared.event_columns
        events = self._prepared.events(columns=["user", "item", "time", *["rating"] * rated])
        counts = np.bincount(events["user"], minlength=len(users))
        self._offsets = np.concatenate([[0], np.cumsum(counts)])
        by_id = pc.sort_indices(pa.array(users["user_id"], pa.string())).to_numpy()
        self._sorted_users, self._sorted_rows = users["user_id"].to_numpy()[by_id], by_id.astype(np.int64)
        self._event_items, self._event_times = events["item"].to_numpy(), events["time"].to_numpy()
        self._ratings = events["rating"].to_numpy() if rated else None
        self._now = int(self._event_times.max(initial=0))

    @cached_property
    def overview(self) -> dict[str, Any]:
        """The dataset's name and size, and the attributes to filter by with their values."""
        return {
            "dataset": self._prepared.manifest["dataset"],
            "items": len(self._item_row),
            "customers": len(self._user_row),
            "filters": {field: values for field in self._prepared.fields if (values := self._choices(field))},
        }

    def customers(self, beginning: str, limit: int) -> list[dict[str, Any]]:
        """Customers whose id begins so, those with the most purchases first."""
        start = bisect.bisect_left(self._sorted_users, beginning)
        stop = bisect.bisect_right(self._sorted_users, beginning, start, key=lambda user: user[: len(beginning)])
        rows = self._sorted_rows[start:stop]
        # One number a customer, the larger the earlier: more purchases first, then the dataset's order.
        rank = (self._offsets[rows + 1] - self._offsets[rows]) * len(self._user_row) - rows
        if len(rows) > limit:
            kept = np.argpartition(-rank, limit)[:limit]
            rows, rank = rows[kept], rank[kept]
        rows = rows[np.argsort(-rank)]
        return [{"user_id": self._users["user_id"][row], "purchases": self._count(row)} for row in rows]

    def customer(self, user_id: str) -> dict[str, Any]:
        """A customer's fields, what they bought and how they rated it, and cards of the latest purchases, most recent last;
        NOT_FOUND where there is none.
        """
        row = self._user_row.get(user_id)
        if row is None:
            raise ServeError(Code.NOT_FOUND, f"no customer {shown(user_id)} in the dataset")
        start, stop = self._offsets[row], self._offsets[row + 1]
        purchases = [self._purchase(event) for event in range(max(start, stop - LATEST), stop)]
        read = slice(max(start, stop - READ), stop)
        given = [self._rating(event) for event in range(read.start, read.stop)]
        ratings = {} if self._ratings is None else {"ratings": given}
        ids = self._items["item_id"]
        fields = {name: self._users[f"attr.{name}"][row] for name in self._prepared.user_fields}
        return {
            "user_id": user_id,
            "fields": {name: str(value) for name, value in fields.items() if value is not None and value == value},
            "count": self._count(row),
            "purchases": purchases,
            "history": list(ids[self._event_items[read]]),
            "days_ago": ((self._now - self._event_times[read]) / DAY).tolist(),
            "bought": list(ids[np.unique(self._event_items[start:stop])]),
            **ratings,
        }

    def items(self, item_ids: list[str]) -> list[dict[str, Any]]:
        """Cards of items; an id that the dataset does not have keeps its place, with the id as its title."""
        rows = [self._item_row.get(item) for item in item_ids]
        return [
            {"item_id": item, "title": item, "attributes": {}, "photo": False} if row is None else self._card(row)
            for item, row in zip(item_ids, rows)
        ]

    def photo(self, item_id: str) -> bytes:
        """The first photo of an item, JPEG; NOT_FOUND where it has none. Ids are looked up, never made into paths."""
        row = self._item_row.get(item_id)
        keys = self._items["images"][row] if row is not None else []
        if not len(keys) or self._prepared.images is None:
            raise ServeError(Code.NOT_FOUND, f"no photo of {shown(item_id)}")
        return self._prepared.images.read(keys[0])

    def _count(self, row: int) -> int:
        return int(self._offsets[row + 1] - self._offsets[row])

    def _purchase(self, event: int) -> dict[str, Any]:
        when = {"days_ago": (self._now - int(self._event_times[event])) / DAY}
        rating = self._rating(event)
        return {**self._card(self._event_items[event]), **when, **({} if rating is None else {"rating": rating})}

    def _rating(self, event: int) -> float | None:
        """None where it was not rated: JSON has no NaN."""
        rating = np.nan if self._ratings is None else float(self._ratings[event])
        return None if np.isnan(rating) else round(rating, 4)  # 3.3 and not the nearest float32

    def _card(self, row: int) -> dict[str, Any]:
        item = self._items["item_id"][row]
        values = {field: [str(value) for value in self._items[f"attr.{field}"][row]] for field in self._prepared.fields}
        return {
            "item_id": item,
            "title": self._items["title"][row] or item,
            "text": self._items["text"][row][:600],
            "attributes": {field: listed for field, listed in values.items() if listed},
            "photo": len(self._items["images"][row]) > 0 and self._prepared.images is not None,
        }

    def _choices(self, field: str) -> list[str]:
        values = {str(value) for listed in self._items[f"attr.{field}"] for value in listed}
        return sorted(values) if 1 < len(values) <= MAX_CHOICES else []
