"""What a candidate gains or loses for having been bought before, it or a variant of it: exact in every search.

Some things are bought again (socks), most are not (a coat), and some in a second colour; a query vector cannot tell an
item from its nearest neighbours. So the score of item i for a customer is q . v_i plus, for every earlier purchase of i,
a learned value of the days since, and for every purchase of any item of its product a fixed one that is never
negative. It is the repeat part of repeat-aware recommenders (RepeatNet, Ren et al. 2019,
https://arxiv.org/abs/1812.02646), kept additive so that an index over the v_i still finds all other items: only the
customer's own purchases and their variants are scored anew.
"""

from typing import Any

import tensorflow as tf

from pipelines.batches import Batch
from tfrec.chunks import in_chunks
from tfrec.evaluation.scores import LOWEST

BUCKETS = 10  # of days since the purchase: 0, 1-2, 3-6, 7-14, ..., 511 and more
DENSER = 16  # items whose products take as long as gathering one item's vector, at least
SCALE = 10.0  # logits a unit of weight: the learning rate suits weights of about 0.1


class RepeatScores(tf.keras.layers.Layer):
    """A learned score for every earlier purchase, by the days since then, and what corrects it after the training
    (`tfrec.retrieval.calibration`)."""

    def __init__(self, **kwargs: Any):
        super().__init__(dtype="float32", **kwargs)
        self.value = self.add_weight(name="value", shape=(BUCKETS,), initializer="zeros")
        self.correction = self.add_weight(name="correction", shape=(BUCKETS,), initializer="zeros", trainable=False)

    def call(self, days: tf.Tensor) -> tf.Tensor:
        """Scores of purchases made `days` ago, float32 of any shape."""
        return tf.gather(SCALE * self.value + self.correction, buckets_of(days))


def buckets_of(days: tf.Tensor) -> tf.Tensor:
    """The bucket of each number of days, int32 of any shape: 0 of less than one day, 1 of less than three, ..."""
    bucket = tf.math.log(tf.maximum(days, 0.0) + 1.0) / tf.math.log(2.0) + 1e-5  # whole days fall on the edges
    place = tf.cast(tf.minimum(bucket, BUCKETS - 1.0), tf.int32)  # infinity would become the least integer
    return tf.maximum(place, 0)  # as NaN does


