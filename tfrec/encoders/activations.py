"""The activations of the published encoders, exact and serialisable by name."""

from collections.abc import Callable

import tensorflow as tf

from tfrec.encoders.errors import EncoderError

Activation = Callable[[tf.Tensor], tf.Tensor]


@tf.keras.utils.register_keras_serializable("tfrec")
def gelu(x: tf.Tensor) -> tf.Tensor:
    """GELU by the error function, as BERT, ViT and DINOv2 were trained (the bricks default to tanh)."""
    return tf.nn.gelu(x, approximate=False)


@tf.keras.utils.register_keras_serializable("tfrec")
def gelu_tanh(x: tf.Tensor) -> tf.Tensor:
    """GELU in its tanh approximation, as KerasNLP's BERT presets were trained."""
    return tf.nn.gelu(x, approximate=True)


@tf.keras.utils.register_keras_serializable("tfrec")
def quick_gelu(x: tf.Tensor) -> tf.Tensor:
    """GELU in its sigmoid form, as OpenAI's CLIP was trained (Hendrycks & Gimpel, arXiv:1606.08415)."""
    return x * tf.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Activation] = {"gelu": gelu, "gelu_tanh": gelu_tanh, "quick_gelu": quick_gelu}


def activation(name: str) -> Activation:
    """Return the activation called `name`.

    Raises:
        EncoderError: No activation has this name.
    """
    if name not in ACTIVATIONS:
        raise EncoderError(f"activation={name!r} is not known; choose one of {sorted(ACTIVATIONS)}.")
    return ACTIVATIONS[name]
