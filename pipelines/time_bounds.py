"""Which times a log of purchases may hold: one of the year 9999 would move a split by days beyond all the others."""

from __future__ import annotations

import time

import numpy as np

DAY = 86_400  # seconds
YEAR_10000 = 253_402_300_800  # seconds since 1970; calendars end before it
TOO_EARLY = "time is before 1970"  # the first day of 1970 with it: a zero or a missing time that was written as a date
TOO_LATE = "time lies in the future"


def is_too_early(seconds: np.ndarray) -> np.ndarray:
    """Whether times are of before the second day of 1970, `[n]` bool, given `[n]` seconds since 1970."""
    return seconds < DAY


def is_too_late(seconds: np.ndarray) -> np.ndarray:
    """Whether times are more than a day ahead, `[n]` bool: no place on earth is further ahead of UTC."""
    return seconds > time.time() + DAY


def dated(seconds: np.ndarray) -> bool:
    """Whether times `[n]` are seconds since 1970; else they are places in a sequence."""
    return bool(seconds.max(initial=0) >= DAY)
