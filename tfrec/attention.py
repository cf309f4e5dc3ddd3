"""The attention bricks that the fusion and the history decoder are built from.

Written out instead of taken from `tf.keras.layers.MultiHeadAttention`: one matmul makes query, key and value, the softmax
stays in float32 under mixed precision, and the scores can be read back to explain a recommendation.
"""

import math
import random
from typing import Any

import tensorflow as tf

from tfrec.distributed.workers import worker_number

MASKED = -1e9


class ResumableDropout(tf.keras.layers.Layer):
    """Dropout whose random state is in the checkpoint, so that a resumed training draws what it would have drawn.

    Keras's own layer keeps its generator out of checkpoints.

    Args:
        rate: share of the values that are dropped.
        alike: whether all workers of a training drop the same, because what they drop it from is the same.
    """

    def __init__(self, rate: float, *, alike: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.rate, self.alike = rate, alike
        self.generator = tf.random.Generator.from_seed(random.randint(1, 2**31 - 1))

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """`x` of any shape; unchanged outside training."""
        if not training or not self.rate:
            return x
        seed = self.generator.make_seeds(1)[:, 0]
        if not self.alike:
            seed += tf.cast(worker_number(), seed.dtype)  # the generators of all workers are in the same state
        return tf.nn.experimental.stateless_dropout(x, self.rate, seed=seed)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate, "alike": self.alike}


class Attention(tf.keras.layers.Layer):
    """Multi-head scaled dot-product attention (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762).

    Args:
        dim: width of the inputs and of the output.
        heads: number of heads; must divide `dim`.
        dropout: dropout rate on the attention weights.
        rotary: rotate queries and keys by their position (Su et al. 2021, https://arxiv.org/abs/2104.09864).

    Raises:
        ValueError: `heads` does not divide `dim`, or the head size is odd while `rotary` is set.
    """

    def __init__(self, dim: int, heads: int, *, dropout: float = 0.0, rotary: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        if dim % heads:
            raise ValueError(f"heads={heads} must divide dim={dim}; try heads={math.gcd(dim, heads)}")
        if rotary and (dim // heads) % 2:
            raise ValueError(f"rotary positions need an even head size, got dim / heads = {dim // heads}")
        self.dim, self.heads, self.dropout_rate, self.rotary = dim, heads, dropout, rotary
        own = {"dtype": self.dtype_policy}  # a layer that was told its type must not hold parts of the global one
        self.dropout = ResumableDropout(dropout, **own)
        self.project_out = tf.keras.layers.Dense(dim, name="out", **own)

    def build(self, input_shape: tf.TensorShape) -> None:
        init = tf.keras.initializers.GlorotUniform()
        self.kernel = self.add_weight(name="qkv_kernel", shape=(self.dim, 3 * self.dim), initializer=init)
        self.offset = self.add_weight(name="qkv_bias", shape=(3 * self.dim,), initializer="zeros")
        super().build(input_shape)

    def call(
        self,
        query: tf.Tensor,
        memory: tf.Tensor | None = None,
        mask: tf.Tensor | None = None,
        training: bool | None = None,
        return_scores: bool = False,
        places: tf.Tensor | None = None,
        asking: tf.Tensor | None = None,
    ) -> tf.Tensor | tuple[tf.Tensor, tf.Tensor]:
        """Attend from `query` to `memory` (to itself where `memory` is None).

        Args:
            query: `[B, Q, D]`.
            memory: `[B, K, D]` or None.
            mask: bool, True where a key may be seen: `[B, K]` or `[B, Q, K]`.
            return_scores: return the attention weights `[B, heads, Q, K]` as well.
            places: of the memory int32 `[K]`, which rotary positions are; 0, 1 and so on where None.
            asking: places of the queries int32 `[B, Q]`, where they are not those of the memory.

        Returns:
            `[B, Q, D]`, or the pair with the weights.
        """
        q, k, v = self._project(query, memory)
        if self.rotary:
            places = tf.range(tf.shape(k)[2]) if places is None else places
            q, k = rotate(q, places if asking is None else asking), rotate(k, places)
        scores = tf.cast(tf.matmul(q, k, transpose_b=True), tf.float32) / math.sqrt(self.dim // self.heads)
        if mask is not None:
            mask = mask[:, None, None, :] if mask.shape.rank == 2 else mask[:, None]
            scores += (1.0 - tf.cast(mask, tf.float32)) * MASKED
        weights = tf.nn.softmax(scores)
        dropped = self.dropout(tf.cast(weights, v.dtype), training=training)
        mixed = tf.transpose(tf.matmul(dropped, v), [0, 2, 1, 3])  # (B, Q, heads, D / heads)
        out = self.project_out(tf.reshape(mixed, [tf.shape(query)[0], tf.shape(query)[1], self.dim]))
        return (out, weights) if return_scores else out

    def _project(self, query: tf.Tensor, memory: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        kernel, offset = tf.cast(self.kernel, query.dtype), tf.cast(self.offset, query.dtype)
        if memory is None:
            # tensordot, not matmul: the gradient of a broadcast matmul is a kernel for each row of the batch, then summed.
            q, k, v = tf.split(tf.tensordot(query, kernel, 1) + offset, 3, axis=-1)
        else:
            d = self.dim
            q = tf.tensordot(query, kernel[:, :d], 1) + offset[:d]
            k, v = tf.split(tf.tensordot(memory, kernel[:, d:], 1) + offset[d:], 2, axis=-1)
        return self._heads(q), self._heads(k), self._heads(v)

    def _heads(self, x: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(x)
        return tf.transpose(tf.reshape(x, [shape[0], shape[1], self.heads, self.dim // self.heads]), [0, 2, 1, 3])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "dim": self.dim,
            "heads": self.heads,
            "dropout": self.dropout_rate,
            "rotary": self.rotary,
        }


def rotate(x: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    """Rotate the halves of each head by angles that grow with its place.

    Args:
        x: `[B, heads, T, D]` with even D.
        places: int32 `[T]` or `[B, T]`.

    Returns:
        The same shape.
    """
    half = x.shape[-1] // 2
    rates = 10000.0 ** (-tf.range(half, dtype=tf.float32) / half)
    angles = tf.cast(places, tf.float32)[..., None] * rates  # (T, D / 2) or (B, T, D / 2)
    angles = angles if places.shape.rank == 1 else angles[:, None]
    cos, sin = tf.cast(tf.cos(angles), x.dtype), tf.cast(tf.sin(angles), x.dtype)
    first, second = x[..., :half], x[..., half:]
    return tf.concat([first * cos - second * sin, first * sin + second * cos], -1)


class FeedForward(tf.keras.layers.Layer):
    """Pre-norm two-layer perceptron of a transformer block, without the residual.

    Args:
        dim: width of input and output `[..., D]`.
        ratio: hidden width over `dim`.
        dropout: dropout rate after each layer.
    """

    def __init__(self, dim: int, *, ratio: float = 4.0, dropout: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.dim, self.ratio, self.dropout_rate = dim, ratio, dropout
        own = {"dtype": self.dtype_policy}
        self.norm = tf.keras.layers.LayerNormalization(epsilon=1e-6, name="norm", **own)
        self.widen = tf.keras.layers.Dense(int(dim * ratio), activation="gelu", name="widen", **own)
        self.narrow = tf.keras.layers.Dense(dim, name="narrow", **own)
        self.dropout = ResumableDropout(dropout, **own)

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        hidden = self.dropout(self.widen(self.norm(x)), training=training)
        return self.dropout(self.narrow(hidden), training=training)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dim": self.dim, "ratio": self.ratio, "dropout": self.dropout_rate}
