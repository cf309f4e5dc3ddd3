"""The parts of a transformer block under one set of names, whichever library the block is from.

The published-weight tables, low-rank adaptation and everything else that reaches into a block goes through here, so
that the libraries' attribute names stand in one place.
"""

from typing import NamedTuple

import tensorflow as tf


class BlockParts(NamedTuple):
    """A transformer block's layers: `attention` is a Keras MultiHeadAttention, the others Dense and LayerNormalization."""

    attention_norm: tf.keras.layers.Layer
    attention: tf.keras.layers.Layer
    feed_forward_norm: tf.keras.layers.Layer
    feed_forward_in: tf.keras.layers.Layer
    feed_forward_out: tf.keras.layers.Layer


def parts_of(block: tf.keras.layers.Layer) -> BlockParts:
    """Return the parts of a KerasCV or KerasNLP `TransformerEncoder`."""
    if hasattr(block, "attn"):  # KerasCV
        return BlockParts(block.layer_norm1, block.attn, block.layer_norm2, block.dense1, block.dense2)
    return BlockParts(
        block._self_attention_layer_norm,
        block._self_attention_layer,
        block._feedforward_layer_norm,
        block._feedforward_intermediate_dense,
        block._feedforward_output_dense,
    )


def projections_of(attention: tf.keras.layers.Layer) -> dict[str, tf.keras.layers.Layer]:
    """Return the projections of a built MultiHeadAttention: query, key, value and output.

    The first three have kernels `[D, heads, D/heads]`, the last one `[heads, D/heads, D]`.
    """
    return {
        "query": attention._query_dense,
        "key": attention._key_dense,
        "value": attention._value_dense,
        "output": attention._output_dense,
    }
