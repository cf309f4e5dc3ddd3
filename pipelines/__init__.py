"""Readers that turn a shop's raw files into the prepared dataset, and the tf.data batches made from it."""

import tfrec  # noqa: F401  (pins Keras 2 before anything imports TensorFlow)
