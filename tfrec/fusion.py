"""Bidirectional cross-attention that fuses a photo's patch tokens with text and attribute tokens."""

from typing import Any

import tensorflow as tf

from tfrec.attention import Attention, FeedForward, ResumableDropout


class CrossAttentionBlock(tf.keras.layers.Layer):
    """One side reads the other: pre-norm cross-attention and feed-forward, each with a residual.

    Args:
        dim: width D of both sides.
        heads: attention heads.
        ratio: feed-forward width over `dim`.
        dropout: dropout rate.
    """

    def __init__(self, dim: int, heads: int, *, ratio: float = 4.0, dropout: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.dim, self.heads, self.ratio, self.dropout_rate = dim, heads, ratio, dropout
        self.norm = tf.keras.layers.LayerNormalization(epsilon=1e-6, name="norm")
        self.memory_norm = tf.keras.layers.LayerNormalization(epsilon=1e-6, name="memory_norm")
        self.attention = Attention(dim, heads, dropout=dropout, name="attention")
        self.dropout = ResumableDropout(dropout)
        self.feed_forward = FeedForward(dim, ratio=ratio, dropout=dropout, name="feed_forward")

    def call(
        self, x: tf.Tensor, memory: tf.Tensor, memory_mask: tf.Tensor | None = None, training: bool | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """`x` `[B, Q, D]` attends to `memory` `[B, K, D]` where `memory_mask` `[B, K]` is True.

        Returns:
            The new `x` `[B, Q, D]` and the attention weights `[B, heads, Q, K]`.
        """
        read, weights = self.attention(
            self.norm(x), self.memory_norm(memory), memory_mask, training=training, return_scores=True
        )
        x = x + self.dropout(read, training=training)
        return x + self.feed_forward(x, training=training), weights

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "dim": self.dim,
            "heads": self.heads,
            "ratio": self.ratio,
            "dropout": self.dropout_rate,
        }


class CrossAttentionFusion(tf.keras.layers.Layer):
    """L bidirectional blocks: the photo attends to text and attributes, and these attend to the photo.

    Both directions of a block read the same inputs (co-attention as in ViLBERT, Lu et al. 2019,
    https://arxiv.org/abs/1908.02265). The masked means of both sides are concatenated and projected.

    Args:
        dim: token width D.
        layers: number of blocks L; 0 fuses by means alone.
        heads: attention heads.
        output_dim: width of the fused vector; `dim` where None.
        ratio: feed-forward width over `dim`.
        dropout: dropout rate.
    """

    def __init__(
        self,
        dim: int,
        layers: int,
        heads: int,
        *,
        output_dim: int | None = None,
        ratio: float = 4.0,
        dropout: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.dim, self.layers, self.heads = dim, layers, heads
        self.output_dim, self.ratio, self.dropout_rate = output_dim or dim, ratio, dropout
        block = {"ratio": ratio, "dropout": dropout}
        self.image_blocks = [CrossAttentionBlock(dim, heads, **block, name=f"image_{i}") for i in range(layers)]
        self.text_blocks = [CrossAttentionBlock(dim, heads, **block, name=f"text_{i}") for i in range(layers)]
        self.image_norm = tf.keras.layers.LayerNormalization(epsilon=1e-6, name="image_norm")
        self.text_norm = tf.keras.layers.LayerNormalization(epsilon=1e-6, name="text_norm")
        self.project = tf.keras.layers.Dense(self.output_dim, name="project")

    def call(
        self,
        image: tf.Tensor,
        text: tf.Tensor,
        image_mask: tf.Tensor | None = None,
        text_mask: tf.Tensor | None = None,
        training: bool | None = None,
        return_attention: bool = False,
    ) -> tf.Tensor | tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Fuse the two sides.

        Args:
            image: photo tokens `[B, N, D]`.
            text: text and attribute tokens `[B, T, D]`.
            image_mask, text_mask: bool `[B, N]` and `[B, T]`, True where a token counts; None: all do.
            return_attention: also return `{"image_to_text": [B, N, T], "text_to_image": [B, T, N]}`, the mean
                over heads of the last block (empty where there is none).

        Returns:
            `[B, output_dim]`.
        """
        attention = {}
        for image_block, text_block in zip(self.image_blocks, self.text_blocks, strict=True):
            next_image, to_text = image_block(image, text, text_mask, training=training)
            next_text, to_image = text_block(text, image, image_mask, training=training)
            image, text = next_image, next_text
            attention = {"image_to_text": to_text, "text_to_image": to_image}
        pooled = tf.concat(
            [masked_mean(self.image_norm(image), image_mask), masked_mean(self.text_norm(text), text_mask)],
            -1,
        )
        fused = self.project(pooled)
        if return_attention:
            return fused, {name: tf.reduce_mean(weights, 1) for name, weights in attention.items()}
        return fused

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "dim": self.dim,
            "layers": self.layers,
            "heads": self.heads,
            "output_dim": self.output_dim,
            "ratio": self.ratio,
            "dropout": self.dropout_rate,
        }


def masked_mean(tokens: tf.Tensor, mask: tf.Tensor | None = None) -> tf.Tensor:
    """Mean of `tokens` `[B, T, D]` over the positions where `mask` `[B, T]` is True; zeros where none is. `[B, D]`."""
    wide = tf.cast(tokens, tf.float32)  # sums in half precision lose what is added last
    if mask is None:
        return tf.cast(tf.reduce_mean(wide, 1), tokens.dtype)
    weight = tf.cast(mask, tf.float32)[..., None]
    mean = tf.reduce_sum(wide * weight, 1) / tf.maximum(tf.reduce_sum(weight, 1), 1)
    return tf.cast(mean, tokens.dtype)
