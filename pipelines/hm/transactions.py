"""H&M's transactions as events: streamed in blocks, held as compact columns, sorted once."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.hm.tables import ARTICLE_DIGITS, ARTICLE_ID_REASON, CUSTOMER_ID_REASON
from pipelines.id_index import GrowingIdIndex, proper_ids
from pipelines.prepared_writer import PreparedWriter
from pipelines.purchase_order import sorted_frames
from pipelines.raw.raw_csv import RawCsv, read_header
from pipelines.raw.raw_table import as_mask
from pipelines.time_bounds import TOO_EARLY, TOO_LATE, is_too_early, is_too_late

COLUMNS = ("t_dat", "customer_id", "article_id", "price")
CHANNEL = "sales_channel_id"  # a file need not have it
UNKNOWN_CHANNEL = -1
DATE = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2}(:[0-9]{2})?)?")


@dataclass
class Transactions:
    """The kept purchases in the file's order, `[E]` each: 21 bytes a purchase."""

    user: np.ndarray  # int32, row of the users
    item: np.ndarray  # int32, row of the items
    time: np.ndarray  # int64, seconds since 1970
    price: np.ndarray  # float32
    channel: np.ndarray  # int8; -1 is unknown

    def __len__(self) -> int:
        return len(self.user)

    def sorted_frames(self) -> Iterator[pd.DataFrame]:
        """Frames of whole users in the order of events; `position` is the place among the kept rows of the file."""
        return sorted_frames(vars(self))


def read_transactions(
    path: Path, *, item_ids: pd.Series, user_ids: pd.Series, writer: PreparedWriter, max_rejected: float
) -> tuple[Transactions, list[str], RawCsv]:
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
        The transactions; the ids of unknown customers, which continue the numbering of `user_ids`; and the file,
        which knows the rows of what was kept.
    """
    columns = [*COLUMNS, CHANNEL] if CHANNEL in read_header(path)[0] else COLUMNS
    raw = RawCsv(path, columns, writer=writer, may_be_empty=("price",))
    articles = pd.Index(item_ids.astype(np.int64))
    customers = GrowingIdIndex(pa.array(user_ids, type=pa.string()))
    blocks = [_convert(raw, block, articles, customers) for block in raw]
    raw.settle(max_rejected)
    joined = {}
    for name in Transactions.__dataclass_fields__:
        joined[name] = np.concatenate([block.pop(name) for block in blocks])
    return Transactions(**joined), customers.added, raw


def _convert(
    raw: RawCsv, block: pa.RecordBatch, articles: pd.Index, customers: GrowingIdIndex
) -> dict[str, np.ndarray]:
    """Turn one block of strings into compact columns, without its rejected rows."""
    item, proper_id = _article_rows(block["article_id"], articles)
    time, proper_time = _times(block["t_dat"])
    price, proper_price = _prices(block["price"])
    proper_customer = proper_ids(block["customer_id"])
    kept = np.ones(len(block), bool)
    channel = np.full(len(block), UNKNOWN_CHANNEL, np.int8)
    checks = [
        ("t_dat", proper_time, "t_dat is not a date (YYYY-MM-DD)"),
        ("t_dat", ~is_too_early(time), TOO_EARLY),
        ("t_dat", ~is_too_late(time), TOO_LATE),
        ("customer_id", proper_customer, CUSTOMER_ID_REASON),
        ("article_id", proper_id, ARTICLE_ID_REASON),
        ("article_id", item >= 0, "article_id is not in the articles file"),
        ("price", proper_price, "price is not a number of at least 0"),
    ]
    if CHANNEL in raw.columns:
        channel, proper_channel = _channels(block[CHANNEL])
        checks.append((CHANNEL, proper_channel, "sales_channel_id is not a whole number from 0 to 127"))
    for field, proper, reason in checks:
        raw.reject(kept & ~proper, field, block[field], reason)
        kept &= proper
    at = np.flatnonzero(kept)
    buyers = block["customer_id"] if kept.all() else block["customer_id"].take(pa.array(at))
    return {
        "user": customers.rows(buyers),
        "item": item[at].astype(np.int32),
        "time": time[at],
        "price": price[at],
        "channel": channel[at],
    }


def _article_rows(ids: pa.Array, articles: pd.Index) -> tuple[np.ndarray, np.ndarray]:
    """Return articles' row numbers, `[n]` (-1: unknown), and which ids are proper; zeros may lead."""
    proper = _proper_articles(ids)
    if not proper.all():  # blanks around an id are rare, and looking for them takes a pass over all
        ids = pc.utf8_trim_whitespace(ids)
        proper = _proper_articles(ids)
        ids = pc.if_else(pa.array(proper), ids, "-1")
    return articles.get_indexer(ids.cast(pa.int64()).to_numpy()), proper


def _proper_articles(ids: pa.Array) -> np.ndarray:
    return (pc.binary_length(ids).to_numpy() <= ARTICLE_DIGITS) & as_mask(pc.ascii_is_decimal(ids))


def _times(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Parse each distinct date once; returns `[n]` seconds since 1970 and which are proper."""
    encoded = column.dictionary_encode()
    values = [_seconds(text) for text in encoded.dictionary.to_pylist()]
    codes = encoded.indices.to_numpy()
    proper = np.array([value is not None for value in values], bool)
    return np.array([value or 0 for value in values], np.int64)[codes], proper[codes]


@lru_cache(maxsize=1 << 16)
def _seconds(text: str) -> int | None:
    """Read a date, or a date and time, as seconds since 1970, UTC."""
    if not DATE.fullmatch(text):
        return None
    try:
        return int(datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC).timestamp())
    except ValueError:  # the 45th of a month
        return None


def _channels(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Parse sales channels, whole numbers from 0 to 127 or empty; returns `[n]` int8 and which are proper."""
    try:
        channel = column.cast(pa.int8()).to_numpy()
        return channel, channel >= 0
    except pa.ArrowInvalid:  # some value is none: look at each
        text = column.to_pandas().str.strip()
        number = pd.to_numeric(text, errors="coerce").to_numpy(np.float64)
        proper = (number >= 0) & (number <= 127) & (number % 1 == 0)
        return np.where(proper, number, UNKNOWN_CHANNEL).astype(np.int8), proper | (text == "").to_numpy()


def _prices(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Parse prices; an empty one is NaN (missing), which is proper. Returns `[n]` float32 and which are proper."""
    try:
        price = column.cast(pa.float32()).to_numpy() + np.float32(0)  # no -0.0, whose bits are those of a large number
        return price, np.isfinite(price) & (price >= 0)
    except pa.ArrowInvalid:  # some value is empty or no number: look at each
        text = column.to_pandas().str.strip()
        price = pd.to_numeric(text, errors="coerce").to_numpy(np.float32) + np.float32(0)
        return price, (np.isfinite(price) & (price >= 0)) | (text == "").to_numpy()
