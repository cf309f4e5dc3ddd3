"""tfrec: from a shop's photos, texts, attributes and purchases to a served, indexed recommender.

Importing the package pins everything to Keras 2 (`tf_keras`), the only Keras that TensorFlow Recommenders supports.
"""

import os
import sys

__version__ = "0.1.0"


def _pin_keras_2() -> None:
    """Set the switch that makes `tf.keras` be Keras 2; refuse to run where TensorFlow chose Keras 3 already.

    Raises:
        ImportError: TensorFlow was imported before tfrec without `TF_USE_LEGACY_KERAS=1`.
    """
    chosen_before = os.environ.get("TF_USE_LEGACY_KERAS")
    if "tensorflow" in sys.modules and chosen_before not in ("1", "true", "True"):
        raise ImportError(
            "TensorFlow was imported before tfrec and runs on Keras 3, which TensorFlow Recommenders does not support. "
            "Import tfrec first (`import tfrec, tensorflow`), or set TF_USE_LEGACY_KERAS=1 in the environment."
        )
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # errors reach Python as exceptions; what is left is noise


_pin_keras_2()
