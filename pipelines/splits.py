"""Which interactions train, validate and test: leave-last-out per user, or a cut in time.

Both rules mark every event TRAIN, VAL, TEST or DROPPED. An event is dropped where it may serve neither
training (it happened after what is held out) nor evaluation (it is no target); callers count those.

Within each user, marks never go back: train, then val, then test. Whatever precedes a target in the user's
events is therefore its lawful history, and no training event comes after a held-out one.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipelines.schema import TEST, TRAIN, VAL, PreparedError
from pipelines.time_bounds import DAY

DROPPED = -1


def leave_last_out(user: np.ndarray, item: np.ndarray, *, min_items: int = 3) -> np.ndarray:
    """Hold out each user's last new item for testing and the new item before it for validation.

    An item is new where the user meets it first. Later repeats of a held-out item are held out with it;
    repeats of older items after a held-out one are dropped: they would show training what came later, as would the
    validation item's after the test item.

    Args:
        user: `[E]` user of each event; a user's events are contiguous and in order of time.
        item: `[E]` item of each event.
        min_items: users with fewer distinct items are not split (all of their events train); at least 3.

    Returns:
        `[E]` int8: TRAIN, VAL, TEST or DROPPED.

    Raises:
        PreparedError: `min_items` is below 3, which would leave a user nothing to train on.
    """
    if min_items < 3:
        raise PreparedError(f"--min-items is {min_items}; leave-last-out needs at least 3 (train, val and test)")
    if not len(user):
        return np.zeros(0, np.int8)
    pair = user.astype(np.int64) * (int(item.max()) + 1) + item
    is_new = ~pd.Series(pair).duplicated().to_numpy()
    met = np.cumsum(is_new)  # new items so far, over all users
    newest = item[is_new][met - 1]  # the user's most recent new item at each event
    starts = np.flatnonzero(np.diff(user, prepend=user[0] - 1))
    lengths = np.diff(starts, append=len(user))
    before = np.repeat(met[starts] - 1, lengths)  # new items of all earlier users
    distinct: np.ndarray = np.repeat(met[starts + lengths - 1], lengths) - before
    phase = np.maximum(met - before - distinct + 2, TRAIN)  # 1 from the last but one new item on, 2 from the last on
    phase = np.where(distinct >= min_items, phase, TRAIN)
    return np.where((phase > TRAIN) & (item != newest), DROPPED, phase).astype(np.int8)


@dataclass(frozen=True)
class TemporalWindow:
    """The days held out by a cut in time: `val_days` before `cutoff`, and `test_days` from it."""

    cutoff: datetime.date
    test_days: int
    val_days: int

    def mark(self, time: np.ndarray) -> np.ndarray:
        """Mark events by their time.

        Args:
            time: `[E]` seconds since 1970, UTC.

        Returns:
            `[E]` int8: TRAIN before the held-out days, VAL, TEST, and DROPPED after the test days.
        """
        cut = (self.cutoff - datetime.date(1970, 1, 1)).days * DAY
        edges = [cut - self.val_days * DAY, cut, cut + self.test_days * DAY]
        return np.array([TRAIN, VAL, TEST, DROPPED], np.int8)[np.searchsorted(edges, time, side="right")]


def temporal_window(
    first: int,
    last: int,
    *,
    cutoff: datetime.date | None = None,
    test_days: int = 7,
    val_days: int | None = None,
) -> TemporalWindow:
    """Choose the held-out days of a log.

    Args:
        first: time of the first event, seconds since 1970.
        last: time of the last event.
        cutoff: first day of the test; by default the last `test_days` of the log are tested.
        test_days: days tested, from the cutoff on.
        val_days: days before the cutoff for validation; by default as many as are tested, or a fifth of the
            days before the cutoff where that would leave less than half of them for training.

    Raises:
        PreparedError: no day would be left for training or for the test.
    """
    if test_days < 1:
        raise PreparedError(f"--test-days is {test_days}; test at least 1 day")
    first_day, last_day = (datetime.date(1970, 1, 1) + datetime.timedelta(days=int(t) // DAY) for t in (first, last))
    if cutoff is None:
        cutoff = last_day - datetime.timedelta(days=test_days - 1)
    days_before = (cutoff - first_day).days
    if val_days is None:
        val_days = test_days if 2 * test_days <= days_before else max(1, days_before // 5)
    if val_days < 0 or days_before <= val_days or cutoff > last_day:
        raise PreparedError(
            f"the purchases span {first_day} to {last_day}; testing {test_days} days (--test-days) from "
            f"{cutoff} (--cutoff) and validating on {val_days} days before it (--val-days) leaves no day to "
            "train or to test"
        )
    return TemporalWindow(cutoff, test_days, val_days)
