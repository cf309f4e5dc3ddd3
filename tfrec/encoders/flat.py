"""A transformer encoder's blocks written flat: the same weights, outputs and gradients in less time.

Keras's attention projects query, key and value apart, by einsum, and its dense layers see tokens `[B, T, D]`. Here they are
one matrix `[B * T, D]` from the first block to the last, and one product makes query, key and value. Where an encoder runs
over a whole catalogue (`held_blocks`), the runtime can fuse each product with its bias and activation; where it is trained,
gradients are those of `written_out`. Blocks that Keras itself must run: with dropout in training, and with low-rank updates,
which would be lost in the rounding of a kernel that they are added to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import tensorflow as tf

from tfrec.encoders import written_out
from tfrec.encoders.activations import activation as activation_named
from tfrec.encoders.blocks import parts_of, projections_of
from tfrec.encoders.written_out import differentiable

if TYPE_CHECKING:
    from tfrec.encoders.clip_text import ClipTextEncoder
    from tfrec.encoders.image import ViTEncoder
    from tfrec.encoders.text import BertEncoder

    Transformer: TypeAlias = BertEncoder | ClipTextEncoder | ViTEncoder

MASKED = -1e9


class FlatBlock(NamedTuple):
    """A block's weights as its products take them, in the compute type: tensors, or variables.

    Attributes:
        project: kernel `[D, 3 D]` and bias of query, key and value, the queries scaled by the root of their size.
        output: kernel `[D, D]` and bias behind the attention.
        widen, narrow: kernels and biases of the feed-forward part.
        attention_norm, feed_forward_norm: scale and offset of the layer norms.
        epsilon: of both.
        norm_first: whether they stand before attention and feed-forward part, or behind the sums.
    """

    project: tuple
    output: tuple
    widen: tuple
    narrow: tuple
    attention_norm: tuple
    feed_forward_norm: tuple
    epsilon: float
    norm_first: bool


def runs_flat(encoder: Transformer, training: bool | None) -> bool:
    """Whether a transformer encoder's blocks, as they are now, can be written flat."""
    projections = [projections_of(parts_of(block).attention).values() for block in encoder.blocks]
    plain = all(hasattr(layer, "kernel") for layers in projections for layer in layers)  # low-rank ones have none
    return plain and not (training and encoder.dropout)


def flat_blocks(encoder: Transformer) -> list[FlatBlock]:
    """The blocks of a transformer encoder, read from its weights anew wherever they are used."""
    return [flat_block(block, encoder.heads, encoder.compute_dtype) for block in encoder.blocks]


def held_blocks(encoder: tf.keras.layers.Layer) -> list[FlatBlock]:
    """`flat_blocks` as variables of their own: a pass over the catalogue need not cast every weight for every batch. None
    where the encoder is no transformer.

    Constants would not do: of products with these the runtime fuses fewer.
    """

    def held(value: tf.Tensor | float) -> tf.Variable | float:
        return tf.Variable(value, trainable=False) if tf.is_tensor(value) else value

    return [tf.nest.map_structure(held, block) for block in flat_blocks(encoder)] if hasattr(encoder, "heads") else []


