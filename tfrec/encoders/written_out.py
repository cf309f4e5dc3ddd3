"""Layer normalisation, GELU and attention with their gradients written out, for blocks that are trained.

Automatic gradients of their formulas pass over the largest arrays of a training step two to three times as often, and keep
more of them. Each function returns its value and, for `differentiable`, what carries the value's gradient back.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

Gradient = Callable[[tf.Tensor], Any]


def differentiable(
    function: Callable[..., tuple[tf.Tensor, Gradient]], training: bool, *inputs: tf.Tensor
) -> tf.Tensor:
    """The value of `function(*inputs)`, with its own gradient in training; exported graphs hold no custom gradients."""
    return tf.custom_gradient(function)(*inputs) if training else function(*inputs)[0]


def layer_norm(epsilon: float) -> Callable[..., tuple[tf.Tensor, Gradient]]:
    """Layer normalisation (Ba et al. 2016, https://arxiv.org/abs/1607.06450) of `[M, D]` by scale and offset `[D]`, in the
    type of its input, inside in float32."""

    def normalise(x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
        wide = tf.cast(x, tf.float32)
        centred = wide - tf.reduce_mean(wide, -1, keepdims=True)
        inverse = tf.math.rsqrt(tf.reduce_mean(tf.square(centred), -1, keepdims=True) + epsilon)
        unit = centred * inverse
        narrow = tf.cast(unit, x.dtype)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            of_scale = tf.reduce_sum(tf.cast(upstream * narrow, tf.float32), 0)
            of_offset = tf.reduce_sum(tf.cast(upstream, tf.float32), 0)
            of_unit = tf.cast(upstream * scale, tf.float32)
            along = tf.reduce_mean(of_unit * unit, -1, keepdims=True)
            of_x = inverse * (of_unit - tf.reduce_mean(of_unit, -1, keepdims=True) - unit * along)
            return tf.cast(of_x, x.dtype), tf.cast(of_scale, scale.dtype), tf.cast(of_offset, offset.dtype)

        return narrow * scale + offset, gradient

    return normalise


def gelu(x: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
    """GELU by the error function (Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415), inside in float32."""
    wide = tf.cast(x, tf.float32)
    below = 0.5 * (1.0 + tf.math.erf(wide * 0.5**0.5))  # the share of a normal distribution below x

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        density = tf.exp(-0.5 * tf.square(wide)) * 0.3989422804014327  # 1 / sqrt(2 pi)
        return tf.cast(tf.cast(upstream, tf.float32) * (below + wide * density), x.dtype)

    return tf.cast(wide * below, x.dtype), gradient


def attention(masks: tf.Tensor | None) -> Callable[..., tuple[tf.Tensor, Gradient]]:
    """Attention of queries, scaled before, to keys and values, all `[B, H, T, D]`.

    The softmax's gradient needs, of each row, the inner product of the weights and their gradient; it is that of the output
    and its gradient (Dao et al. 2022, https://arxiv.org/abs/2205.14135), which are far smaller.

    Args:
        masks: float32, to be added to scores `[B, H, T, T]`, or None.
    """

    def attend(query: tf.Tensor, key: tf.Tensor, value: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
        # The scores are as exact as their product is written; of float16 the masks would be infinite.
        inside = tf.float32 if query.dtype == tf.float16 else query.dtype
        scores = tf.cast(tf.matmul(query, key, transpose_b=True), inside)
        weights = tf.cast(tf.nn.softmax(scores if masks is None else scores + tf.cast(masks, inside)), query.dtype)
        mixed = tf.matmul(weights, value)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            along = tf.reduce_sum(tf.cast(upstream, tf.float32) * tf.cast(mixed, tf.float32), -1, keepdims=True)
            of_weights = tf.matmul(upstream, value, transpose_b=True)
            of_scores = weights * (of_weights - tf.cast(along, query.dtype))
            return (
                tf.matmul(of_scores, key),
                tf.matmul(of_scores, query, transpose_a=True),
                tf.matmul(weights, upstream, transpose_a=True),
            )

        return mixed, gradient

    return attend
