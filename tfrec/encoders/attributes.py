"""The attribute encoder: a table per field, and the mean of a field's values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfrec.attention import ResumableDropout
from tfrec.attribute_vocabulary import FIRST, MISSING


@tf.keras.utils.register_keras_serializable("tfrec")
class AttributeEncoder(tf.keras.layers.Layer):
    """Attribute ids to one token per field, or to one unit vector when used alone.

    The tables of all fields stand in one variable, one after the other: one gather instead of one per field.

    Args:
        sizes: Vocabulary size of each field, ids 0 (missing) and 1 (unknown) included.
        dim: Width of the tokens (D).
        alone: Return one L2-normalised vector per row instead of tokens: the fields' tokens end to end
            through a 2-layer MLP.
        hidden_dim: Hidden width of that MLP.
        output_dim: Width of the vector when used alone.
        dropout: Dropout rate on the MLP's hidden layer.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        dim: int,
        *,
        alone: bool = False,
        hidden_dim: int = 512,
        output_dim: int = 512,
        dropout: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if not sizes or min(sizes) < FIRST:
            raise ValueError(f"sizes={list(sizes)}: every field needs at least {FIRST} ids (missing and unknown).")
        self.sizes, self.dim = [int(size) for size in sizes], dim
        self.alone, self.hidden_dim, self.output_dim, self.dropout = alone, hidden_dim, output_dim, dropout
        self.offsets = np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int32)
        initializer = tf.keras.initializers.RandomNormal(stddev=dim**-0.5)
        self.table = tf.keras.layers.Embedding(
            sum(self.sizes), dim, embeddings_initializer=initializer, dtype=self.dtype_policy, name="table"
        )
        if alone:
            self.hidden = tf.keras.layers.Dense(hidden_dim, "gelu", dtype=self.dtype_policy, name="hidden")
            self.hidden_dropout = ResumableDropout(dropout, dtype=self.dtype_policy, name="hidden_dropout")
            self.output_dense = tf.keras.layers.Dense(output_dim, dtype=self.dtype_policy, name="output")

    def build(self, input_shape: tf.TensorShape) -> None:
        """Create the table and the layers of the MLP."""
        self.table.build(None)
        if self.alone:
            self.hidden.build((None, len(self.sizes) * self.dim))
            self.output_dense.build((None, self.hidden_dim))
        super().build(input_shape)

    def call(self, values: tf.Tensor, training: bool | None = None) -> tf.Tensor | tuple[tf.Tensor, tf.Tensor]:
        """Encode attribute values.

        Args:
            values: `[B, F, V]` int32; 0 stands for padding, a field of nothing but 0 is missing.
            training: Whether dropout applies.

        Returns:
            Tokens `[B, F, D]` and their mask `[B, F]`; a missing field has a token of its own and a false mask.
            With `alone`, one float32 unit vector `[B, output_dim]`.
        """
        present = tf.not_equal(values, MISSING)
        known = tf.reduce_any(present, axis=2)  # (B, F)
        rows = self.table(values + self.offsets[:, None])  # (B, F, V, D)
        # A missing field takes its own row 0, which is learned: zeros would look like data to the MLP.
        taken = tf.concat([present[..., :1] | ~known[..., None], present[..., 1:]], axis=2)
        weights = tf.cast(taken, rows.dtype)
        tokens = tf.einsum("bfvd,bfv->bfd", rows, weights) / tf.reduce_sum(weights, axis=2)[..., None]
        if not self.alone:
            return tokens, known
        flat = tf.reshape(tokens, [-1, len(self.sizes) * self.dim])
        hidden = self.hidden_dropout(self.hidden(flat), training=training)
        # The norm is taken in float32: half precision overflows or loses digits when squares are summed.
        return tf.math.l2_normalize(tf.cast(self.output_dense(hidden), tf.float32), axis=-1)

    def clear_absent(self, values: np.ndarray) -> None:
        """Let ids that none of the `values` int32 `[N, F, V]` of a whole catalogue has say nothing, in place of the noise
        that they start from: an unknown value, for example, where all of its values are known.
        """
        missing = (values == MISSING).all(2)
        taken = np.where(values == MISSING, -1, values + self.offsets[:, None])
        named = np.concatenate([taken[taken >= 0], np.broadcast_to(self.offsets, missing.shape)[missing]])
        read = np.bincount(named, minlength=sum(self.sizes)) > 0
        table = self.table.embeddings
        table.assign(table * read.astype(table.dtype.as_numpy_dtype)[:, None])

    def get_config(self) -> dict:
        """Return the arguments that rebuild the layer."""
        names = ("sizes", "dim", "alone", "hidden_dim", "output_dim", "dropout")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
