"""The metric-learning model: photos of an item to an embedding, and a loss over a batch of them."""

import tensorflow as tf
import tensorflow_recommenders as tfrs

from tfrec.metric_losses import MetricLoss, normalize
from tfrec.multi_view import MultiViewEncoder


class MetricLearner(tfrs.Model):
    """Embeds items by their photos; trained to bring items of one class together.

    Args:
        views: photos to one vector.
        embedding: width of the embedding.
        loss: over embeddings and classes.
    """

    def __init__(self, views: MultiViewEncoder, embedding: int, loss: MetricLoss):
        super().__init__()
        self.views, self.loss_layer = views, loss
        # float32 whatever the policy: the loss compares embeddings by small differences of their cosines.
        self.head = tf.keras.layers.Dense(embedding, name="head", dtype="float32")

    def features(self, items: dict, training: bool = False) -> tf.Tensor:
        """Fused vectors of the encoder, before the head: float32 `[B, F]`.

        Args:
            items: `photos` `[B, V, H, W, 3]` and `present` bool `[B, V]`.
            training: whether the encoder trains.
        """
        return tf.cast(self.views(items["photos"], items["present"], training=training), tf.float32)

    def embed(self, items: dict, training: bool = False) -> tf.Tensor:
        """Embeddings `[B, E]` of `items`, see `features`; compare them by cosine."""
        return self.head(self.features(items, training=training))

    def unit(self, items: dict) -> tf.Tensor:
        """Embeddings of length 1, `[B, E]`."""
        return normalize(self.embed(items))

    def encode(self, batch: dict, training: bool = True) -> tf.Tensor:
        """The expensive part of a step: embeddings `[B, E]` of the batch's items."""
        return self.embed(batch["items"], training=training)

    def compute_loss(self, batch: dict, training: bool = True, fresh: tf.Tensor | None = None) -> tf.Tensor:
        """The loss of a batch.

        Args:
            batch: `items` and `labels` int `[B]`.
            training: whether dropout applies.
            fresh: what `encode` gave, where it was called already.
        """
        embeddings = self.encode(batch, training=training) if fresh is None else fresh
        return self.loss_layer(embeddings, batch["labels"])

    def remember(self, batch: dict, fresh: tf.Tensor) -> None:
        """Nothing outlives a step."""
