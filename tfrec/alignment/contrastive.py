"""The model that brings attributes into the space of photos."""

import tensorflow as tf

from pipelines.batches import Batch
from tfrec.encoders.attributes import AttributeEncoder
from tfrec.losses import info_nce, same_rows
from tfrec.trainable import Trainable


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
        `[B, F, V]`, the same attributes seen another time; `whole` int32 `[B, F, V]`, all of an item's, each field's in
        rising order, tells which items are equal."""
        left = self.attributes(batch["attributes"], training)
        right = self.photos(batch["vectors"]) if "vectors" in batch else self.attributes(batch["views"], training)
        return info_nce(left, right, temperature=self.temperature, same=same_rows(batch["whole"]))
