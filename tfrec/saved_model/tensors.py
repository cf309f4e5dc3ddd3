"""Small steps that the parts of a served model share."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def lookup(keys: Sequence[str], name: str) -> tf.lookup.StaticHashTable:
    """A table from strings to their positions, -1 for any other."""
    names, rows = (list(keys), list(range(len(keys)))) if len(keys) else ([""], [-1])  # none may be empty
    initializer = tf.lookup.KeyValueTensorInitializer(names, rows, tf.string, tf.int32)
    return tf.lookup.StaticHashTable(initializer, default_value=-1, name=name)


def marked(rows: tf.Tensor, size: int) -> tf.Tensor:
    """Which of `size` rows are named by `rows` int32 `[M]`: bool `[size]`."""
    return tf.tensor_scatter_nd_update(tf.zeros([size], tf.bool), rows[:, None], tf.ones_like(rows, tf.bool))


def per_row(values: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
    """Spread one row over the batch; `[B, ...]` stays."""
    return tf.broadcast_to(values, tf.concat([[batch], tf.shape(values)[1:]], 0))
