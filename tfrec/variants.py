"""Which items are variants of one product: the same garment in another colour or print."""

from __future__ import annotations

import numpy as np
import pandas as pd

MOST = 15  # variants of an item that are looked at; H&M's products have 2.2 items on average


def variant_table(groups: pd.Series, sales: np.ndarray, most: int = MOST) -> np.ndarray:
    """The other items of each item's product, the best-selling first.

    Args:
        groups: product of each of `N` items; "" or missing where it has none.
        sales: of each item `[N]`.
        most: how many are kept.

    Returns:
        Item rows int32 `[N, S]`, -1 = none; S is at most `most`, and 0 where no product has two items.
    """
    known = np.flatnonzero((groups.notna() & (groups != "")).to_numpy())
    codes = pd.factorize(groups.iloc[known])[0]
    order = np.lexsort((known, -np.asarray(sales)[known], codes))
    rows, codes = known[order], codes[order]
    counts = np.bincount(codes)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    place = np.arange(len(rows)) - first
    width = int(np.clip(counts.max(initial=1) - 1, 0, most))
    table = np.full((len(groups), width), -1, np.int32)
    for nth in range(width):
        other = nth + (place <= nth)  # the nth other item of a product: its own place is passed over
        there = other < counts[codes]
        table[rows[there], nth] = rows[first[there] + other[there]]
    return table
