"""H&M's transactions as events: streamed in blocks, held as compact columns, sorted once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.hm_tables import ARTICLE_ID, ARTICLE_ID_REASON, padded_article_ids
from pipelines.prepared_writer import PreparedWriter
from pipelines.raw_csv import RawCsv

COLUMNS = ("t_dat", "customer_id", "article_id", "price", "sales_channel_id")
DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2}(:[0-9]{2})?)?$"
EVENTS_AT_ONCE = 1 << 20  # events of whole users in one output frame, about


@dataclass
class Transactions:
    """Purchases in the file's order, `[E]` each: 25 bytes a purchase."""

    user: np.ndarray  # int32, row of the users
    item: np.ndarray  # int32, row of the items
    time: np.ndarray  # int64, seconds since 1970
    price: np.ndarray  # float32
    channel: np.ndarray  # int8
    row: np.ndarray  # int32, 1-based row of the raw file

    def __len__(self) -> int:
        return len(self.user)

    def sorted_frames(self) -> Iterator[pd.DataFrame]:
        """Yield frames of whole users, about a million events, sorted by user, time, then file order."""
        order = _stable_order(self.user, self.time)
        ends = np.cumsum(np.bincount(self.user))  # where each user's events end in the sorted order
        start = 0
        while start < len(order):
            last = np.searchsorted(ends, min(start + EVENTS_AT_ONCE, len(order)))
            at = order[start : ends[last]]
            yield pd.DataFrame({name: column[at] for name, column in vars(self).items()})
            start = int(ends[last])


def read_transactions(
    path: Path, *, item_ids: pd.Series, user_ids: pd.Series, writer: PreparedWriter, max_rejected: float
) -> tuple[Transactions, list[str]]:
    """Read the transactions and replace ids by row numbers.

    Rows with a bad date, price or channel, or of an article that articles.csv does not have, are rejected.
    Customers that customers.csv does not have are kept.

    Args:
        path: the CSV file.
        item_ids: `[items]` article ids of 10 digits.
        user_ids: `[users]` customer ids.
        writer: where rejected rows go.
        max_rejected: largest share of rows that may be rejected.

    Returns:
        The transactions, and the ids of unknown customers, which continue the numbering of `user_ids`.
    """
    raw = RawCsv(path, COLUMNS, writer=writer)
    articles = pa.array(item_ids, type=pa.string())
    customers = _GrowingIndex(pa.array(user_ids, type=pa.string()))
    blocks = [_convert(raw, table, articles, customers) for table in raw]
    raw.settle(max_rejected)
    columns = {}
    for name in Transactions.__dataclass_fields__:
        columns[name] = np.concatenate([block.pop(name) for block in blocks])
    return Transactions(**columns), customers.added


def _convert(
    raw: RawCsv, table: pa.Table, articles: pa.Array, customers: _GrowingIndex
) -> dict[str, np.ndarray]:
    """Turn one block of strings into compact columns, without its rejected rows."""
    ids = padded_article_ids(table["article_id"])
    item = _row_numbers(ids, articles)
    proper_id = np.ones(len(table), bool)
    if (item < 0).any():
        proper_id = pc.match_substring_regex(table["article_id"], ARTICLE_ID).to_numpy()
    time, proper_time = _by_distinct_value(table["t_dat"], _seconds, np.int64)
    channel, proper_channel = _by_distinct_value(table["sales_channel_id"], _small_integers, np.int8)
    price, proper_price = _prices(table["price"])
    has_customer = pc.not_equal(table["customer_id"], "").to_numpy()
    kept = np.ones(len(table), bool)
    for field, proper, reason in (
        ("t_dat", proper_time, "t_dat is not a date (YYYY-MM-DD)"),
        ("customer_id", has_customer, "customer_id is empty"),
        ("article_id", proper_id, ARTICLE_ID_REASON),
        ("article_id", item >= 0, "article_id is not in the articles file"),
        ("price", proper_price, "price is not a number"),
        ("sales_channel_id", proper_channel, "sales_channel_id is not a small whole number"),
    ):
        raw.reject(kept & ~proper, field, table[field], reason)
        kept &= proper
    at = np.flatnonzero(kept)
    return {
        "user": customers.rows(table["customer_id"].take(pa.array(at))),
        "item": item[at],
        "time": time[at],
        "price": price[at],
        "channel": channel[at],
        "row": raw.raw_rows(at).astype(np.int32),
    }


class _GrowingIndex:
    """Row numbers of known ids; unknown ones are appended as they are met.

    Attributes:
        added: the ids appended so far.
    """

    def __init__(self, known: pa.Array):
        self._known = known
        self.added: list[str] = []

    def rows(self, ids: pa.ChunkedArray) -> np.ndarray:
        """Return the row of each id, `[n]` int32."""
        rows = _row_numbers(ids, self._known)
        if (rows < 0).any():
            unknown = ids.filter(pa.array(rows < 0)).unique().to_pylist()
            self.added += unknown
            self._known = pa.concat_arrays([self._known, pa.array(unknown, pa.string())])
            rows = _row_numbers(ids, self._known)
        return rows


def _row_numbers(ids: pa.ChunkedArray, known: pa.Array) -> np.ndarray:
    return pc.index_in(ids, known).fill_null(-1).to_numpy()


def _by_distinct_value(
    column: pa.ChunkedArray, convert: Callable[[pd.Series], pd.Series], kind: type
) -> tuple[np.ndarray, np.ndarray]:
    """Convert each distinct string of a column once; returns `[n]` values and whether they are proper."""
    encoded = column.combine_chunks().dictionary_encode()
    values = convert(encoded.dictionary.to_pandas())
    codes = encoded.indices.to_numpy()
    return values.fillna(0).to_numpy().astype(kind)[codes], values.notna().to_numpy()[codes]


def _seconds(text: pd.Series) -> pd.Series:
    dates = pd.to_datetime(text.where(text.str.fullmatch(DATE[1:-1])), format="ISO8601", errors="coerce")
    return (dates - pd.Timestamp(0)) // pd.Timedelta(seconds=1)


def _small_integers(text: pd.Series) -> pd.Series:
    return pd.to_numeric(text.where(text.str.fullmatch("[0-9]{1,2}")), errors="coerce")


def _prices(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Parse prices; an empty one is NaN (missing), which is proper."""
    try:
        price = column.cast(pa.float32()).to_numpy()
        return price, np.isfinite(price)
    except pa.ArrowInvalid:  # some value is empty or no number: look at each
        text = column.to_pandas().str.strip()
        price = pd.to_numeric(text, errors="coerce").to_numpy(np.float32)
        return price, np.isfinite(price) | (text == "").to_numpy()


def _stable_order(user: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Sort by user, then time, then file order; returns `[E]` int64 positions.

    NumPy sorts 16-bit keys by counting, in linear time: two such passes over the user's halves beat one
    comparison sort. The file is in order of time as a rule, so that pass is usually free.
    """
    order = np.argsort(time, kind="stable") if (time[1:] < time[:-1]).any() else np.arange(len(time))
    for shift in (0, 16):
        half = (user >> shift).astype(np.uint16)
        order = order[np.argsort(half[order], kind="stable")]
    return order
