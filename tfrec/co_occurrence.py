"""Which items the same customers bought: sets of buyers as sparse matrices, and the cosines between them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from tfrec.csr import Csr
from tfrec.processor import cores

if TYPE_CHECKING:
    from scipy import sparse

CHUNK_ITEMS = 2_048


def latest_items(user: np.ndarray, item: np.ndarray, users: int, most: int) -> Csr:
    """The latest `most` distinct items of each of `users` customers, from purchases `[E]` sorted by user, then time."""
    bought = Csr.from_rows(user, item, users).distinct()
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
        nearest: bounds the memory.
    """
    from scipy import sparse

    norm = np.sqrt(np.maximum(bought.sum(axis=0), 1)).astype(np.float32)
    bought = (bought @ sparse.diags_array(1 / norm, dtype=np.float32)).tocsr()
    by_item = bought.T.tocsr()

    def chunk(start: int) -> sparse.csr_array:
        block = by_item[start : start + CHUNK_ITEMS] @ bought
        block.sort_indices()
        for row, (low, high) in enumerate(pairwise(block.indptr)):
            block.data[low:high][block.indices[low:high] == start + row] = 0  # itself
            keep_largest(block.data[low:high], nearest)
        block.eliminate_zeros()
        return block

    with ThreadPoolExecutor(cores()) as pool:
        return sparse.vstack(list(pool.map(chunk, range(0, bought.shape[1], CHUNK_ITEMS))), format="csr")


def keep_largest(values: np.ndarray, n: int) -> None:
    """Set all but the n largest values `[C]` to 0 in place; of equal ones the first are kept."""
    if len(values) <= n:
        return
    least = np.partition(values, len(values) - n)[len(values) - n]
    tied = np.flatnonzero(values == least)
    room = n - np.count_nonzero(values > least)
    values[values < least] = 0
    values[tied[room:]] = 0
