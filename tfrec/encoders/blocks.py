"""The parts of a transformer block under one set of names, whichever library the block is from.

The published-weight tables, low-rank adaptation and everything else that reaches into a block goes through
here, so that the libraries' attribute names stand in one place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import tensorflow as tf

if TYPE_CHECKING:
    from tfrec.encoders.clip_text import ClipTextEncoder
    from tfrec.encoders.text import BertEncoder


class BlockParts(NamedTuple):
    """A transformer block's layers: a Keras MultiHeadAttention, two LayerNormalization, two Dense."""

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


def named_variables(encoder: tf.keras.layers.Layer) -> dict[str, tf.Variable]:
    """Return all variables of a built transformer encoder by names such as `block.3.query.kernel`."""
    named: dict[str, tf.Variable] = {}
    for name in ("token_embedding", "position_embedding", "segment_embedding"):
        if hasattr(encoder, name):
            (named[name],) = getattr(encoder, name).weights
    if getattr(encoder, "convolutions", None) is not None:
        for convolution, norm in encoder.convolutions.layers:
            named.update(_of_layer(f"stem.{convolution.name}", convolution) | _of_layer(f"stem.{norm.name}", norm))
    if hasattr(encoder, "embedding"):  # KerasCV's patch embedding
        named["class_token"] = encoder.embedding.class_token
        (named["position_embedding"],) = encoder.embedding.position_embedding.weights
        named.update(_of_layer("patch", encoder.embedding.projection))
    for name in ("pre_layer_norm", "layer_norm", "projection"):
        if getattr(encoder, name, None) is not None:
            named.update(_of_layer(name, getattr(encoder, name)))
    for number, block in enumerate(encoder.blocks):
        parts = parts_of(block)
        layers = {**parts._asdict(), **projections_of(parts.attention)}
        del layers["attention"]
        for name, layer in layers.items():
            named.update(_of_layer(f"block.{number}.{name}", layer))
    if len(named) != len(encoder.weights):
        raise ValueError(
            f"{encoder.name} has {len(encoder.weights)} variables, {len(named)} have names: build it first."
        )
    return named


def _of_layer(name: str, layer: tf.keras.layers.Layer) -> dict[str, tf.Variable]:
    """Return a layer's variables as `name.kernel`, `name.bias`, `name.gamma`, `name.beta`."""
    return {f"{name}.{variable.name.split('/')[-1].removesuffix(':0')}": variable for variable in layer.weights}


def build_block(block: tf.keras.layers.Layer, dim: int) -> None:
    """Create all weights of a block for tokens of width `dim`; by itself it waits for its first call."""
    with tf.name_scope(block.name):
        _build_parts(block, tf.TensorShape([None, None, dim]))


def _build_parts(block: tf.keras.layers.Layer, tokens: tf.TensorShape) -> None:
    """Create the weights of a block's parts for tokens `[B, T, D]`."""
    if not block.built:
        block.build(tokens)
    parts = parts_of(block)
    if not hasattr(parts.attention, "_query_dense"):
        parts.attention._build_from_signature(query=tokens, value=tokens)
    projections = projections_of(parts.attention)
    heads = tf.TensorShape([None, None, parts.attention._num_heads, parts.attention._key_dim])
    shapes = [(layer, heads if name == "output" else tokens) for name, layer in projections.items()]
    shapes += [(layer, tokens) for layer in (parts.attention_norm, parts.feed_forward_norm, parts.feed_forward_in)]
    shapes += [(parts.feed_forward_out, tf.TensorShape([None, None, parts.feed_forward_in.units]))]
    for layer, shape in shapes:
        build(layer, shape)


def build(layer: tf.keras.layers.Layer, shape: Sequence[int | None] | tf.TensorShape | None) -> None:
    """Create a layer's weights under its name, as its first call would."""
    if not layer.built:
        with tf.name_scope(layer.name):
            layer.build(shape)
        layer.built = True


def text_mask(encoder: BertEncoder | ClipTextEncoder, ids: tf.Tensor, pad_id: int) -> tf.Tensor:
    """Which ids `[B, T]` count: those of the encoder's mask, and none where a row is all padding."""
    return encoder.mask(ids) & tf.reduce_any(tf.not_equal(ids, pad_id), 1, keepdims=True)


def bert_initializer() -> tf.keras.initializers.Initializer:
    """Return BERT's initializer, a new one each time: one shared without a seed would repeat its values."""
    return tf.keras.initializers.TruncatedNormal(stddev=0.02)
