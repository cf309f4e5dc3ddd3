"""Reads a MovieLens ratings file into flat arrays, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.equal_rows import repeated
from pipelines.id_index import GrowingIdIndex
from pipelines.movielens.files import Ratings
from pipelines.prepared_writer import PreparedWriter
from pipelines.raw.raw_csv import RawCsv
from pipelines.raw.raw_table import as_mask
from pipelines.schema import PreparedError
from pipelines.time_bounds import TOO_LATE, YEAR_10000, is_too_late


@dataclass
class Log:
    """All ratings as flat arrays of one length."""

    user: np.ndarray  # int32
    item: np.ndarray  # int32
    time: np.ndarray  # int64, seconds since 1970
    rating: np.ndarray | None  # float32
    position: np.ndarray  # int32, its place among the ratings that reading kept

    def take(self, rows: np.ndarray) -> Log:
        """Return the rows asked for, by index or by mask."""
        rating = None if self.rating is None else self.rating[rows]
        return Log(self.user[rows], self.item[rows], self.time[rows], rating, self.position[rows])


def read_ratings(
    ratings: Ratings,
    *,
    users: GrowingIdIndex,
    items: GrowingIdIndex,
    writer: PreparedWriter,
    max_rejected: float,
) -> tuple[Log, RawCsv]:
    """Read the ratings file. Rows without ids, with a bad time or a bad rating are rejected.

    Args:
        ratings: the file and its columns.
        users: ids known so far; grows by those met.
        items: the same for movies.
        writer: where rejected rows go.
        max_rejected: largest share of rows that may be rejected.

    Returns:
        The ratings in the file's order, and the file, which knows the rows of what was kept.

    Raises:
        PreparedError: no row can be used, or too many can not.
    """
    columns = [name for name in (ratings.user, ratings.item, ratings.time, ratings.rating) if name]
    raw = RawCsv(ratings.path, columns, writer=writer, layout=ratings.layout)
    parts = [_convert(raw, block, ratings, users, items) for block in raw]
    raw.settle(max_rejected)
    log = _joined(parts)
    if not len(log.user):
        raise PreparedError(f"{ratings.path} has no usable rating; rejected: {writer.rejected}")
    return log, raw


def duplicates(log: Log) -> np.ndarray:
    """Which ratings of a log sorted by user and time are the same as an earlier one in all they tell, bool `[E]`.

    Only ratings of one user and second are compared: few, in a log of tens of millions.
    """
    again = np.zeros(len(log.user), bool)
    again[1:] = (log.user[1:] == log.user[:-1]) & (log.time[1:] == log.time[:-1])
    rows = np.flatnonzero(again | np.append(again[1:], False))
    told = [column[rows] for column in (log.rating, log.item, log.time, log.user) if column is not None]
    again[:] = False
    again[rows] = repeated(told)
    return again


def keep_core(log: Log, least: int) -> tuple[Log, np.ndarray, np.ndarray]:
    """Drop users and items with fewer than `least` interactions until none is left to drop.

    Returns:
        The remaining log with indices renumbered, and the old indices of the users and of the items kept.

    Raises:
        PreparedError: nothing remains.
    """
    rows = np.arange(len(log.user))
    while True:
        user, item = log.user[rows], log.item[rows]
        stays = (np.bincount(user)[user] >= least) & (np.bincount(item)[item] >= least)
        if stays.all():
            break
        rows = rows[stays]
        if not len(rows):
            raise PreparedError(f"--min-interactions {least}: nothing has that many ratings; ask for fewer")
    users, items = np.unique(user), np.unique(item)
    core = log.take(rows)
    core.user = np.searchsorted(users, user).astype(np.int32)
    core.item = np.searchsorted(items, item).astype(np.int32)
    return core, users, items


def _convert(raw: RawCsv, block: pa.RecordBatch, ratings: Ratings, users: GrowingIdIndex, items: GrowingIdIndex) -> Log:
    """Turn one block of strings into arrays, without its rejected rows."""
    time = _to_seconds(block[ratings.time])
    checks = [
        (ratings.user, as_mask(pc.not_equal(block[ratings.user], "")), "user id is empty"),
        (ratings.item, as_mask(pc.not_equal(block[ratings.item], "")), "movie id is empty"),
        (ratings.time, np.isfinite(time) & (time >= 0), "timestamp is no time"),
        (ratings.time, time < YEAR_10000, "timestamp is after the year 9999: looks like milliseconds, give seconds"),
        (ratings.time, ~is_too_late(time), f"timestamp: {TOO_LATE}"),
    ]
    rating = None
    if ratings.rating:
        with np.errstate(over="ignore"):  # what is too large for 32 bits becomes infinite here, and is rejected
            rating = _to_floats(block[ratings.rating]).astype(np.float32)
        checks.append((ratings.rating, np.isfinite(rating), "rating is not a number"))
    kept = np.ones(len(block), bool)
    for field, proper, reason in checks:
        raw.reject(kept & ~proper, field, block[field], reason)
        kept &= proper
    block = block.filter(pa.array(kept))
    return Log(
        users.rows(block[ratings.user]),
        items.rows(block[ratings.item]),
        time[kept].astype(np.int64),
        None if rating is None else rating[kept],
        np.arange(kept.sum(), dtype=np.int32),
    )


def _to_floats(column: pa.Array) -> np.ndarray:
    """Convert strings to float64; what is not a number becomes NaN."""
    try:
        return pc.cast(column, pa.float64()).to_numpy()
    except pa.ArrowInvalid:  # one bad cell spoils the fast path for its block
        return pd.to_numeric(column.to_pandas().astype(object), errors="coerce").to_numpy(np.float64)


def _to_seconds(column: pa.Array) -> np.ndarray:
    """Convert Unix seconds or `YYYY-MM-DD hh:mm:ss` (UTC) to float64 seconds; anything else becomes NaN."""
    seconds = _to_floats(column)
    unknown = np.flatnonzero(np.isnan(seconds))
    if len(unknown):
        texts = column.take(pa.array(unknown)).to_pandas().astype(object)
        dates = pd.to_datetime(texts, errors="coerce", utc=True, format="%Y-%m-%d %H:%M:%S")
        seconds = seconds.copy()  # Arrow's memory is read-only
        seconds[unknown] = ((dates - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)).to_numpy(np.float64)
    return seconds


def _joined(parts: list[Log]) -> Log:
    """Concatenate column by column and let go of the pieces, so that one column at most exists twice."""

    def column(name: str) -> np.ndarray:
        pieces = [vars(part).pop(name) for part in parts]
        return np.concatenate(pieces)

    user, item, time = column("user"), column("item"), column("time")
    rating = column("rating") if parts[0].rating is not None else None
    return Log(user, item, time, rating, np.arange(len(user), dtype=np.int32))
