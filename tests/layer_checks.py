"""One check for every layer: shape, configuration, mixed precision, saving and restoring."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tensorflow as tf

LayerFactory = Callable[[], tf.keras.layers.Layer]


def check_layer(
    layer_factory: LayerFactory,
    inputs: Any,
    expected_shape: Sequence,
    *,
    policies: Sequence[str] = ("mixed_bfloat16", "mixed_float16"),
    tolerance: float = 0.1,
    untrained: Sequence[str] = (),
) -> tf.keras.layers.Layer:
    """Check one layer in every way that all layers must pass, and return it.

    Args:
        layer_factory: Builds the layer anew at each call.
        inputs: What the layer is called with; a tuple is several arguments.
        expected_shape: Shape of the output, or a list of shapes if there are several outputs.
        policies: Mixed-precision policies under which the outputs must stay close to those in float32.
        tolerance: How close, relative to the largest output.
        untrained: Parts of the names of weights that this call gives no gradient.
    """
    layer = layer_factory()
    outputs = _outputs(layer, inputs)
    assert [tuple(output.shape) for output in outputs] == _shapes(expected_shape)
    _check_gradients(layer, inputs, untrained)
    _check_config(layer, inputs, outputs)
    _check_checkpoint(layer, layer_factory, inputs, outputs)
    for policy in policies:
        _check_policy(layer, layer_factory, inputs, outputs, policy, tolerance)
    return layer


@contextmanager
def global_policy(name: str) -> Iterator[None]:
    """Set Keras's global precision policy for a while."""
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(name)
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(before)


def _check_gradients(layer: tf.keras.layers.Layer, inputs: Any, untrained: Sequence[str]) -> None:
    """Every trainable weight gets a gradient, and it is finite."""
    with tf.GradientTape() as tape:
        loss = tf.add_n(
            [tf.reduce_sum(tf.cast(x, tf.float32) ** 2) for x in _outputs(layer, inputs) if x.dtype.is_floating]
        )
    for weight, gradient in zip(layer.trainable_weights, tape.gradient(loss, layer.trainable_weights)):
        if any(part in weight.name for part in untrained):
            continue
        assert gradient is not None, f"{weight.name} gets no gradient"
        gradient = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
        assert np.isfinite(gradient.numpy()).all(), f"the gradient of {weight.name} is not finite"


def _check_config(layer: tf.keras.layers.Layer, inputs: Any, expected: list[tf.Tensor]) -> None:
    """A layer rebuilt from its configuration, as JSON keeps it, gives the same outputs with the same weights."""
    config = json.loads(json.dumps(layer.get_config()))
    rebuilt = type(layer).from_config(config)
    _outputs(rebuilt, inputs)
    rebuilt.set_weights(layer.get_weights())
    _assert_equal(_outputs(rebuilt, inputs), expected)


def _check_checkpoint(
    layer: tf.keras.layers.Layer, factory: LayerFactory, inputs: Any, expected: list[tf.Tensor]
) -> None:
    """A new layer restored from a checkpoint gives the same outputs, and nothing of the checkpoint is left over."""
    fresh = factory()
    _outputs(fresh, inputs)
    with TemporaryDirectory() as folder:
        path = tf.train.Checkpoint(layer=layer).write(str(Path(folder) / "layer"))
        tf.train.Checkpoint(layer=fresh).read(path).assert_consumed()
    _assert_equal(_outputs(fresh, inputs), expected)


def _check_policy(
    layer: tf.keras.layers.Layer,
    factory: LayerFactory,
    inputs: Any,
    expected: list[tf.Tensor],
    policy: str,
    tolerance: float,
) -> None:
    """Under a mixed policy the weights stay float32 and the outputs close."""
    with global_policy(policy):
        mixed = factory()
        _outputs(mixed, inputs)
        assert {weight.dtype for weight in mixed.trainable_weights} <= {tf.float32}
        mixed.set_weights(layer.get_weights())
        for output, reference in zip(_outputs(mixed, inputs), expected):
            output, reference = tf.cast(output, tf.float32).numpy(), tf.cast(reference, tf.float32).numpy()
            scale = np.abs(reference).max() + 1e-6
            np.testing.assert_allclose(output / scale, reference / scale, atol=tolerance, err_msg=policy)


def _outputs(layer: tf.keras.layers.Layer, inputs: Any) -> list[tf.Tensor]:
    """Call the layer and return its outputs as a list."""
    return tf.nest.flatten(layer(*inputs) if isinstance(inputs, tuple) else layer(inputs))


def _shapes(expected: Sequence) -> list[tuple[int, ...]]:
    """Return the expected shapes as a list of tuples."""
    return [tuple(shape) for shape in expected] if isinstance(expected, list) else [tuple(expected)]


def _assert_equal(outputs: list[tf.Tensor], expected: list[tf.Tensor]) -> None:
    """Assert that outputs are those expected, up to the order in which sums are taken."""
    for output, reference in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(
            tf.cast(output, tf.float32).numpy(), tf.cast(reference, tf.float32).numpy(), rtol=1e-5, atol=1e-6
        )
