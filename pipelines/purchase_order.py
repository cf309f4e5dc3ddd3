"""Puts a shop's purchases in the order of the events table: by user, then time, then the order of the source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from scipy import sparse

EVENTS_AT_ONCE = 1 << 20  # events of whole users in one frame, about


def sorted_frames(columns: Mapping[str, np.ndarray]) -> Iterator[pd.DataFrame]:
    """Yield frames of whole users, about a million events, sorted by user, time, then the order of the source.

    Args:
        columns: `user`, `time` and any others, `[E]` each.

    Yields:
        The columns, and `position`, the purchase's place in the source.
    """
    user = columns["user"]
    order = _stable_order(user, columns["time"])
    ends = np.cumsum(np.bincount(user))  # where each user's events end in the sorted order
    start = 0
    while start < len(order):
        last = np.searchsorted(ends, min(start + EVENTS_AT_ONCE, len(order)))
        at = order[start : ends[last]]
        yield pd.DataFrame({"position": at, **{name: column[at] for name, column in columns.items()}})
        start = int(ends[last])


def _stable_order(user: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Sort by user, then time, then the order of the source; returns `[E]` positions.

    A log is in order of time as a rule, and then one counting sort by user does it.
    """
    ordered = (time[1:] >= time[:-1]).all()
    by_time = None if ordered else np.argsort(time, kind="stable")
    users = user if by_time is None else user[by_time]
    by_user = counting_sort(users, np.ones(len(users), bool)).indices
    return by_user if by_time is None else by_time[by_user]


def counting_sort(keys: np.ndarray, values: np.ndarray) -> sparse.csc_array:
    """Sort by small whole numbers, linear and stable: the transposition of a sparse matrix with an entry a row.

    Args:
        keys: `[E]`, at least 0.
        values: `[E]`.

    Returns:
        A matrix whose `indices` `[E]` are the rows in order of their keys, `data` `[E]` the values in that order, and
        `indptr` `[largest key + 2]` where each key's begin, and the last one's end.
    """
    ends = np.arange(len(keys) + 1, dtype=np.int32 if len(keys) < 2**31 else np.int64)
    return sparse.csr_array((values, keys, ends), shape=(len(keys), int(keys.max(initial=0)) + 1)).tocsc()
