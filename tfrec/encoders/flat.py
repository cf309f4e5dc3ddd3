"""A transformer encoder's blocks written flat: the same weights and outputs, for running over a whole catalogue.

Keras's attention projects query, key and value apart, by einsum, and its dense layers see tokens `[B, T, D]`. Here they are
one matrix `[B * T, D]` from the first block to the last: one product makes query, key and value, and the runtime can fuse
each product with its bias and activation. No dropout, no gradient: for frozen encoders.
"""

import tensorflow as tf

from tfrec.encoders.activations import activation as activation_named
from tfrec.encoders.blocks import parts_of, projections_of
from tfrec.encoders.clip_text import ClipTextEncoder
from tfrec.encoders.image import ViTEncoder
from tfrec.encoders.text import BertEncoder

MASKED = -1e9


def flat_tokens(encoder, inputs) -> tf.Tensor:
    """What `encoder(inputs)` gives, computed flat where the encoder is a transformer."""
    if isinstance(encoder, BertEncoder):
        tokens = encoder.token_embedding(inputs)
        tokens += encoder.position_embedding(tokens) + encoder.segment_embedding(tf.zeros([1, 1], tf.int32))
        return run_blocks(encoder, encoder.layer_norm(tokens), additive(over_heads(encoder.mask(inputs))))
    if isinstance(encoder, ClipTextEncoder):
        length = tf.shape(inputs)[1]
        seen = tf.linalg.band_part(tf.ones([length, length], tf.bool), -1, 0)[None, None]
        tokens = encoder.token_embedding(inputs)
        tokens += encoder.position_embedding(tokens)
        masks = additive(seen & over_heads(encoder.mask(inputs)))
        return encoder.layer_norm(run_blocks(encoder, tokens, masks))
    if isinstance(encoder, ViTEncoder):
        return encoder.layer_norm(run_blocks(encoder, encoder.embed(inputs), None))
    return encoder(inputs)


def over_heads(mask) -> tf.Tensor:
    """A mask `[B, T]` as `[B, 1, 1, T]`, by an op that TensorFlow Lite has for any B and T."""
    return tf.expand_dims(tf.expand_dims(mask, 1), 1)


def additive(mask) -> tf.Tensor:
    """A mask bool (True: counts) as what is added to attention scores."""
    return tf.where(mask, 0.0, MASKED)


def run_blocks(encoder, tokens, masks) -> tf.Tensor:
    """Tokens `[B, T, D]` through all blocks; `masks` float32, to be added to scores `[B, H, T, T]`, or None."""
    shape, dim = tf.shape(tokens), encoder.dim
    x = tf.reshape(tokens, [-1, dim])  # (B * T, D)
    pre_norm = not isinstance(encoder, BertEncoder)
    activate = activation_named(encoder.activation)
    for block in encoder.blocks:
        parts = parts_of(block)

        def attended(x, parts=parts):
            return attend(parts.attention, x, shape, encoder.heads, masks)

        def expanded(x, parts=parts):
            hidden = activate(dense(x, parts.feed_forward_in.kernel, parts.feed_forward_in.bias))
            return dense(hidden, parts.feed_forward_out.kernel, parts.feed_forward_out.bias)

        for inner, norm in ((attended, parts.attention_norm), (expanded, parts.feed_forward_norm)):
            x = x + inner(normed(x, norm)) if pre_norm else normed(x + inner(x), norm)
    return tf.reshape(x, shape)


def attend(attention, x, shape, heads: int, masks) -> tf.Tensor:
    """Self-attention of one block: `[B * T, D]` to the same, before the residual."""
    layers, dim = projections_of(attention), x.shape[-1]
    inputs = [layers[name] for name in ("query", "key", "value")]
    kernel = tf.concat([tf.reshape(layer.kernel, [dim, dim]) for layer in inputs], 1)
    bias = tf.concat([tf.reshape(layer.bias, [dim]) for layer in inputs], 0)
    projected = tf.reshape(dense(x, kernel, bias), [shape[0], shape[1], 3, heads, dim // heads])
    query, key, value = tf.unstack(tf.transpose(projected, [2, 0, 3, 1, 4]))  # (B, H, T, D / H) each
    scores = tf.matmul(query * tf.cast((dim // heads) ** -0.5, x.dtype), key, transpose_b=True)
    scores = tf.cast(scores, tf.float32)
    weights = tf.cast(tf.nn.softmax(scores if masks is None else scores + masks), x.dtype)
    mixed = tf.reshape(tf.transpose(tf.matmul(weights, value), [0, 2, 1, 3]), [-1, dim])
    out = layers["output"]
    return dense(mixed, tf.reshape(out.kernel, [dim, dim]), out.bias)


def dense(x, kernel, bias) -> tf.Tensor:
    """`[M, D]` by `[D, E]`, plus a bias, in the type of `x`."""
    return tf.nn.bias_add(tf.matmul(x, tf.cast(kernel, x.dtype)), tf.cast(bias, x.dtype))


def normed(x, norm) -> tf.Tensor:
    """Layer normalisation of `[M, D]`, in the type of `x`, inside in float32.

    Rows as the channels of a batch normalisation, then scaled and shifted: of this form the runtime makes one op.
    """
    shape = tf.shape(x)
    ones, zeros = tf.fill([shape[0]], 1.0), tf.fill([shape[0]], 0.0)
    rows = tf.reshape(x, tf.stack([1, shape[0], x.shape[1], 1]))
    of_rows = {"scale": ones, "offset": zeros, "mean": [], "variance": [], "epsilon": norm.epsilon}
    y = tf.raw_ops.FusedBatchNormV3(x=rows, **of_rows, data_format="NCHW", is_training=True).y
    return tf.reshape(y, shape) * tf.cast(norm.gamma, x.dtype) + tf.cast(norm.beta, x.dtype)