def flat_block(block: tf.keras.layers.Layer, heads: int, dtype: str) -> FlatBlock:
    """The weights of a KerasCV or KerasNLP block."""
    parts = parts_of(block)
    layers = projections_of(parts.attention)
    query, key, value = (layers[name] for name in ("query", "key", "value"))
    dim, scale = query.kernel.shape[0], (query.kernel.shape[0] // heads) ** -0.5
    kernels = [tf.reshape(layer.kernel, [dim, dim]) for layer in (query, key, value)]
    biases = [tf.reshape(layer.bias, [dim]) for layer in (query, key, value)]
    kernels[0], biases[0] = kernels[0] * scale, biases[0] * scale
    out, widen, narrow = layers["output"], parts.feed_forward_in, parts.feed_forward_out

    def cast(*weights: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return tuple(tf.cast(weight, dtype) for weight in weights)

    return FlatBlock(
        project=cast(tf.concat(kernels, 1), tf.concat(biases, 0)),
        output=cast(tf.reshape(out.kernel, [dim, dim]), out.bias),
        widen=cast(widen.kernel, widen.bias),
        narrow=cast(narrow.kernel, narrow.bias),
        attention_norm=cast(parts.attention_norm.gamma, parts.attention_norm.beta),
        feed_forward_norm=cast(parts.feed_forward_norm.gamma, parts.feed_forward_norm.beta),
        epsilon=parts.attention_norm.epsilon,
        norm_first=getattr(block, "normalize_first", True),  # KerasCV's always do
    )


def over_heads(mask: tf.Tensor) -> tf.Tensor:
    """A mask `[B, T]` as `[B, 1, 1, T]`, by an op that TensorFlow Lite has for any B and T."""
    return tf.expand_dims(tf.expand_dims(mask, 1), 1)


def additive(mask: tf.Tensor) -> tf.Tensor:
    """A mask bool (True: counts) as what is added to attention scores."""
    return tf.where(mask, 0.0, MASKED)


def run_blocks(
    encoder: Transformer,
    tokens: tf.Tensor,
    masks: tf.Tensor | None = None,
    *,
    training: bool | None = None,
    held: list[FlatBlock] | None = None,
) -> list[tf.Tensor]:
    """Tokens through all blocks of an encoder that `runs_flat`.

    Args:
        encoder: a transformer encoder, built.
        tokens: `[B, T, D]`.
        masks: float32, to be added to scores `[B, H, T, T]`, or None.
        training: whether gradients are taken.
        held: its `held_blocks`; its weights as they are where None.

    Returns:
        `[B, T, D]` after each block.
    """
    shape, dim, train = tf.shape(tokens), encoder.dim, bool(training)
    x, states = tf.reshape(tokens, [-1, dim]), []  # (B * T, D)
    for block in flat_blocks(encoder) if held is None else held:

        def norm(x: tf.Tensor, weights: tuple, block: FlatBlock = block) -> tf.Tensor:
            if held is not None:
                return normed(x, weights, block.epsilon)
            return differentiable(written_out.layer_norm(block.epsilon), train, x, *weights)

        def attended(x: tf.Tensor, block: FlatBlock = block) -> tf.Tensor:
            return attend(block, x, shape, encoder.heads, masks, train)

        def expanded(x: tf.Tensor, block: FlatBlock = block) -> tf.Tensor:
            return dense(activated(dense(x, block.widen), encoder.activation, train), block.narrow)

        for inner, weights in ((attended, block.attention_norm), (expanded, block.feed_forward_norm)):
            x = x + inner(norm(x, weights)) if block.norm_first else norm(x + inner(x), weights)
        states.append(tf.reshape(x, shape))
    return states


def attend(
    block: FlatBlock, x: tf.Tensor, shape: tf.Tensor, heads: int, masks: tf.Tensor | None, training: bool
) -> tf.Tensor:
    """Self-attention of one block: `[B * T, D]` to the same, before the residual."""
    dim = x.shape[-1]
    projected = tf.reshape(dense(x, block.project), [shape[0], shape[1], 3, heads, dim // heads])
    query, key, value = tf.unstack(tf.transpose(projected, [2, 0, 3, 1, 4]))  # (B, H, T, D / H) each
    mixed = differentiable(written_out.attention(masks), training, query, key, value)
    return dense(tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [-1, dim]), block.output)


def activated(x: tf.Tensor, name: str, training: bool) -> tf.Tensor:
    """An activation by name. Outside training it is the formula that the runtime knows to fuse."""
    return differentiable(written_out.gelu, True, x) if training and name == "gelu" else activation_named(name)(x)


def dense(x: tf.Tensor, weights: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    """`[M, D]` by the kernel `[D, E]`, plus the bias."""
    kernel, bias = weights
    return tf.nn.bias_add(tf.matmul(x, kernel), bias)


def normed(x: tf.Tensor, weights: tuple[tf.Tensor, tf.Tensor], epsilon: float) -> tf.Tensor:
    """Layer normalisation of `[M, D]` with its scale and offset, in the type of `x`, inside in float32.

    Rows as the channels of a batch normalisation, then scaled and shifted: of this form the runtime makes one op.
    """
    shape = tf.shape(x)
    rows = tf.reshape(x, tf.stack([1, shape[0], x.shape[1], 1]))
    ones, zeros = tf.fill([shape[0]], 1.0), tf.fill([shape[0]], 0.0)
    options = {"mean": [], "variance": [], "epsilon": epsilon, "data_format": "NCHW", "is_training": True}
    y = tf.raw_ops.FusedBatchNormV3(x=rows, scale=ones, offset=zeros, **options).y
    scale, offset = weights
    return tf.reshape(y, shape) * scale + offset