def scores_of_purchases(
    scores: RepeatScores, columns: tf.Tensor, inputs: Batch, examples: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The score of every purchase that an example has read, and whose logit it is added to.

    Args:
        scores: the layer.
        columns: candidate column of every item `[N]`; all items of the histories are candidates.
        inputs: `history` int32 `[B, T]` (-1 = none) and `gaps` float32 `[B, T]`, days from a purchase to the next.
        examples: row and place of each example int32 `[P, 2]`; (b, t) has read `history[b, :t]`.

    Returns:
        Places int32 `[M, 2]`, example and candidate, and scores `[M]`; what was bought twice is there twice.
    """
    history, row, place = inputs["history"], examples[:, 0], examples[:, 1]
    since_first = tf.cumsum(tf.pad(inputs["gaps"], [[0, 0], [1, 0]]), axis=1)  # days since the window's first purchase
    days = tf.gather_nd(since_first, examples)[:, None] - tf.gather(since_first[:, :-1], row)
    items = tf.gather(history, row)
    read = (tf.range(tf.shape(history)[1])[None] < place[:, None]) & (items >= 0)
    example = tf.cast(tf.where(read)[:, 0], tf.int32)
    column = tf.gather(columns, tf.boolean_mask(items, read))
    return tf.stack([example, column], 1), scores(tf.boolean_mask(days, read))


def totals(rows: tf.Tensor, bonus: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """What each item gains in all: one entry an item, however often it occurs.

    Args:
        rows: item rows int32 `[B, W]`, -1 = none.
        bonus: float32 `[B, W]`.

    Returns:
        Distinct rows int32 `[B, M]`, -1 behind them, and the sum of each one's entries `[B, M]`; M is the largest number of
        distinct items of a row.
    """
    order = tf.argsort(rows, axis=1, direction="DESCENDING", stable=True)
    rows, bonus = tf.gather(rows, order, batch_dims=1), tf.gather(bonus, order, batch_dims=1)
    batch, width = tf.unstack(tf.shape(rows))
    starts = tf.concat([tf.zeros_like(rows[:, :1]), tf.cast(rows[:, 1:] != rows[:, :-1], tf.int32)], 1)
    place = tf.cumsum(starts, axis=1) + tf.range(batch)[:, None] * width
    distinct = tf.maximum(tf.math.unsorted_segment_max(rows, place, batch * width), -1)
    summed = tf.math.unsorted_segment_sum(bonus, place, batch * width)
    distinct, summed = tf.reshape(distinct, [batch, width]), tf.reshape(summed, [batch, width])
    # Most places of a history are padding and most items have few neighbours: what is behind all rows would cost the most.
    most = tf.maximum(tf.reduce_max(tf.reduce_sum(tf.cast(distinct >= 0, tf.int32), 1)), 0)
    return distinct[:, :most], summed[:, :most]


def whole_scores(queries: tf.Tensor, vectors: tf.Tensor, rows: tf.Tensor, bonus: tf.Tensor) -> tf.Tensor:
    """Inner product and bonus of items that are scored apart.

    Args:
        queries: `[B, D]`.
        vectors: candidate vectors `[N, D]`.
        rows: int32 `[B, W]`, -1 = none.
        bonus: `[B, W]`.

    Returns:
        `[B, W]`.
    """
    at, (batch, width) = tf.maximum(rows, 0), tf.unstack(tf.shape(rows))
    dense = tf.shape(vectors)[0] <= DENSER * width

    def products(part: slice) -> tuple[tf.Tensor]:
        some = queries[part]
        found = tf.cond(
            dense,
            lambda: tf.gather(tf.matmul(some, vectors, transpose_b=True), at[part], batch_dims=1),
            lambda: tf.einsum("bd,bwd->bw", some, tf.gather(vectors, at[part])),
        )
        return (found,)

    floats = width * max(vectors.shape[1], DENSER)
    return in_chunks(products, batch, floats, (tf.zeros([0, width]),))[0] + bonus


def among(rows: tf.Tensor, listed: tf.Tensor) -> tf.Tensor:
    """Which of `rows` int32 `[B, K]` stand in the same row of `listed` int32 `[B, W]`, in any order: bool `[B, K]`.

    -1 counts as listed.
    """
    listed = tf.sort(tf.pad(listed, [[0, 0], [0, 1]], constant_values=-1), axis=1)
    place = tf.minimum(tf.searchsorted(listed, rows), tf.shape(listed)[1] - 1)
    return tf.gather(listed, place, batch_dims=1) == rows


def rescore(
    found: tuple[tf.Tensor, tf.Tensor], own_rows: tf.Tensor, own_scores: tf.Tensor, k: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Merge what a search found with items whose scores are known apart.

    Args:
        found: scores and rows of what the search found, `[B, K]`, best first. The result is exact with K >= k + L, where
            at most L items of a row may have lost by being scored apart.
        own_rows: distinct items that are scored apart int32 `[B, W]`, -1 = none.
        own_scores: their whole scores `[B, W]`.
        k: how many to keep.

    Returns:
        Scores and rows `[B, min(k, K + W)]`, best first.
    """
    scores, rows = found
    scores = tf.where(among(rows, own_rows), LOWEST, scores)
    own_scores = tf.where(own_rows >= 0, own_scores, LOWEST)
    scores, rows = tf.concat([scores, own_scores], 1), tf.concat([rows, own_rows], 1)
    scores, order = tf.math.top_k(scores, tf.minimum(k, tf.shape(scores)[1]))
    return scores, tf.gather(rows, order, batch_dims=1)
