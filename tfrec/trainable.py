"""What the training loop asks of a model."""

import tensorflow as tf
import tensorflow_recommenders as tfrs

from pipelines.batches import Batch


class Trainable(tfrs.Model):
    """A model that `tfrec.training.trainer.Trainer` trains; a system writes `compute_loss` alone.

    A step calls `encode`, then `compute_loss` with what it gave, and after the optimizer's update `remember`. A model whose
    encoders' work is to be shared by workers or cut into parts (`training.accumulate`) has it in `encode`; one that reads
    vectors of former steps keeps them in `remember`.
    """

    def encode(self, batch: Batch, training: bool = False) -> tf.Tensor | None:
        """The expensive vectors of the batch's items `[E, D]`; None where nothing is to be shared, cut or remembered."""
        return None

    def compute_loss(self, batch: Batch, training: bool = False, fresh: tf.Tensor | None = None) -> tf.Tensor:
        """The loss of a batch, a scalar.

        Args:
            batch: named arrays.
            training: whether dropout applies.
            fresh: what `encode` gave; None where it was not called.
        """
        raise NotImplementedError

    def remember(self, batch: Batch, fresh: tf.Tensor | None) -> None:
        """Keep what later steps read of a batch that was just trained on."""
