"""From a text's tokens to one vector, as the published sentence encoders do it."""

from typing import Any

import tensorflow as tf

KINDS = ("mean", "class", "max", "mean_sqrt_length", "last")


@tf.keras.utils.register_keras_serializable("tfrec")
class SentencePooling(tf.keras.layers.Layer):
    """Tokens and mask to one vector a text.

    Args:
        kind: `mean` of the tokens, the `class` token, their `max`imum, `mean_sqrt_length` (the sum over the
            square root of the number), or the `last` token (CLIP's end-of-text token).
        normalize: L2-normalise the result.
        projection_dim: Width of a linear projection after pooling; none when not given.
        projection_bias: Whether the projection has a bias.
        projection_activation: Activation of the projection.
    """

    def __init__(
        self,
        kind: str = "mean",
        *,
        normalize: bool = False,
        projection_dim: int | None = None,
        projection_bias: bool = False,
        projection_activation: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} is not known; choose one of {KINDS}.")
        self.kind, self.normalize, self.projection_dim = kind, normalize, projection_dim
        self.projection_bias, self.projection_activation = projection_bias, projection_activation
        self.projection = None
        if projection_dim:
            self.projection = tf.keras.layers.Dense(
                projection_dim,
                activation=projection_activation,
                use_bias=projection_bias,
                dtype=self.dtype_policy,
                name="projection",
            )

    def build(self, input_shape: tf.TensorShape | tuple[int | None, ...]) -> None:
        """Create the projection."""
        if self.projection is not None:
            self.projection.build(input_shape)
        super().build(input_shape)

    def call(self, tokens: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Pool tokens.

        Args:
            tokens: `[B, T, D]`.
            mask: `[B, T]`, true where a token counts. A text without tokens gives zeros (`class`: its first
                token).

        Returns:
            `[B, D]`, or `[B, projection_dim]`; float32 if normalised.
        """
        vector = self._pool(tokens, mask)
        if self.projection is not None:
            vector = self.projection(vector)
        # The norm is taken in float32: half precision overflows or loses digits when squares are summed.
        return tf.math.l2_normalize(tf.cast(vector, tf.float32), axis=-1) if self.normalize else vector

    def _pool(self, tokens: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Return one vector `[B, D]` per row of tokens `[B, T, D]`."""
        if self.kind == "class":
            return tokens[:, 0]
        weights = tf.cast(mask, tokens.dtype)
        if self.kind == "last":
            # One-hot of the last true position: the cumulative count from the right is 1 there for the first
            # time.
            from_right = tf.cumsum(tf.cast(mask, tf.int32), axis=1, reverse=True)
            return tf.einsum("btd,bt->bd", tokens, tf.where(mask & (from_right == 1), weights, 0))
        if self.kind == "max":
            highest = tf.reduce_max(tf.where(mask[..., None], tokens, tokens.dtype.min), axis=1)
            return tf.where(tf.reduce_any(mask, axis=1)[:, None], highest, 0)
        # Summed in float32: a long text's sum has more digits than half precision keeps.
        total = tf.einsum("btd,bt->bd", tf.cast(tokens, tf.float32), tf.cast(mask, tf.float32))
        length = tf.maximum(tf.reduce_sum(tf.cast(mask, tf.float32), axis=1, keepdims=True), 1)
        divisor = tf.sqrt(length) if self.kind == "mean_sqrt_length" else length
        return tf.cast(total / divisor, tokens.dtype)

    def get_config(self) -> dict:
        """Return the arguments that rebuild the layer."""
        names = ("kind", "normalize", "projection_dim", "projection_bias", "projection_activation")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
