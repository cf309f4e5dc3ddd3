"""Rows of columns that are equal to earlier ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def repeated(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Which rows of `columns` `[n]` each are equal in all of them to an earlier row, bool `[n]`."""
    keys = packed(columns)
    order = np.lexsort(keys)  # stable: of equal rows the first stays first
    same = np.ones(max(len(order) - 1, 0), bool)
    for key in keys:
        ordered = key[order]
        same &= ordered[1:] == ordered[:-1]
    again = np.zeros(len(order), bool)
    again[order[1:][same]] = True
    return again


def packed(columns: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The columns as one of int64 that is equal, and in order, where they are, the last one first; themselves where they
    are no whole numbers, or their ranges do not fit into 63 bits. One column is sorted ten times as fast as three.
    """
    if not len(columns[0]) or any(column.dtype.kind not in "iu" for column in columns):
        return list(columns)
    lows = [int(column.min()) for column in columns]
    spans = [int(column.max()) - low + 1 for column, low in zip(columns, lows, strict=True)]
    size = 1
    for span in spans:
        size *= span
    if size > np.iinfo(np.int64).max:
        return list(columns)
    key = np.zeros(len(columns[0]), np.int64)
    for column, low, span in reversed(list(zip(columns, lows, spans, strict=True))):
        key *= span
        key += column
        key -= low
    return [key]
