"""The symmetric InfoNCE objective, and the model that brings attributes into the space of photos."""

import tensorflow as tf

from pipelines.batches import Batch
from tfrec.encoders.attributes import AttributeEncoder
from tfrec.losses import softmax_loss
from tfrec.trainable import Trainable


def info_nce(
    left: tf.Tensor, right: tf.Tensor, *, temperature: tf.Tensor | float, same: tf.Tensor | None = None
) -> tf.Tensor:
    """Mean InfoNCE of both directions with in-batch negatives (Oord et al. 2018, https://arxiv.org/abs/1807.03748).

    Args:
        left: unit vectors `[B, D]`.
        right: unit vectors `[B, D]`; row i belongs to row i of `left`.
        temperature: divides the cosine.
        same: bool `[B, B]`, True where two rows are of equal content and so are no negatives of each other; None: none.
    """
    logits = tf.matmul(left, right, transpose_b=True) / temperature
    labels = tf.range(tf.shape(logits)[0])
    losses = [softmax_loss(side, labels, masked=same) for side in (logits, tf.transpose(logits))]
    return (losses[0] + losses[1]) / 2.0


def same_rows(rows: tf.Tensor) -> tf.Tensor:
    """Which rows of `[B, ...]` int are equal: bool `[B, B]`."""
    # A number for each distinct row, so that memory does not grow with the width of the rows.
    _, number = tf.raw_ops.UniqueV2(x=tf.reshape(rows, [tf.shape(rows)[0], -1]), axis=[0])
    return number[:, None] == number[None]


class AlignmentModel(Trainable):
    """An attribute encoder and, behind a frozen image encoder, perhaps a linear layer.

    Args:
        encoder: attributes `[B, F, V]` -> unit vectors `[B, D]`.
        project: layers from the frozen encoder's vectors `[B, P]` to `[B, D]`; None takes them as they are.
        temperature: of InfoNCE.
    """

    def __init__(self, encoder: AttributeEncoder, project: tf.keras.layers.Layer | None, *, temperature: float):
        super().__init__(name="alignment")
        self.encoder, self.project, self.temperature = encoder, project, temperature

    def attributes(self, values: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Unit vectors `[B, D]` of attributes int32 `[B, F, V]`."""
        return self.encoder(values, training=training)

    def photos(self, vectors: tf.Tensor) -> tf.Tensor:
        """Unit vectors `[B, D]` of the frozen encoder's vectors `[B, P]`."""
        vectors = tf.cast(vectors, tf.float32)
        return tf.math.l2_normalize(vectors if self.project is None else self.project(vectors), -1)

    def compute_loss(self, batch: Batch, training: bool = False, fresh: tf.Tensor | None = None) -> tf.Tensor:
        """InfoNCE of a batch: `attributes` int32 `[B, F, V]` and either `vectors` `[B, P]` of the photos, or `views` int32
        `[B, F, V]`, the same attributes seen another time; `whole` int32 `[B, F, V]` tells which items are equal."""
        left = self.attributes(batch["attributes"], training)
        right = self.photos(batch["vectors"]) if "vectors" in batch else self.attributes(batch["views"], training)
        return info_nce(left, right, temperature=self.temperature, same=same_rows(batch["whole"]))
