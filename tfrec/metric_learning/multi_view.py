"""Several photos of one item to one vector: shared weights, then a fusion that masks missing views."""

from typing import Any

import tensorflow as tf

from tfrec.attention import Attention

FUSIONS = ("concat", "mean", "attention")


@tf.keras.utils.register_keras_serializable("tfrec")
class ViewFusion(tf.keras.layers.Layer):
    """Vectors of an item's views to one vector.

    `mean` averages the views that are there. `concat` puts them end to end; a learned vector stands for a view that is
    missing, never zeros that look like data. `attention` lets a learned query attend to the views that are there, each
    marked by its place.

    Args:
        kind: `concat`, `mean` or `attention`.
        heads: attention heads; divides the views' width.

    Raises:
        ValueError: an unknown kind.
    """

    def __init__(self, kind: str = "concat", *, heads: int = 4, **kwargs: Any):
        super().__init__(**kwargs)
        if kind not in FUSIONS:
            raise ValueError(f"kind={kind!r} is unknown; choose one of {FUSIONS}")
        self.kind, self.heads = kind, heads

    def build(self, input_shape: tf.TensorShape) -> None:
        """Create the weights for vectors `[B, V, D]`."""
        _, views, dim = input_shape
        small = tf.keras.initializers.RandomNormal(stddev=0.02)
        if self.kind == "concat":
            self.missing = self.add_weight("missing", (views, dim), initializer=small)
        if self.kind == "attention":
            self.places = self.add_weight("places", (views, dim), initializer=small)
            self.query = self.add_weight("query", (1, dim), initializer=tf.keras.initializers.RandomNormal(stddev=1.0))
            self.norm = tf.keras.layers.LayerNormalization(epsilon=1e-6, name="norm")
            self.attention = Attention(dim, self.heads, name="attention")
        super().build(input_shape)

    def call(self, vectors: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Fuse.

        Args:
            vectors: `[B, V, D]`.
            present: bool `[B, V]`, False where the view is missing: its vector is not read.

        Returns:
            `[B, D]`, or `[B, V * D]` by `concat`.
        """
        present = tf.convert_to_tensor(present)
        seen = present[..., None]
        if self.kind == "concat":
            filled = tf.where(seen, vectors, tf.cast(self.missing, vectors.dtype))
            return tf.reshape(filled, [-1, vectors.shape[1] * vectors.shape[2]])
        if self.kind == "mean":
            count = tf.reduce_sum(tf.cast(seen, vectors.dtype), 1)
            return tf.reduce_sum(tf.where(seen, vectors, 0), 1) / tf.maximum(count, 1)
        memory = self.norm(vectors + tf.cast(self.places, vectors.dtype))
        query = tf.repeat(tf.cast(self.query, vectors.dtype)[None], tf.shape(vectors)[0], 0)
        return self.attention(query, memory, present)[:, 0]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that rebuild the layer."""
        return {**super().get_config(), "kind": self.kind, "heads": self.heads}


class MultiViewEncoder(tf.keras.layers.Layer):
    """Photos of one item from several sides to one vector; every side goes through the same encoder.

    Args:
        encoder: an image encoder: photos to tokens, and `pooled` from tokens to one vector.
        fusion: of the views' vectors.
    """

    def __init__(self, encoder: tf.keras.layers.Layer, fusion: ViewFusion, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)
        self.encoder, self.fusion = encoder, fusion

    def call(self, photos: tf.Tensor, present: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Encode.

        Args:
            photos: `[B, V, H, W, 3]` in 0..255.
            present: bool `[B, V]`, False where there is no such photo.
            training: whether dropout applies and batch statistics are taken.

        Returns:
            `[B, D]`, see `ViewFusion`.
        """
        views, photo = photos.shape[1], photos.shape[2:]
        if training and views > 1:
            # Batch statistics are to be of photos: another view of the item stands in for a missing one.
            present = tf.convert_to_tensor(present)
            first = tf.argmax(tf.cast(present, tf.int32), 1, output_type=tf.int32)[:, None]
            photos = tf.gather(photos, tf.where(present, tf.range(views)[None], first), batch_dims=1)
        tokens = self.encoder(tf.reshape(photos, [-1, *photo]), training=training)
        vectors = self.encoder.pooled(tokens)
        return self.fusion(tf.reshape(vectors, [-1, views, vectors.shape[-1]]), present)
