"""Which items the same customers bought: sets of buyers as sparse matrices, and the cosines between them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from pipelines.processor import cores
from tfrec.csr import Csr

if TYPE_CHECKING:
    from scipy import sparse

PAIRS_AT_ONCE = 1 << 24  # of items bought by the same customers, in each thread: 200 MB


def latest_items(user: np.ndarray, item: np.ndarray, users: int, most: int) -> Csr:
    """The `most` distinct items that each of `users` customers bought last, from purchases `[E]` sorted by user, then time;
    an item bought again counts by its last purchase.
    """
    key = user.astype(np.int64) * (int(item.max(initial=0)) + 1) + item
    _, from_last = np.unique(key[::-1], return_index=True)
    last = np.sort(len(key) - 1 - from_last)
    bought = Csr.from_rows(user[last], item[last], users)
    from_end = bought.offsets[bought.rows + 1] - np.arange(len(bought.items))
    return bought.where(from_end <= most)


def indicator(rows: Csr, items: int) -> sparse.csr_array:
    """The rows as a sparse 0/1 matrix float32 `[R, N]`."""
    from scipy import sparse

    ones = np.ones(len(rows.items), np.float32)
    return sparse.csr_array((ones, rows.items, rows.offsets), shape=(len(rows), items))


def cosines(bought: sparse.csr_array, nearest: int) -> sparse.csr_array:
    """Cosines between items' sets of buyers, `[N, N]`; each row keeps its strongest `nearest`, itself left out.

    Args:
        bought: 0/1, what each customer bought `[R, N]` (`indicator`).
        nearest: bounds what is kept; what is made at a time is bounded by `PAIRS_AT_ONCE`.
    """
    from scipy import sparse

    if not bought.shape[1]:
        return sparse.csr_array((0, 0), dtype=np.float32)
    pairs = np.minimum(bought.T @ np.diff(bought.indptr).astype(np.float64), bought.shape[1])  # of each item, at most
    norm = np.sqrt(np.maximum(bought.sum(axis=0, dtype=np.float64), 1)).astype(np.float32)
    bought = (bought @ sparse.diags_array(1 / norm, dtype=np.float32)).tocsr()
    by_item = bought.T.tocsr()

    def chunk(items: tuple[int, int]) -> sparse.csr_array:
        start, stop = items
        block = by_item[start:stop] @ bought
        block.sort_indices()
        for row, (low, high) in enumerate(pairwise(block.indptr)):
            block.data[low:high][block.indices[low:high] == start + row] = 0  # itself
            keep_largest(block.data[low:high], nearest)
        block.eliminate_zeros()
        return block

    with ThreadPoolExecutor(cores()) as pool:
        return sparse.vstack(list(pool.map(chunk, ranges(pairs, PAIRS_AT_ONCE))), format="csr")


def ranges(sizes: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """Ranges `start` to `stop` of things of `sizes` `[N]` that are at most `most` together, or of one that is larger."""
    total, start = np.cumsum(sizes), 0
    while start < len(sizes):
        before = total[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total, most + before, side="right")))
        yield start, stop
        start = stop


def keep_largest(values: np.ndarray, n: int) -> None:
    """Set all but the n largest values `[C]` to 0 in place; of equal ones the first are kept."""
    if len(values) <= n:
        return
    least = np.partition(values, len(values) - n)[len(values) - n]
    tied = np.flatnonzero(values == least)
    room = n - np.count_nonzero(values > least)
    values[values < least] = 0
    values[tied[room:]] = 0
