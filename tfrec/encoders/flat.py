"""A transformer encoder's blocks written flat: the same weights and outputs, for running over a whole catalogue.

Keras's attention projects query, key and value apart, by einsum, and its dense layers see tokens `[B, T, D]`. Here they are
one matrix `[B * T, D]` from the first block to the last: one product makes query, key and value, and the runtime can fuse
each product with its bias and activation. No dropout, no gradient: for frozen encoders.
"""

from typing import NamedTuple

import tensorflow as tf

from tfrec.encoders.activations import activation as activation_named
from tfrec.encoders.blocks import parts_of, projections_of
from tfrec.encoders.clip_text import ClipTextEncoder
from tfrec.encoders.image import ViTEncoder
from tfrec.encoders.text import BertEncoder

MASKED = -1e9


class FlatBlock(NamedTuple):
    """A block's weights as its products take them, in the compute type: tensors, or variables.

    Attributes:
        project: kernel `[D, 3 D]` and bias of query, key and value, the queries scaled by the root of their size.
        output: kernel `[D, D]` and bias behind the attention.
        widen, narrow: kernels and biases of the feed-forward part.
        attention_norm, feed_forward_norm: scale and offset of the layer norms.
        epsilon: of both.
    """

    project: tuple
    output: tuple
    widen: tuple
    narrow: tuple
    attention_norm: tuple
    feed_forward_norm: tuple
    epsilon: float


def flat_blocks(encoder: tf.keras.layers.Layer) -> list[FlatBlock]:
    """An encoder's blocks, read from its weights anew wherever they are used; none where it is no transformer."""
    if not isinstance(encoder, BertEncoder | ClipTextEncoder | ViTEncoder):
        return []
    return [flat_block(block, encoder.heads, encoder.compute_dtype) for block in encoder.blocks]


def held_blocks(encoder: tf.keras.layers.Layer) -> list[FlatBlock]:
    """`flat_blocks` as variables of their own: a pass over the catalogue need not cast every weight for every batch.

    Constants would not do: of products with these the runtime fuses fewer.
    """

    def held(value: tf.Tensor | float) -> tf.Variable | float:
        return tf.Variable(value, trainable=False) if tf.is_tensor(value) else value

    return [tf.nest.map_structure(held, block) for block in flat_blocks(encoder)]


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
    )


def flat_tokens(encoder: tf.keras.layers.Layer, inputs: tf.Tensor, blocks: list[FlatBlock] | None = None) -> tf.Tensor:
    """What `encoder(inputs)` gives, computed flat where the encoder is a transformer.

    Args:
        encoder: of `inputs`.
        inputs: what it reads.
        blocks: its `held_blocks`; its weights as they are where None.
    """
    blocks = flat_blocks(encoder) if blocks is None else blocks
    if isinstance(encoder, BertEncoder):
        tokens = encoder.token_embedding(inputs)
        tokens += encoder.position_embedding(tokens) + encoder.segment_embedding(tf.zeros([1, 1], tf.int32))
        return run_blocks(encoder, blocks, encoder.layer_norm(tokens), additive(over_heads(encoder.mask(inputs))))
    if isinstance(encoder, ClipTextEncoder):
        length = tf.shape(inputs)[1]
        seen = tf.linalg.band_part(tf.ones([length, length], tf.bool), -1, 0)[None, None]
        tokens = encoder.token_embedding(inputs)
        tokens += encoder.position_embedding(tokens)
        masks = additive(seen & over_heads(encoder.mask(inputs)))
        return encoder.layer_norm(run_blocks(encoder, blocks, tokens, masks))
    if isinstance(encoder, ViTEncoder):
        return encoder.layer_norm(run_blocks(encoder, blocks, encoder.embed(inputs), None))
    return encoder(inputs)


def over_heads(mask: tf.Tensor) -> tf.Tensor:
    """A mask `[B, T]` as `[B, 1, 1, T]`, by an op that TensorFlow Lite has for any B and T."""
    return tf.expand_dims(tf.expand_dims(mask, 1), 1)


def additive(mask: tf.Tensor) -> tf.Tensor:
    """A mask bool (True: counts) as what is added to attention scores."""
    return tf.where(mask, 0.0, MASKED)


def run_blocks(
    encoder: BertEncoder | ClipTextEncoder | ViTEncoder,
    blocks: list[FlatBlock],
    tokens: tf.Tensor,
    masks: tf.Tensor | None,
) -> tf.Tensor:
    """Tokens `[B, T, D]` through all blocks; `masks` float32, to be added to scores `[B, H, T, T]`, or None."""
    shape, dim = tf.shape(tokens), encoder.dim
    x = tf.reshape(tokens, [-1, dim])  # (B * T, D)
    pre_norm = not isinstance(encoder, BertEncoder)
    activate = activation_named(encoder.activation)
    for block in blocks:

        def attended(x: tf.Tensor, block: FlatBlock = block) -> tf.Tensor:
            return attend(block, x, shape, encoder.heads, masks)

        def expanded(x: tf.Tensor, block: FlatBlock = block) -> tf.Tensor:
            return dense(activate(dense(x, block.widen)), block.narrow)

        for inner, norm in ((attended, block.attention_norm), (expanded, block.feed_forward_norm)):
            x = x + inner(normed(x, norm, block.epsilon)) if pre_norm else normed(x + inner(x), norm, block.epsilon)
    return tf.reshape(x, shape)


def attend(block: FlatBlock, x: tf.Tensor, shape: tf.Tensor, heads: int, masks: tf.Tensor | None) -> tf.Tensor:
    """Self-attention of one block: `[B * T, D]` to the same, before the residual."""
    dim = x.shape[-1]
    projected = tf.reshape(dense(x, block.project), [shape[0], shape[1], 3, heads, dim // heads])
    query, key, value = tf.unstack(tf.transpose(projected, [2, 0, 3, 1, 4]))  # (B, H, T, D / H) each
    scores = tf.cast(tf.matmul(query, key, transpose_b=True), tf.float32)
    weights = tf.cast(tf.nn.softmax(scores if masks is None else scores + masks), x.dtype)
    return dense(tf.reshape(tf.transpose(tf.matmul(weights, value), [0, 2, 1, 3]), [-1, dim]), block.output)


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
