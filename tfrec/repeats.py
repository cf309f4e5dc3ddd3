"""What a candidate gains or loses for having been bought before: learned by the time since, exact in every search.

Some things are bought again (socks), most are not (a coat), and a query vector cannot tell an item from its nearest
neighbours. So the score of item i for a customer is q . v_i plus, for every earlier purchase of i, a learned value of
the days since. It is the repeat part of repeat-aware recommenders (RepeatNet, Ren et al. 2019,
https://arxiv.org/abs/1812.02646), kept additive so that an index over the v_i still finds all other items: only the
customer's own purchases are scored anew.
"""

import tensorflow as tf

from tfrec.scores import LOWEST

BUCKETS = 10  # of days since the purchase: 0, 1-2, 3-6, 7-14, ..., 511 and more
SCALE = 10.0  # logits a unit of weight: the learning rate suits weights of about 0.1


class RepeatScores(tf.keras.layers.Layer):
    """A learned score for every earlier purchase, by the days since then."""

    def __init__(self, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.value = self.add_weight(name="value", shape=(BUCKETS,), initializer="zeros")

    def call(self, days):
        """Scores of purchases made `days` ago, float32 of any shape."""
        bucket = tf.math.log(tf.maximum(days, 0.0) + 1.0) / tf.math.log(2.0) + 1e-5  # whole days fall on the edges
        return SCALE * tf.gather(self.value, tf.minimum(tf.cast(bucket, tf.int32), BUCKETS - 1))


def add_to_logits(logits, scores, columns, inputs, examples):
    """Add the score of every purchase that an example has read to the logit of its item.

    Args:
        logits: `[P, C]`.
        scores: the layer.
        columns: candidate column of every item `[N]`; all items of the histories are candidates.
        inputs: `history` int32 `[B, T]` (-1 = none) and `gaps` float32 `[B, T]`, days from a purchase to the next.
        examples: row and place of each example int32 `[P, 2]`; (b, t) has read `history[b, :t]`.

    Returns:
        `[P, C]`.
    """
    history, row, place = inputs["history"], examples[:, 0], examples[:, 1]
    since_first = tf.cumsum(tf.pad(inputs["gaps"], [[0, 0], [1, 0]]), axis=1)  # days since the window's first purchase
    days = tf.gather_nd(since_first, examples)[:, None] - tf.gather(since_first[:, :-1], row)
    items = tf.gather(history, row)
    read = (tf.range(tf.shape(history)[1])[None] < place[:, None]) & (items >= 0)
    example = tf.cast(tf.where(read)[:, 0], tf.int32)
    column = tf.gather(columns, tf.boolean_mask(items, read))
    return tf.tensor_scatter_nd_add(logits, tf.stack([example, column], 1), scores(tf.boolean_mask(days, read)))


def rescore(found, own_rows, own_scores, k):
    """Merge what a search found with the customer's own purchases, whose scores are known apart.

    Args:
        found: scores and rows of what the search found, `[B, K]`, best first; with K >= k + L the result is exact.
        own_rows: the customer's purchases int32 `[B, L]`, -1 = none; an item may occur several times.
        own_scores: their whole scores `[B, L]`, equal for equal items.
        k: how many to keep.

    Returns:
        Scores and rows `[B, min(k, K + L)]`, best first.
    """
    scores, rows = found
    found_again = tf.reduce_any(rows[:, :, None] == own_rows[:, None, :], -1)
    scores = tf.where(found_again, LOWEST, scores)
    same = own_rows[:, :, None] == own_rows[:, None, :]
    length = tf.shape(own_rows)[1]
    earlier = tf.range(length)[:, None] < tf.range(length)[None]  # [i, j]: j comes after i
    repeated = tf.reduce_any(same & earlier, -1)
    own_scores = tf.where((own_rows >= 0) & ~repeated, own_scores, LOWEST)
    scores, rows = tf.concat([scores, own_scores], 1), tf.concat([rows, own_rows], 1)
    scores, order = tf.math.top_k(scores, tf.minimum(k, tf.shape(scores)[1]))
    return scores, tf.gather(rows, order, batch_dims=1)


def own_scores(queries, vectors, own_rows, bonus):
    """Whole scores of customers' own purchases: the inner product, and the bonus of every purchase of the item.

    Args:
        queries: `[B, D]`.
        vectors: candidate vectors `[N, D]`.
        own_rows: int32 `[B, L]`, -1 = none.
        bonus: learned score of each purchase `[B, L]`.

    Returns:
        `[B, L]`, equal for equal items.
    """
    same = tf.cast((own_rows[:, :, None] == own_rows[:, None, :]) & (own_rows >= 0)[:, None, :], tf.float32)
    products = tf.einsum("bd,bld->bl", queries, tf.gather(vectors, tf.maximum(own_rows, 0)))
    return products + tf.linalg.matvec(same, bonus)
