"""Customers' last purchases as the query tower reads them."""

from __future__ import annotations

import numpy as np

from pipelines.time_bounds import DAY


def last_purchases(
    items: np.ndarray, times: np.ndarray, offsets: np.ndarray, *, length: int, now: np.ndarray | int
) -> tuple[np.ndarray, np.ndarray]:
    """The last purchases of each customer, right-aligned.

    Args:
        items: int32 `[n]` item rows, each customer's together, oldest first.
        times: int64 `[n]` seconds.
        offsets: `[U + 1]` where each customer's purchases start.
        length: purchases kept T.
        now: the moment of the query in seconds, one or `[U]`.

    Returns:
        Item rows int32 `[U, T]`, -1 padded on the left, and days from each purchase to `now` float32 `[U, T]`
        (0 where padded or in the future).
    """
    place = offsets[1:, None] - np.arange(length, 0, -1)
    inside = place >= offsets[:-1, None]
    if not len(items):
        return np.full(place.shape, -1, np.int32), np.zeros(place.shape, np.float32)
    place = np.where(inside, place, 0)
    days = (np.reshape(now, (-1, 1)) - times[place]) / DAY
    return (
        np.where(inside, items[place], -1).astype(np.int32),
        np.where(inside, np.maximum(days, 0), 0).astype(np.float32),
    )


def unpadded(history: np.ndarray) -> slice:
    """The columns of histories int32 `[U, T]`, padded on the left with -1, in which any of them has a purchase."""
    read = (history >= 0).any(0)
    return slice(int(read.argmax()) if read.any() else history.shape[1], None)


def to_gaps(days_ago: np.ndarray) -> np.ndarray:
    """Days from each purchase to the next one, the last one's to now: float32 `[U, T]` from days ago `[U, T]`."""
    following = np.concatenate([days_ago[:, 1:], np.zeros_like(days_ago[:, :1])], 1)
    return np.maximum(days_ago - following, 0).astype(np.float32)
