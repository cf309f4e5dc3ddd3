"""The towers: an item's content from photo, text and attributes; a customer's query from the history.

The towers turn arrays into vectors and know nothing of files, ids or losses. `tfrec.models` puts them together.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfrec.attention import Attention, FeedForward, ResumableDropout
from tfrec.encoders.blocks import text_mask
from tfrec.fusion import CrossAttentionFusion

GAP_BUCKETS = 16


class ItemTower(tf.keras.layers.Layer):
    """Photo, text and attributes of an item, fused by cross-attention into one content vector.

    A missing photo or text is a learned token in its place, never zeros that look like data. Attribute tokens join
    the text side.

    Args:
        fusion: the cross-attention that fuses both sides, of width D.
        image: photo encoder, `[B, H, W, 3]` -> tokens `[B, N, Di]`; None where photos are not used or come encoded.
        text: text encoder, token ids `[B, T]` -> tokens `[B, T, Dt]`, with `mask(token_ids)`; None likewise.
        attributes: attribute encoder, `[B, F, V]` -> tokens `[B, F, D]` and mask `[B, F]`; None where not used.
        pool: side of the squares that patch tokens are averaged over.
        pad_id: token id of padding.
    """

    def __init__(
        self,
        fusion: CrossAttentionFusion,
        *,
        image: tf.keras.layers.Layer | None = None,
        text: tf.keras.layers.Layer | None = None,
        attributes: tf.keras.layers.Layer | None = None,
        pool: int = 1,
        pad_id: int = 0,
        **kwargs: Any,
    ):
        super().__init__(autocast=False, **kwargs)
        self.fusion, self.image, self.text, self.attributes = fusion, image, text, attributes
        self.pool, self.pad_id = pool, pad_id
        self.image_in = tf.keras.layers.Dense(fusion.dim, name="image_in")
        self.text_in = tf.keras.layers.Dense(fusion.dim, name="text_in")

    def build(self, input_shape: dict[str, tf.TensorShape]) -> None:
        init = normal(0.02)
        shape = (1, 1, self.fusion.dim)
        self.no_photo = self.add_weight(name="no_photo", shape=shape, initializer=init())
        self.no_text = self.add_weight(name="no_text", shape=shape, initializer=init())
        super().build(input_shape)

    def call(
        self, inputs: dict, training: bool | None = None, return_attention: bool = False
    ) -> tf.Tensor | tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Encode a batch of items.

        Args:
            inputs: any of
                `photos` uint8 `[B, H, W, 3]` or, encoded before, `photo_tokens` `[B, N, Di]`; with `has_photo` bool `[B]`;
                `tokens` int32 `[B, T]` (all padding = no text) or, encoded before, `text_tokens` `[B, T, Dt]` with
                `text_mask` bool `[B, T]`;
                `attributes` int32 `[B, F, V]`, 0 = missing.
            return_attention: also return the fusion's attention maps; position 0 of either side is the token that
                stands for a missing modality.

        Returns:
            Content vectors float32 `[B, fusion.output_dim]`.
        """
        batch = next(tf.shape(value)[0] for value in inputs.values())
        photo, photo_mask = self._photo_side(inputs, batch, training)
        words, words_mask = self._text_side(inputs, batch, training)
        if self.attributes is not None:
            fields, fields_mask = self.attributes(inputs["attributes"], training=training)
            words = tf.concat([words, tf.cast(fields, words.dtype)], 1)
            words_mask = tf.concat([words_mask, fields_mask], 1)
        out = self.fusion(photo, words, photo_mask, words_mask, training=training, return_attention=return_attention)
        return (tf.cast(out[0], tf.float32), out[1]) if return_attention else tf.cast(out, tf.float32)

    def _photo_side(
        self, inputs: dict[str, tf.Tensor], batch: tf.Tensor, training: bool | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        placeholder = self._placeholder(self.no_photo, batch)
        if "photo_tokens" in inputs:
            tokens = inputs["photo_tokens"]
        elif self.image is not None:
            tokens = self.image(inputs["photos"], training=training)
            tokens = self.image.pool_patches(tokens, self.pool) if self.pool > 1 else tokens
        else:
            return placeholder, tf.ones([batch, 1], tf.bool)
        tokens = self.image_in(tf.cast(tokens, self.compute_dtype))
        mask = tf.repeat(inputs["has_photo"][:, None], tf.shape(tokens)[1], 1)
        return self._join(placeholder, tokens, mask)

    def _text_side(
        self, inputs: dict[str, tf.Tensor], batch: tf.Tensor, training: bool | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        placeholder = self._placeholder(self.no_text, batch)
        if "text_tokens" in inputs:
            tokens, mask = inputs["text_tokens"], inputs["text_mask"]
        elif self.text is not None:
            ids = inputs["tokens"]
            tokens, mask = self.text(ids, training=training), text_mask(self.text, ids, self.pad_id)
        else:
            return placeholder, tf.ones([batch, 1], tf.bool)
        return self._join(placeholder, self.text_in(tf.cast(tokens, self.compute_dtype)), mask)

    def _placeholder(self, token: tf.Variable, batch: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.repeat(token, batch, 0), self.compute_dtype)

    def _join(self, placeholder: tf.Tensor, tokens: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Put the placeholder before the tokens, visible only where no token is."""
        absent = tf.logical_not(tf.reduce_any(mask, 1, keepdims=True))
        return tf.concat([placeholder, tokens], 1), tf.concat([absent, mask], 1)


class ShallowTower(tf.keras.layers.Layer):
    """An item's attributes, words and frozen encoders' vectors as one vector, without attention: the wide part beside the
    deep one.

    The mean of word embeddings, the sum of attribute embeddings, a projection of each frozen vector, and what a small
    perceptron adds to them (Wide & Deep, Cheng et al. 2016, https://arxiv.org/abs/1606.07792). A step can afford it for
    every item that it reads.

    Args:
        dim: width D.
        attributes: attribute encoder, `[R, F, V]` -> tokens `[R, F, D]` and mask `[R, F]`; None where not used.
        vocabulary: number of token ids; 0 where texts are not used.
        pad_id: token id of padding.
        word_dim: width of the word embeddings.
        vectors: name of an input -> that input of the whole catalogue `[N, P]`, which its statistics are taken from.
    """

    def __init__(
        self,
        dim: int,
        *,
        attributes: tf.keras.layers.Layer | None = None,
        vocabulary: int = 0,
        pad_id: int = 0,
        word_dim: int = 64,
        vectors: Mapping[str, np.ndarray] | None = None,
        **kwargs: Any,
    ):
        super().__init__(dtype="float32", **kwargs)
        self.dim, self.attributes, self.vocabulary = dim, attributes, vocabulary
        self.pad_id, self.word_dim = pad_id, word_dim
        self.words_out = tf.keras.layers.Dense(dim, name="words_out", dtype="float32")
        self.feed_forward = FeedForward(dim, ratio=2.0, name="feed_forward", dtype="float32")
        self.standardize = {name: Standardize(array, name=f"{name}_in") for name, array in (vectors or {}).items()}
        self.project = {
            name: tf.keras.layers.Dense(dim, name=f"{name}_out", dtype="float32") for name in self.standardize
        }

    def build(self, input_shape: dict[str, tf.TensorShape]) -> None:
        if self.vocabulary:
            shape = (self.vocabulary, self.word_dim)
            self.words = self.add_weight(name="word_embeddings", shape=shape, initializer=normal(0.05)())
        super().build(input_shape)

    def call(self, inputs: dict) -> tf.Tensor:
        """`attributes` int32 `[R, F, V]`, `tokens` int32 `[R, T]`, vectors `[R, P]`: those that are used -> `[R, D]`."""
        vector = 0.0
        if self.attributes is not None:
            fields, known = self.attributes(inputs["attributes"])
            # A missing field says nothing: of a catalogue that lacks none, its own token is not trained.
            vector += tf.reduce_sum(tf.cast(fields, tf.float32) * tf.cast(known, tf.float32)[..., None], 1)
        if self.vocabulary:
            words = tf.gather(self.words, inputs["tokens"])
            weight = tf.cast(inputs["tokens"] != self.pad_id, tf.float32)[..., None]
            mean = tf.reduce_sum(words * weight, 1) / tf.maximum(tf.reduce_sum(weight, 1), 1.0)
            vector += self.words_out(mean * 8.0)  # a mean of many small vectors is small
        for name, standardize in self.standardize.items():
            vector += self.project[name](standardize(inputs[name]))
        return vector + self.feed_forward(vector)


class Standardize(tf.keras.layers.Layer):
    """Vectors of an encoder about their mean and of unit length on average; a vector of zeros (no content) stays zeros.

    All of one shop's texts resemble each other: about their mean, what tells them apart is most of the vector. One scale
    for all dimensions keeps the angles.

    Args:
        vectors: of the whole catalogue `[N, P]`; zeros are passed over.
    """

    def __init__(self, vectors: np.ndarray, **kwargs: Any):
        super().__init__(dtype="float32", **kwargs)
        present = vectors[np.any(vectors != 0, 1)].astype(np.float32)
        present = present if len(present) else np.zeros((1, vectors.shape[1]), np.float32)
        mean = present.mean(0)
        spread = float(np.sqrt(np.square(present - mean).sum(1).mean()))
        self.mean = self.add_weight("mean", mean.shape, initializer="zeros", trainable=False)
        self.scale = self.add_weight("scale", (), initializer="ones", trainable=False)
        self.mean.assign(mean)
        self.scale.assign(1.0 / spread if spread > 1e-6 else 1.0)  # of one vector, or of equal ones, nothing is known

    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        """`[R, P]` -> `[R, P]` float32."""
        vectors = tf.cast(vectors, tf.float32)
        present = tf.reduce_any(vectors != 0.0, 1, keepdims=True)
        return tf.where(present, (vectors - self.mean) * self.scale, 0.0)


class DecoderBlock(tf.keras.layers.Layer):
    """Pre-norm causal transformer block.

    Args:
        dim: width D.
        heads: attention heads.
        ratio: feed-forward width over `dim`.
        dropout: dropout rate.
        rotary: rotary positions.
    """

    def __init__(
        self, dim: int, heads: int, *, ratio: float = 4.0, dropout: float = 0.0, rotary: bool = False, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.norm = tf.keras.layers.LayerNormalization(epsilon=1e-6, name="norm")
        self.attention = Attention(dim, heads, dropout=dropout, rotary=rotary, name="attention")
        self.dropout = ResumableDropout(dropout)
        self.feed_forward = FeedForward(dim, ratio=ratio, dropout=dropout, name="feed_forward")

    def call(
        self,
        x: tf.Tensor,
        mask: tf.Tensor,
        training: bool | None = None,
        places: tf.Tensor | None = None,
        asked: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """`x` `[B, T, D]`, `mask` bool `[B, T, T]`, `places` int32 `[T]` (see `Attention`); the same shape back, or
        `[B, 1, D]` where one place of each row is `asked` for, int32 `[B, 1]`."""
        read = self.norm(x)
        if asked is None:
            attended = self.attention(read, mask=mask, training=training, places=places)
        else:
            x, query, mask = (tf.gather(part, asked, batch_dims=1) for part in (x, read, mask))
            asking = None if places is None else tf.gather(places, asked)
            attended = self.attention(query, read, mask=mask, training=training, places=places, asking=asking)
        x = x + self.dropout(attended, training=training)
        return x + self.feed_forward(x, training=training)


class HistoryTower(tf.keras.layers.Layer):
    """A causal transformer decoder over purchases (SASRec, Kang and McAuley 2018, https://arxiv.org/abs/1808.09781).

    A start token, to which the customer's fields are added, stands before the history; so a customer without any history
    has a query as well. Histories are right-aligned: the most recent purchase is last.

    Args:
        dim: width D.
        length: purchases read, T.
        layers, heads, ratio, dropout: of the transformer.
        positions: `learned`, `sinusoidal`, `rotary` or `none`.
        time_gaps: embed the days from each purchase to the moment that its prediction is for.
        user_fields: vocabulary size of each customer field.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        layers: int = 2,
        heads: int = 4,
        ratio: float = 4.0,
        dropout: float = 0.0,
        positions: str = "learned",
        time_gaps: bool = True,
        user_fields: tuple[int, ...] = (),
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.dim, self.length, self.positions, self.time_gaps = dim, length, positions, time_gaps
        self.user_fields = tuple(user_fields)
        self.blocks = [
            DecoderBlock(dim, heads, ratio=ratio, dropout=dropout, rotary=positions == "rotary", name=f"block_{i}")
            for i in range(layers)
        ]
        self.dropout = ResumableDropout(dropout)
        self.norm = tf.keras.layers.LayerNormalization(epsilon=1e-6, name="norm")

    def build(self, input_shape: tf.TensorShape) -> None:
        init = normal(0.02)
        self.start = self.add_weight(name="start", shape=(1, 1, self.dim), initializer=init())
        if self.positions == "learned":
            shape = (self.length, self.dim)
            self.position_table = self.add_weight(name="positions", shape=shape, initializer=init())
        if self.time_gaps:
            self.gap_table = self.add_weight(name="gaps", shape=(GAP_BUCKETS, self.dim), initializer=init())
        self.field_tables = [
            self.add_weight(name=f"field_{i}", shape=(size, self.dim), initializer=init())
            for i, size in enumerate(self.user_fields)
        ]
        super().build(input_shape)

    def call(
        self,
        items: tf.Tensor,
        mask: tf.Tensor,
        gaps: tf.Tensor | None = None,
        user_fields: tf.Tensor | None = None,
        training: bool | None = None,
        last: bool = False,
    ) -> tf.Tensor:
        """Read histories.

        Args:
            items: vectors of the purchases `[B, T, D]`.
            mask: bool `[B, T]`, False where padded.
            gaps: days from each purchase to the moment its prediction is for, float32 `[B, T]`; None where the tower has no
                `time_gaps`.
            user_fields: int32 `[B, G]`; None where it has none.
            training: whether dropout applies.
            last: whether the next purchase alone is to be predicted, for which the last block reads one place.

        Returns:
            `[B, T + 1, D]`: position 0 predicts the first purchase, position t the one after the t-th. With `last`
            `[B, 1, D]`: position T, and position 0 of an empty history.
        """
        if self.time_gaps:
            items += tf.cast(tf.gather(self.gap_table, gap_bucket(gaps)), items.dtype)
        start = tf.repeat(self.start, tf.shape(items)[0], 0)
        for i, table in enumerate(self.field_tables):
            assert user_fields is not None  # the tower was made for customers who have fields
            start += tf.gather(table, user_fields[:, i])[:, None]
        x = tf.concat([tf.cast(start, items.dtype), items], 1)  # (B, T + 1, D)
        x = self.dropout(x + tf.cast(self._positions(tf.shape(items)[1]), x.dtype), training=training)
        seen = tf.pad(mask, [[0, 0], [1, 0]], constant_values=True)
        steps = tf.range(tf.shape(x)[1])
        causal = seen[:, None, :] & (steps[:, None] >= steps[None, :])[None]
        # The start token stays as far from the last purchase as in training, however short the batch's histories.
        places = tf.where(steps > 0, steps + self.length - tf.shape(items)[1], 0)
        asked = tf.where(tf.reduce_any(mask, 1), tf.shape(items)[1], 0)[:, None] if last else None
        for block in self.blocks:
            only = asked if block is self.blocks[-1] else None
            x = block(x, causal, training=training, places=places, asked=only)
        if last and not self.blocks:
            x = tf.gather(x, asked, batch_dims=1)
        return self.norm(x)

    def _positions(self, length: tf.Tensor) -> tf.Tensor:
        """`[1, length + 1, D]`: places counted back from the most recent purchase; the start token has none."""
        if self.positions == "learned":
            table = self.position_table
        elif self.positions == "sinusoidal":
            table = sinusoids(self.length, self.dim)
        else:
            return tf.zeros([1, 1, 1])
        return tf.pad(table[self.length - length :], [[1, 0], [0, 0]])[None]


class UserTower(tf.keras.layers.Layer):
    """A vector per known customer, plus the customer's fields; the last row stands for unknown customers.

    Args:
        dim: width D.
        users: known customers.
        user_fields: vocabulary size of each customer field.
    """

    def __init__(self, dim: int, users: int, *, user_fields: tuple[int, ...] = (), **kwargs: Any):
        super().__init__(**kwargs)
        self.dim, self.users, self.user_fields = dim, users, tuple(user_fields)

    def build(self, input_shape: tf.TensorShape) -> None:
        init = normal(0.05)
        self.table = self.add_weight(name="users", shape=(self.users + 1, self.dim), initializer=init())
        self.field_tables = [
            self.add_weight(name=f"field_{i}", shape=(size, self.dim), initializer=init())
            for i, size in enumerate(self.user_fields)
        ]
        super().build(input_shape)

    def call(self, user: tf.Tensor, user_fields: tf.Tensor | None = None) -> tf.Tensor:
        """`user` int32 `[B]` (-1: unknown), `user_fields` int32 `[B, G]` -> `[B, D]`."""
        x = tf.gather(self.table, tf.where(user < 0, self.users, user))
        for i, table in enumerate(self.field_tables):
            assert user_fields is not None  # the tower was made for customers who have fields
            x += tf.gather(table, user_fields[:, i])
        return x


def normal(stddev: float) -> Callable[[], tf.keras.initializers.Initializer]:
    """A maker of normal initializers; one that is used twice would give the same numbers twice."""
    return lambda: tf.keras.initializers.RandomNormal(stddev=stddev)


def gap_bucket(days: tf.Tensor) -> tf.Tensor:
    """Bucket of a time gap: 0 for none, 1 up to an hour, then doubling, `GAP_BUCKETS` in all. Days `[...]` -> int32."""
    hours = tf.maximum(tf.cast(days, tf.float32) * 24.0, 0.0)
    bucket = tf.clip_by_value(tf.math.ceil(tf.math.log(hours + 1.0) / math.log(2.0)), 0, GAP_BUCKETS - 1)
    return tf.maximum(tf.cast(bucket, tf.int32), 0)  # NaN becomes the least integer


def sinusoids(length: int, dim: int) -> tf.Tensor:
    """Sinusoidal positions (Vaswani et al. 2017). `[length, dim]`."""
    half = dim // 2
    angles = tf.range(length, dtype=tf.float32)[:, None] * 10000.0 ** (-tf.range(half, dtype=tf.float32)[None] / half)
    return tf.pad(tf.concat([tf.sin(angles), tf.cos(angles)], -1), [[0, 0], [0, dim - 2 * half]])
