"""Encoders written flat give what the encoders give."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import pytest
import tensorflow as tf

from tfrec.encoders.flat import flat_tokens, held_blocks, normed
from tfrec.encoders.image import ViTEncoder
from tfrec.encoders.text import BertEncoder, ClipTextEncoder

IDS = np.array([[2, 5, 6, 7, 3], [2, 8, 3, 0, 0]], np.int32)
ENCODERS = {
    "bert": lambda: BertEncoder(vocabulary_size=9, dim=12, layers=3, heads=3, max_length=8, dropout=0.0),
    "clip": lambda: ClipTextEncoder(vocabulary_size=9, dim=12, layers=3, heads=3, max_length=8, end_id=3),
    "vit": lambda: ViTEncoder(size=(16, 24), patch=8, dim=12, layers=3, heads=3),
    "vit, pre-norm": lambda: ViTEncoder(
        size=16, patch=8, dim=12, layers=2, heads=2, pre_norm=True, activation="quick_gelu"
    ),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_flat_blocks_give_the_encoders_tokens(name):
    encoder = ENCODERS[name]()
    encoder.build(None)
    for weight in encoder.weights:
        weight.assign(tf.random.stateless_normal(weight.shape, [1, 2]) * 0.5)
    inputs = IDS
    if name.startswith("vit"):
        inputs = np.random.default_rng(0).integers(0, 256, (2, *encoder.size, 3), dtype=np.uint8)
    expected = encoder(inputs).numpy()
    counts = encoder.mask(inputs).numpy() if name in ("bert", "clip") else np.ones(expected.shape[:2], bool)
    for blocks in (None, held_blocks(encoder)):
        found = flat_tokens(encoder, tf.constant(inputs), blocks).numpy()
        np.testing.assert_allclose(found[counts], expected[counts], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 300.0])
def test_layer_normalisation_is_that_of_the_formula(scale):
    """Also where a row hardly varies and epsilon counts, and whether or not the runtime makes one op of it."""
    x = np.random.default_rng(0).standard_normal((7, 24)).astype(np.float32) * scale + 3 * scale
    scale, offset = np.linspace(-2, 2, 24, dtype=np.float32), np.linspace(5, 1, 24, dtype=np.float32)
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-12) * scale + offset
    traced = tf.function(lambda x: normed(x, (scale, offset), 1e-12), input_signature=[tf.TensorSpec([None, 24])])
    for found in (normed(tf.constant(x), (scale, offset), 1e-12), traced(tf.constant(x))):
        np.testing.assert_allclose(found.numpy(), expected, atol=2e-4)
    assert normed(tf.zeros([0, 24]), (scale, offset), 1e-12).shape == (0, 24)


def test_half_precision_stays_half():
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        encoder = ENCODERS["bert"]()
        encoder.build(None)
        assert flat_tokens(encoder, tf.constant(IDS)).dtype == tf.bfloat16
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
