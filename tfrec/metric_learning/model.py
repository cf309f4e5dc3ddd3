"""The metric-learning model: photos of an item to an embedding, and a loss over a batch of them."""

import tensorflow as tf

from pipelines.batches import Batch
from tfrec.metric_learning.losses import MetricLoss, normalize
from tfrec.metric_learning.multi_view import MultiViewEncoder
from tfrec.metric_learning.pixel_components import PixelComponents
from tfrec.trainable import Trainable


class MetricLearner(Trainable):
    """Embeds items by their photos; trained to bring items of one class together.

    Args:
        views: photos to one vector.
        embedding: width of the learned embedding (E).
        loss: over learned embeddings and classes.
        neck: normalise the fused vectors over the batch before the head.
        pixels: a fixed part of K numbers that is put beside the learned one once that is trained; None: none.
        pixel_weight: its length beside the learned part's length of 1.
    """

    def __init__(
        self,
        views: MultiViewEncoder,
        embedding: int,
        loss: MetricLoss,
        *,
        neck: bool = False,
        pixels: PixelComponents | None = None,
        pixel_weight: float = 1.0,
    ):
        super().__init__()
        self.views, self.loss_layer = views, loss
        self.pixels, self.pixel_weight = pixels, pixel_weight
        # float32 whatever the policy: the loss compares embeddings by small differences of their cosines.
        self.neck = None
        if neck:
            self.neck = tf.keras.layers.BatchNormalization(epsilon=1e-5, momentum=0.9, name="neck", dtype="float32")
        self.head = tf.keras.layers.Dense(embedding, name="head", dtype="float32")

    def features(self, items: dict, training: bool = False) -> tf.Tensor:
        """Fused vectors of the encoder, before the head: float32 `[B, F]`.

        Args:
            items: `photos` `[B, V, H, W, 3]` and `present` bool `[B, V]`.
            training: whether the encoder trains.
        """
        return tf.cast(self.views(items["photos"], items["present"], training=training), tf.float32)

    def embed(self, items: dict, training: bool = False) -> tf.Tensor:
        """Learned embeddings `[B, E]` of `items`, see `features`: what the loss compares."""
        vectors = self.features(items, training=training)
        if self.neck is not None:
            vectors = self.neck(vectors, training=training)
        return self.head(vectors)

    def unit(self, items: dict) -> tf.Tensor:
        """Whole embeddings of length 1, `[B, E]` or, with a fixed part, `[B, E + K]`; compare them by cosine.

        The cosine is then the mean of both parts' cosines, weighed by the squares of their lengths.
        """
        learned = normalize(self.embed(items))
        if self.pixels is None:
            return learned
        fixed = self.pixel_weight * self.pixels(items["photos"], items["present"])
        return normalize(tf.concat([learned, fixed], axis=-1))

    def compute_loss(self, batch: Batch, training: bool = False, fresh: tf.Tensor | None = None) -> tf.Tensor:
        """The loss of a batch of `items` and `labels` int `[B]`."""
        return self.loss_layer(self.embed(batch["items"], training=training), batch["labels"])
