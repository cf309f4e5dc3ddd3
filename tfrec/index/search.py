"""Exact top-k by inner product over a whole catalogue, on all cores.

The scores of a chunk of queries are one matrix product. Finding the k best of 100,000 scores with a heap
costs about as much again, so the search looks at the maxima of small groups of neighbouring items first: the
k best items always lie in the k groups with the largest maxima, and only those are looked into. Equal scores
are ordered by item index.

Where the processor multiplies bfloat16, a large search is screened first (`tfrec.index.screen`): scores in bfloat16 rule out
nearly every item, and only what is left is scored in float32. The answer is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from pipelines.processor import cores, multiplies_bfloat16
from tfrec.csr import Csr

if TYPE_CHECKING:
    from tfrec.index.screen import Scores, Screen

GROUP = 64  # items whose maximum stands for them
TILE = 1024  # items multiplied at once: their scores are still in the cache when the maxima are taken
SCORE_BYTES = 1 << 30  # score matrices of all threads
MAX_QUERIES, MIN_QUERIES = 512, 16  # a chunk
SCREENED_QUERIES = 256  # a chunk of a screened search
SCREENED_WORK, SCREENED_K = 1e11, 1 / 16  # multiplications from which, and share of groups up to which, a screen pays
RESCORED = 8192  # candidates whose vectors are gathered at once

Progress = Callable[[int], object]
Bonus = tuple[Csr, np.ndarray]
MOST_FAILURES = 3  # chunks in a row of which a screen rules out too little, before it is given up


def exact_top_k(
    queries: np.ndarray,
    items: np.ndarray,
    k: int,
    *,
    exclude: Csr | None = None,
    bonus: Bonus | Callable[[int, int], Bonus | None] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    screen: bool | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k items with the largest inner product for every query.

    Args:
        queries: float `[U, D]`.
        items: float `[N, D]`, the candidate vectors.
        k: how many; a larger k than there are candidates leaves the rest of a row empty.
        exclude: `U` rows of items that must not be found; others take their place.
        bonus: `U` rows of items and a float32 value of each entry, added to the item's score; entries of one item add
            up. Or a function of `start, stop` that gives those of the queries in between, called by the threads for one
            chunk after another: of many queries they need never be held at once.
        threads: worker threads; all cores by default.
        progress: called with the number of queries finished, after every chunk.
        screen: rule items out in bfloat16 first; where it pays by default.

    Returns:
        Item indices int32 `[U, k]`, best first, -1 where there is no further candidate, and their scores
        float32 `[U, k]` (`-inf` there).

    Raises:
        ValueError: shapes that don't fit, k below 1, or vectors that hold NaN or infinity.
    """
    queries, items = _checked(queries, items, k, exclude)
    n_queries, n_items = len(queries), len(items)
    ids = np.full((n_queries, k), -1, np.int32)
    scores = np.full((n_queries, k), -np.inf, np.float32)
    if n_queries == 0 or n_items == 0:
        return ids, scores
    wanted = threads or cores()
    threads = min(wanted, max(1, SCORE_BYTES // (4 * n_items * MIN_QUERIES)))
    if screen is None:
        screen = (
            n_queries * n_items * queries.shape[1] >= SCREENED_WORK
            and k <= SCREENED_K * (n_items // GROUP)
            and multiplies_bfloat16()
        )
    most = SCREENED_QUERIES if screen else MAX_QUERIES
    chunk = int(np.clip(SCORE_BYTES // (4 * n_items * threads), MIN_QUERIES, most))
    chunk = min(chunk, -(-n_queries // threads))
    starts = range(0, n_queries, chunk)
    screened = _screen(items) if screen else None

    def work(worker: int) -> None:
        search = _Search(items, chunk, k, screened)
        for start in starts[worker::threads]:
            stop = min(start + chunk, n_queries)
            excluded = exclude.slice(start, stop) if exclude is not None else None
            added = bonus(start, stop) if callable(bonus) else bonus and _slice(*bonus, start, stop)
            ids[start:stop], scores[start:stop] = search.best(queries[start:stop], excluded, added)
            if progress is not None:
                progress(stop - start)

    # One BLAS thread each: every worker keeps its own tile in its own core's cache. More only where memory allows fewer.
    with threadpool_limits(limits=wanted // threads, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    return ids, scores


def _screen(items: np.ndarray) -> Screen:
    from tfrec.index.screen import Screen  # TensorFlow, which small searches do without

    return Screen(items)


class _Search:
    """What one thread searches with, chunk after chunk of queries.

    Args:
        items: `[N, D]`.
        chunk: the most queries at once.
        k: how many to find.
        screen: the items in bfloat16; None scores all of them in float32.
    """

    def __init__(self, items: np.ndarray, chunk: int, k: int, screen: Screen | None):
        self.items, self.chunk, self.k = items, chunk, k
        self._screened = screen.scores(chunk) if screen else None
        self._board: ScoreBoard | None = None
        self._failures = 0

    def best(self, queries: np.ndarray, exclude: Csr | None, bonus: Bonus | None) -> tuple[np.ndarray, np.ndarray]:
        """The k best of each of the `queries` `[B, D]`: item indices and scores `[B, k]`."""
        if self._screened is not None:
            found = self._best_of_screened(self._screened, queries, exclude, bonus)
            if found is not None:
                self._failures = 0
                return found
            self._failures += 1
            if self._failures == MOST_FAILURES:
                self._screened = None  # it is not one customer who excludes nearly all: the vectors' lengths differ
        if self._board is None:
            self._board = ScoreBoard(len(self.items), self.chunk, self.k)
        self._board.multiply(self.items, queries)
        if bonus is not None:
            self._board.add(*bonus)
        if exclude is not None:
            self._board.exclude(exclude)
        return self._board.best()

    def _best_of_screened(
        self, screened: Scores, queries: np.ndarray, exclude: Csr | None, bonus: Bonus | None
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """As `best`; items with a bonus are scored whatever the screen says of them. None where it rules out too few."""
        nothing = np.empty(0, np.int64)
        banned = (exclude.rows, exclude.items) if exclude is not None else (nothing, nothing)
        lifted = (bonus[0].rows, bonus[0].items) if bonus is not None else (nothing, nothing)
        hidden_rows, hidden_items = (np.concatenate(both) for both in zip(banned, lifted, strict=True))
        found = screened.candidates(queries, self.k, (hidden_rows, hidden_items))
        if found is None:
            return None
        rows, items = found
        scores = _inner(queries, rows, self.items, items)
        if bonus is not None:
            pairs, entry = np.unique(self._pair(*lifted), return_inverse=True)
            lifted_rows, lifted_items = np.divmod(pairs, len(self.items))
            lifted_scores = _inner(queries, lifted_rows, self.items, lifted_items)
            np.add.at(lifted_scores, entry, bonus[1])
            free = np.isin(pairs, self._pair(*banned), invert=True)
            rows = np.concatenate([rows, lifted_rows[free]])
            items = np.concatenate([items, lifted_items[free]])
            scores = np.concatenate([scores, lifted_scores[free]])
        return _best_of_each(rows, items, scores, len(queries), self.k)

    def _pair(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        return rows * len(self.items) + items


def _inner(left: np.ndarray, left_rows: np.ndarray, right: np.ndarray, right_rows: np.ndarray) -> np.ndarray:
    """float32 `[C]`: inner products of rows of two matrices."""
    products = np.empty(len(left_rows), np.float32)
    for start in range(0, len(products), RESCORED):
        part = slice(start, start + RESCORED)
        np.einsum("cd,cd->c", left[left_rows[part]], right[right_rows[part]], out=products[part])
    return products


class ScoreBoard:
    """Scores of every item for a chunk of queries, and the k best of each query.

    Args:
        n_items: size of the catalogue, `N`.
        chunk: the most queries held at once.
        k: how many to find.
    """

    def __init__(self, n_items: int, chunk: int, k: int):
        self.n_items, self.k = n_items, k
        self._k = min(k, n_items)
        self.group = int(np.clip(n_items // self._k, 1, GROUP))  # at least k groups
        self._n_groups = -(-n_items // self.group)
        self._store = np.empty(self._n_groups * self.group * chunk, np.float32)
        self._allot(chunk)

    def _allot(self, width: int) -> None:
        """Lay out the store for `width` queries; the last group is filled up with `-inf`."""
        rows = self._n_groups * self.group
        self.scores = self._store[: rows * width].reshape(rows, width)  # [N + padding, B]
        self.scores[self.n_items :] = -np.inf
        self._grouped = self.scores.reshape(self._n_groups, self.group, width)
        self._maxima = np.empty((self._n_groups, width), np.float32)

    def multiply(self, items: np.ndarray, queries: np.ndarray) -> None:
        """Fill with the inner products of `items` `[N, D]` and `queries` `[B, D]`."""
        if self.scores.shape[1] != len(queries):
            self._allot(len(queries))
        transposed = np.ascontiguousarray(queries.T)
        tile = TILE // self.group * self.group
        for start in range(0, self.n_items, tile):
            stop = min(start + tile, self.n_items)
            np.matmul(items[start:stop], transposed, out=self.scores[start:stop])
            self._update_maxima(start // self.group, -(-stop // self.group))

    def fill(self, scores: np.ndarray) -> None:
        """Fill with given scores `[N, B]`; `-inf` marks what is no candidate."""
        if self.scores.shape[1] != scores.shape[1]:
            self._allot(scores.shape[1])
        self.scores[: self.n_items] = scores
        self._update_maxima(0, self._n_groups)

    def _update_maxima(self, start: int, stop: int) -> None:
        np.maximum.reduce(self._grouped[start:stop], axis=1, out=self._maxima[start:stop])

    def exclude(self, excluded: Csr) -> None:
        """Remove the items of each query's row."""
        self.scores[excluded.items, excluded.rows] = -np.inf
        self._renew_maxima(excluded)

    def add(self, items: Csr, values: np.ndarray) -> None:
        """Add a value to the score of each entry's item."""
        np.add.at(self.scores, (items.items, items.rows), values)
        self._renew_maxima(items)

    def _renew_maxima(self, changed: Csr) -> None:
        # To gather the groups of so many would take as much memory as all scores.
        if len(changed.items) > self._maxima.size // 4:
            self._update_maxima(0, self._n_groups)
            return
        rows, groups = changed.rows, changed.items // self.group
        self._maxima[groups, rows] = self._grouped[groups, :, rows].max(axis=1)

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """Return item indices int32 `[B, k]` (-1 = none left) and scores float32 `[B, k]`, best first."""
        maxima = np.ascontiguousarray(self._maxima.T)  # [B, groups]
        cut = self._n_groups - self._k
        least = np.partition(maxima, cut, axis=1)[:, cut]  # the k-th largest: no better item lies below it
        chosen = _first_k_groups(maxima, least, self._k)
        query, group = np.nonzero(chosen)
        values = self._grouped[group, :, query]  # [chosen, group]
        place, within = np.nonzero((values >= least[query][:, None]) & (values > -np.inf))
        score, query, item = values[place, within], query[place], group[place] * self.group + within
        return _best_of_each(query, item, score, len(maxima), self.k)


def _slice(items: Csr, values: np.ndarray, start: int, stop: int) -> Bonus:
    return items.slice(start, stop), values[items.offsets[start] : items.offsets[stop]]


def _first_k_groups(maxima: np.ndarray, least: np.ndarray, k: int) -> np.ndarray:
    """bool `[B, groups]`: the k groups with the largest maxima; of equal ones those with the lowest index."""
    chosen = maxima >= least[:, None]
    crowded = np.flatnonzero(np.count_nonzero(chosen, axis=1) > k)
    if len(crowded):
        tied = maxima[crowded] == least[crowded, None]
        room = k - np.count_nonzero(chosen[crowded] & ~tied, axis=1)
        chosen[crowded] &= ~tied | (np.cumsum(tied, axis=1) <= room[:, None])
    return chosen


def _best_of_each(
    query: np.ndarray, item: np.ndarray, score: np.ndarray, n_queries: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sort candidates `[C]` by query, falling score, rising item; lay out the first k of each query."""
    order = np.lexsort((item, -score, query))
    query, item, score = query[order], item[order], score[order]
    rank = np.arange(len(query)) - np.searchsorted(query, query)
    kept = rank < k
    ids = np.full((n_queries, k), -1, np.int32)
    scores = np.full((n_queries, k), -np.inf, np.float32)
    ids[query[kept], rank[kept]] = item[kept]
    scores[query[kept], rank[kept]] = score[kept]
    return ids, scores


def _checked(queries: np.ndarray, items: np.ndarray, k: int, exclude: Csr | None) -> tuple[np.ndarray, np.ndarray]:
    """Return contiguous float32 matrices, or say what doesn't fit."""
    if k < 1:
        raise ValueError(f"k={k} must be at least 1")
    queries, items = np.ascontiguousarray(queries, np.float32), np.ascontiguousarray(items, np.float32)
    if queries.ndim != 2 or items.ndim != 2 or queries.shape[1] != items.shape[1]:
        raise ValueError(f"queries {queries.shape} and items {items.shape} must be [U, D] and [N, D] of one D")
    for name, vectors in (("queries", queries), ("items", items)):
        if not np.isfinite(vectors).all():
            row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
            raise ValueError(f"{name} holds NaN or infinity, first in row {row}; the model may have diverged")
    if exclude is not None and len(exclude) != len(queries):
        raise ValueError(f"exclude has {len(exclude)} rows for {len(queries)} queries; give one row a query")
    return queries, items
