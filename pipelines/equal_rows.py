"""Rows of columns that are equal to earlier ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def repeated(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Which rows of `columns` `[n]` each are equal in all of them to an earlier row, bool `[n]`."""
    order = np.lexsort(columns)  # stable: of equal rows the first stays first
    same = np.ones(max(len(order) - 1, 0), bool)
    for column in columns:
        same &= column[order][1:] == column[order][:-1]
    again = np.zeros(len(order), bool)
    again[order[1:][same]] = True
    return again
