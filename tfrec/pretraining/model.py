"""Masked words and image-text contrast, on one pair of encoders."""

import math
from typing import Any

import tensorflow as tf

from pipelines.batches import Batch
from tfrec.encoders.sides import ImageSide, Side, TextSide
from tfrec.encoders.text import BertEncoder, ClipTextEncoder
from tfrec.losses import info_nce, same_rows, softmax_losses, weighted_mean
from tfrec.trainable import Trainable


class MaskedWords(tf.keras.layers.Layer):
    """BERT's head: which word stood at a masked place; its output matrix is the encoder's own word table, read in float32
    whatever the encoder computes in.

    Args:
        encoder: the text encoder.
    """

    def __init__(self, encoder: BertEncoder | ClipTextEncoder, **kwargs: Any):
        super().__init__(**({"dtype": "float32"} | kwargs))
        self.encoder = encoder
        self.dense = tf.keras.layers.Dense(encoder.dim, "gelu", name="dense")
        self.norm = tf.keras.layers.LayerNormalization(epsilon=1e-12, name="norm")
        self.bias = self.add_weight(name="bias", shape=(encoder.vocabulary_size,), initializer="zeros")

    def call(self, tokens: tf.Tensor) -> tf.Tensor:
        """Tokens `[P, D]` -> logits float32 `[P, vocabulary]`."""
        states = tf.cast(self.norm(self.dense(tokens)), tf.float32)
        return tf.matmul(states, self.encoder.token_embedding.embeddings, transpose_b=True) + self.bias


class PretrainModel(Trainable):
    """A text encoder and perhaps an image encoder, with what teaches them.

    Args:
        text: encoder, tokenizer and pooling into the common space.
        image: encoder with a projection into the common space; None trains the text encoder alone.
        mlm, contrastive, temperature: see `tfrec.pretraining.config.PretrainTask`.
    """

    def __init__(self, text: TextSide, image: ImageSide | None, *, mlm: float, contrastive: float, temperature: float):
        super().__init__(name="pretrain")
        self.text_side, self.image_side = text, image
        self.text, self.pooling, self.image = text.encoder, text.pooling, image.encoder if image else None
        self.words = MaskedWords(text.encoder, name="words") if mlm else None
        self.mlm_weight, self.contrastive_weight = mlm, contrastive if image else 0.0
        self.log_scale = tf.Variable(-math.log(temperature), name="log_scale", trainable=bool(image))
        # Graphs of what every validation runs, traced once in the model's life.
        self.text_graph = tf.function(self.text_vectors, autograph=False, reduce_retracing=True)
        self.photo_graph = tf.function(self.photo_vectors, autograph=False, reduce_retracing=True)

    @property
    def sides(self) -> list[Side]:
        """The encoders with what reads for them: of texts, and of photos where there is one."""
        return [self.text_side] if self.image_side is None else [self.text_side, self.image_side]

    @property
    def scale(self) -> tf.Tensor:
        """One over the temperature, at most 100 as in CLIP."""
        return tf.exp(tf.minimum(self.log_scale, math.log(100.0)))

    def text_vectors(self, ids: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Unit vectors `[B, D]` of ids int32 `[B, T]`."""
        tokens = self.text(ids, training=training)
        return tf.math.l2_normalize(tf.cast(self.pooling(tokens, self.text.mask(ids)), tf.float32), -1)

    def photo_vectors(self, photos: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Unit vectors `[B, D]` of photos uint8 `[B, H, W, 3]`."""
        assert self.image is not None
        return tf.math.l2_normalize(tf.cast(self.image.pooled(self.image(photos, training=training)), tf.float32), -1)

    def compute_loss(self, batch: Batch, training: bool = False, fresh: tf.Tensor | None = None) -> tf.Tensor:
        """The weighted sum of both losses.

        Args:
            batch: `tokens` int32 `[B, T]`, `masked` int32 `[B, T]` (with words hidden), `hidden` bool `[B, T]` (where), and
                with an image encoder `photos` uint8 `[B, H, W, 3]` and `whole` int32 `[B, T]`, the ids sorted: items that
                have equal ones are no negatives of each other.
        """
        loss = 0.0
        if self.words is not None:
            loss += self.mlm_weight * self.masked_loss(batch, training)
        if self.contrastive_weight:
            texts = self.text_vectors(batch["tokens"], training)
            photos = self.photo_vectors(batch["photos"], training)
            same = same_rows(batch["whole"])
            loss += self.contrastive_weight * info_nce(texts, photos, temperature=1.0 / self.scale, same=same)
        return loss

    def masked_loss(self, batch: Batch, training: bool = False) -> tf.Tensor:
        """Mean cross-entropy of the hidden words."""
        assert self.words is not None
        states = self.text(batch["masked"], training=training)
        logits = self.words(tf.boolean_mask(states, batch["hidden"]))
        words = tf.boolean_mask(batch["tokens"], batch["hidden"])
        return weighted_mean(softmax_losses(logits, words))
