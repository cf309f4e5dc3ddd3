"""Customers of a prepared dataset as batch retrieval reads them: a part at a time, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.schema import ATTRIBUTE_PREFIX
from tfrec.attribute_vocabulary import AttributeVocabulary
from tfrec.csr import Csr
from tfrec.histories import last_purchases


@dataclass(frozen=True)
class Customers:
    """Customers in the dataset's order, as the model reads them.

    Attributes:
        ids: `U` customer ids, an Arrow string array.
        history: int32 `[U, L]` item rows of the model, -1 padded on the left, most recent last.
        days_ago: float32 `[U, L]`.
        fields: int32 `[U, G]`, encoded customer fields.
        seen: the distinct items that each has bought, rows of the model; None where not asked for.
    """

    ids: pa.Array
    history: np.ndarray
    days_ago: np.ndarray
    fields: np.ndarray
    seen: Csr | None

    def __len__(self) -> int:
        return len(self.ids)

    def by_length(self) -> tuple[Customers, np.ndarray]:
        """The same customers in order of what they bought, and the row here of each, `[U]`.

        A batch of a model takes the time of its longest history and of the most items that one of its customers excludes.
        """
        lengths = (self.history >= 0).sum(1)
        order = np.lexsort([lengths] if self.seen is None else [self.seen.lengths, lengths])
        seen = None if self.seen is None else self.seen.take(order)
        history, days_ago, fields = (array[order] for array in (self.history, self.days_ago, self.fields))
        return Customers(self.ids.take(pa.array(order)), history, days_ago, fields, seen), order

    def excluded(self, start: int, stop: int) -> np.ndarray:
        """The items that customers `start` to `stop` shall not be shown, int32 `[B, E]`, -1 padded."""
        if self.seen is None:
            return np.full((stop - start, 1), -1, np.int32)
        part = self.seen.slice(start, stop)
        rows = np.full((len(part), max(1, part.lengths.max(initial=0))), -1, np.int32)
        rows[np.arange(rows.shape[1]) < part.lengths[:, None]] = part.items
        return rows


class CustomerReader:
    """Reads customers and what they bought from a prepared dataset.

    Args:
        path: the dataset's folder.
        item_rows: int32 `[items of the dataset]`, the model's row of each, -1 where it has none.
        length: purchases that the query tower reads, L.
        fields: the known values of each customer field that the model reads.
        until: only purchases before this time count (seconds since 1970); all where None.
        with_seen: also collect what each customer has bought.
        readable: the query tower reads items of rows below it, and none of those added later; all where None.
        history_min_rating: the lowest rating of what it reads; 0: it reads everything.
    """

    def __init__(
        self,
        path: Path,
        item_rows: np.ndarray,
        *,
        length: int,
        fields: dict[str, list[str]],
        until: int | None = None,
        with_seen: bool = False,
        readable: int | None = None,
        history_min_rating: float = 0.0,
    ):
        self._users = pq.ParquetFile(path / "users.parquet", memory_map=True)
        self._events = pq.ParquetFile(path / "events.parquet", memory_map=True)
        self._item_rows, self._length, self._until = item_rows, length, until
        self._vocabulary = AttributeVocabulary(fields, max_values=1)
        self._with_seen, self._readable, self._min_rating = with_seen, readable, history_min_rating
        self._user_starts = _group_starts(self._users)
        self._event_ranges = _user_ranges(self._events)
        self.now = until if until is not None else _last_time(self._events)

    @property
    def count(self) -> int:
        """Number of customers in the dataset."""
        return self._users.metadata.num_rows

    def rows_of(self, ids: Iterable[str]) -> tuple[np.ndarray, list[str]]:
        """Rows of customers, int64 `[U]`, rising, without repeats, and those of the ids that are not in the dataset."""
        wanted = pd.Index(pd.unique(np.asarray(list(ids), object)))
        found = np.zeros(len(wanted), bool)
        rows = []
        for group, start in enumerate(self._user_starts[:-1]):
            place = wanted.get_indexer(self._users.read_row_group(group, columns=["user_id"])["user_id"].to_pylist())
            found[place[place >= 0]] = True
            rows.append(start + np.flatnonzero(place >= 0))
        return np.concatenate(rows) if rows else np.zeros(0, np.int64), wanted[~found].tolist()

    def read(self, rows: np.ndarray) -> Customers:
        """Read customers by their rows, which rise."""
        table = self._read_users(rows)
        user, item, time, read = self._read_events(rows)
        offsets = np.searchsorted(user, np.append(rows, rows[-1] + 1) if len(rows) else [0])
        # The last L that the query tower reads: what it does not takes no place among them, as when served.
        left = np.concatenate([[0], np.cumsum(read)])[offsets]
        history, days_ago = last_purchases(item[read], time[read], left, length=self._length, now=self.now)
        seen = None
        if self._with_seen:
            seen = Csr(offsets - offsets[0], item[offsets[0] : offsets[-1]]).distinct()
        ids = table["user_id"].combine_chunks()
        fields = self._vocabulary.encode(table.drop_columns(["user_id"]).to_pandas())[:, :, 0]
        return Customers(ids, history, days_ago, fields, seen)

    def _read_users(self, rows: np.ndarray) -> pa.Table:
        columns = ["user_id", *(ATTRIBUTE_PREFIX + field for field in self._vocabulary.fields)]
        columns = [name for name in columns if name in self._users.schema_arrow.names]
        groups = np.unique(np.searchsorted(self._user_starts, rows, side="right") - 1)
        table = self._users.read_row_groups(groups.tolist(), columns=columns)
        starts = np.concatenate([[0], np.cumsum(np.diff(self._user_starts)[groups])])
        group = np.searchsorted(groups, np.searchsorted(self._user_starts, rows, side="right") - 1)
        return table.take(rows - self._user_starts[groups[group]] + starts[group])

    def _read_events(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The customers' events: user, model row of the item, time, and whether the query tower reads it."""
        low, high = self._event_ranges
        hit = np.searchsorted(rows, low, side="left") < np.searchsorted(rows, high, side="right")
        names = ["user", "item", "time", *["rating"] * bool(self._min_rating)]
        groups = np.flatnonzero(hit).tolist()
        if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
            table = self._events.read_row_groups(groups, columns=names)
            ends = np.searchsorted(table["user"].to_numpy(), [rows[0], rows[-1] + 1])
            table = table.slice(ends[0], ends[1] - ends[0])
        else:  # a choice of customers, who may be in all groups of the log: of each only theirs are kept
            table = self._events.read_row_groups([], columns=names)
            for group in groups:
                part = self._events.read_row_group(group, columns=names)
                user = part["user"].to_numpy()
                place = np.minimum(np.searchsorted(rows, user), len(rows) - 1)
                table = pa.concat_tables([table, part.filter(pa.array(rows[place] == user))])
        user, item, time, *rating = (table[name].to_numpy() for name in names)
        item = self._item_rows[item]
        read = np.ones(len(item), bool) if self._readable is None else item < self._readable
        for given in rating:
            read &= given >= self._min_rating
        kept = (item >= 0) if self._until is None else (item >= 0) & (time < self._until)
        return user[kept], item[kept], time[kept], read[kept]


def _group_starts(file: pq.ParquetFile) -> np.ndarray:
    """The first row of each row group, and the number of rows: int64 `[groups + 1]`."""
    metadata = file.metadata
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def _statistics(file: pq.ParquetFile, column: str) -> list[tuple[int, int]]:
    """Least and largest value of a column in each row group; reads the column where the file does not say."""
    place = file.schema_arrow.get_field_index(column)
    found = []
    for group in range(file.metadata.num_row_groups):
        statistics = file.metadata.row_group(group).column(place).statistics
        if statistics is None or not statistics.has_min_max:
            values = file.read_row_group(group, columns=[column])[column].to_numpy()
            found.append((int(values.min()), int(values.max())) if len(values) else (0, -1))
        else:
            found.append((statistics.min, statistics.max))
    return found


def _user_ranges(file: pq.ParquetFile) -> tuple[np.ndarray, np.ndarray]:
    ranges = np.asarray(_statistics(file, "user"), np.int64).reshape(-1, 2)
    return ranges[:, 0], ranges[:, 1]


def _last_time(file: pq.ParquetFile) -> int:
    return max((high for _, high in _statistics(file, "time")), default=0)
