"""Which items can be among the k best, told by scores in bfloat16 without losing one that is.

A processor with bfloat16 instructions multiplies matrices four times as fast in them as in float32. Such a score is wrong,
but never by more than a bound that follows from the vectors themselves: items that the bound rules out need no score of
full precision, and of 100,000 about 75 are left for the 50 best.

With q' and x' rounded, `|q'x' - qx| <= |q' - q| |x'| + |q| |x' - x|` (Cauchy and Schwarz); adding in float32 and rounding
the sum add what is standard for them (Higham 2002, Accuracy and Stability of Numerical Algorithms, chapters 2 and 3).
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

GROUP = 64  # items whose maximum stands for them
TILE = 2048  # items multiplied at once: their scores are still in the cache when the maxima are taken
UNIT = 2.0**-8  # the largest relative error of rounding to bfloat16
MINUS_INFINITY = -128  # bfloat16 read as int16
MOST_GROUPS = 1 / 8  # share of the groups looked into, above which nothing is gained


class Screen:
    """The catalogue in bfloat16. Threads may share it; each needs a `Scores` of its own.

    Args:
        items: finite float32 `[N, D]`.
    """

    def __init__(self, items: np.ndarray):
        self.n_items, self.dim = items.shape
        self.n_groups = -(-self.n_items // GROUP)
        self.tiles: list[tf.Tensor] = []
        lengths, errors = [], []
        for start in range(0, self.n_items, TILE):
            tile, rounded = _rounded(items[start : start + TILE])
            self.tiles.append(tile)
            lengths.append(_norms(rounded))
            errors.append(_norms(rounded - items[start : start + TILE]))
        self.length, self.error = self._largest(lengths), self._largest(errors)  # [groups]

    def scores(self, chunk: int) -> Scores:
        """Memory for the scores of up to `chunk` queries at once."""
        return Scores(self, chunk)

    def _largest(self, values: list[np.ndarray]) -> np.ndarray:
        padded = np.zeros(self.n_groups * GROUP, np.float32)
        padded[: self.n_items] = np.concatenate(values)
        return padded.reshape(self.n_groups, GROUP).max(1)

    def bounds(self, queries: np.ndarray, rounded: np.ndarray) -> np.ndarray:
        """How wrong a product is at most, before its sum is rounded: float32 `[groups, B]` for `queries` `[B, D]`."""
        length, error = _norms(queries), _norms(rounded - queries)
        added = self.dim * 2.0**-23 * np.outer(self.length, length)  # sums of D terms in float32
        return 1.001 * (np.outer(self.length, error) + np.outer(self.error, length) + added) + 1e-30


class Scores:
    """The bfloat16 scores of every item for a chunk of queries.

    Args:
        screen: the catalogue.
        chunk: the most queries held at once.
    """

    def __init__(self, screen: Screen, chunk: int):
        self.screen = screen
        self._store = np.empty(screen.n_groups * GROUP * chunk, np.int16)

    def candidates(
        self, queries: np.ndarray, k: int, hidden: tuple[np.ndarray, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Find a superset of the k best items of each query.

        Args:
            queries: finite float32 `[B, D]`.
            k: how many are to be among the candidates.
            hidden: int `[H]` rows of queries, and of items that are no candidates for them.

        Returns:
            Rows of the queries and of the items, int64 `[C]` each, in no order; or None where the bounds leave too many.
        """
        screen, width = self.screen, len(queries)
        if k > screen.n_groups:
            return None
        scores = self._store[: screen.n_groups * GROUP * width].reshape(-1, width)  # [N + padding, B]
        grouped = scores.reshape(screen.n_groups, GROUP, width)
        scores[screen.n_items :] = MINUS_INFINITY
        maxima = np.empty((screen.n_groups, width), np.int16)
        columns, rounded = _rounded(queries.T)
        for start, tile in zip(range(0, screen.n_items, TILE), screen.tiles, strict=True):
            with tf.device("CPU:0"):
                product = np.asarray(memoryview(tf.bitcast(tf.matmul(tile, columns), tf.int16)))
            scores[start : start + len(product)] = product
            groups = slice(start // GROUP, -(-(start + len(product)) // GROUP))
            maxima[groups] = _maxima(grouped[groups])
        row, item = hidden
        scores[item, row] = MINUS_INFINITY
        if len(item) > maxima.size // 4:  # to gather their groups would take as much memory as all scores
            for start in range(0, screen.n_groups, TILE // GROUP):
                groups = slice(start, start + TILE // GROUP)
                maxima[groups] = _maxima(grouped[groups])
        else:
            maxima[item // GROUP, row] = _maxima(grouped[item // GROUP, :, row])
        largest = _floats(maxima)
        bound = screen.bounds(queries, rounded.T)
        # The best item of a group is at least so good. (Kernels that truncate are right as well: they err to one side, by
        # no more than what is subtracted here and in `passing` together.)
        surely = largest - UNIT / (1 - UNIT) * np.abs(largest) - bound
        cut = screen.n_groups - k
        least = np.partition(np.ascontiguousarray(surely.T), cut, axis=1)[:, cut]  # none of the k best is worse
        if np.isnan(surely).any() or not (np.isfinite(least).all() and np.isfinite(bound).all()):
            return None  # products that overflow bound nothing
        rounding = least - bound  # [groups, B]
        passing = rounding - 1.001 * UNIT * np.abs(rounding)  # the bfloat16 score of an item as good is at least this
        group, query = np.nonzero(largest >= passing)  # by group: neighbours in memory
        if len(group) > MOST_GROUPS * largest.size:
            return None
        found, within = np.nonzero(_floats(grouped[group, :, query]) >= passing[group, query][:, None])
        return query[found], group[found] * GROUP + within


def _norms(vectors: np.ndarray) -> np.ndarray:
    """Lengths of vectors `[n, D]`, float32; their squares would overflow or vanish in it."""
    return np.linalg.norm(vectors.astype(np.float64), axis=1).astype(np.float32)


def _rounded(values: np.ndarray) -> tuple[tf.Tensor, np.ndarray]:
    """Values as bfloat16, and what they have become, as float32."""
    with tf.device("CPU:0"):
        rounded = tf.cast(tf.constant(np.ascontiguousarray(values)), tf.bfloat16)
        return rounded, tf.cast(rounded, tf.float32).numpy()


def _maxima(scores: np.ndarray) -> np.ndarray:
    """Largest of bfloat16 numbers along axis 1, all read as int16: among negative ones, the smaller integer is larger."""
    largest = np.maximum.reduce(scores, axis=1)
    if np.any(largest < 0):
        largest = np.where(largest < 0, np.minimum.reduce(scores, axis=1), largest)
    return largest


def _floats(scores: np.ndarray) -> np.ndarray:
    """bfloat16 numbers read as int16 -> float32."""
    return (scores.astype(np.int32) << 16).view(np.float32)
