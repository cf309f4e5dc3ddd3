"""Elements of a `tf.data` dataset, made before they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorflow as tf


def made_ahead(given: tf.data.Dataset, make: Callable[..., Any], parallel: int = 2) -> tf.data.Dataset:
    """`make` of each element of a dataset, in order, so many at a time, and two ahead of their use.

    Nothing is tuned on the way: all numbers are given. TensorFlow's thread that tunes sleeps for up to a minute at a time.
    When the iterator is dropped it is woken, but may look before it is told, and sleep on while whoever dropped the iterator
    waits for it (TensorFlow 2.20: most trainings on one core stood still for 20 to 60 seconds after their last step).
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return given.map(make, num_parallel_calls=parallel, deterministic=True).prefetch(2).with_options(options)
