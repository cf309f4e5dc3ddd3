"""Encoders written flat give what the encoders give."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.step import libraries_blocks
from tfrec.encoders import written_out
from tfrec.encoders.flat import held_blocks, normed, runs_flat
from tfrec.encoders.image import ViTEncoder
from tfrec.encoders.text import BertEncoder, ClipTextEncoder
from tfrec.encoders.tuning import add_lora, merge_lora

IDS = np.array([[2, 5, 6, 7, 3], [2, 8, 3, 0, 0], [0, 0, 0, 0, 0]], np.int32)
BERT = {"vocabulary_size": 9, "dim": 12, "layers": 3, "heads": 3, "max_length": 8}
ENCODERS = {
    "bert": lambda: BertEncoder(**BERT, dropout=0.0),
    "bert, tanh": lambda: BertEncoder(**BERT, dropout=0.0, activation="gelu_tanh"),
    "clip": lambda: ClipTextEncoder(**BERT, end_id=3),
    "vit": lambda: ViTEncoder(size=(16, 24), patch=8, dim=12, layers=3, heads=3),
    "vit, pre-norm": lambda: ViTEncoder(
        size=16, patch=8, dim=12, layers=2, heads=2, pre_norm=True, activation="quick_gelu"
    ),
}


def made(name):
    """An encoder with weights of some size, what it reads, and which of its tokens count."""
    encoder = ENCODERS[name]()
    encoder.build(None)
    for number, weight in enumerate(encoder.weights):
        weight.assign(tf.random.stateless_normal(weight.shape, [1, number]) * 0.5)
    if name.startswith("vit"):
        photos = np.random.default_rng(0).integers(0, 256, (2, *encoder.size, 3), dtype=np.uint8)
        return encoder, photos, np.ones((2, encoder.tokens), bool)
    return encoder, IDS, encoder.mask(IDS).numpy()


@pytest.mark.parametrize("name", ENCODERS)
def test_flat_blocks_give_the_libraries_tokens(name):
    encoder, inputs, counts = made(name)
    with libraries_blocks():
        expected = encoder.layer_tokens(inputs)
    for options in ({}, {"training": True}, {"held": held_blocks(encoder)}):
        for found, wanted in zip(encoder.layer_tokens(tf.constant(inputs), **options), expected, strict=True):
            np.testing.assert_allclose(found.numpy()[counts], wanted.numpy()[counts], atol=2e-4, rtol=1e-3)


def gradients_of(encoder, inputs, counts):
    """Of all its weights, for a loss that tells tokens and their parts apart."""
    parts = np.linspace(-1, 2, encoder.dim, dtype=np.float32)
    with tf.GradientTape() as tape:
        tokens = tf.cast(encoder(tf.constant(inputs), training=True), tf.float32)
        loss = tf.reduce_mean(tf.square(tokens - 1.0)[counts] * parts)
    return [tf.convert_to_tensor(gradient).numpy() for gradient in tape.gradient(loss, encoder.trainable_variables)]


@pytest.mark.parametrize("name", ENCODERS)
def test_flat_blocks_give_the_libraries_gradients(name):
    encoder, *example = made(name)
    with libraries_blocks():
        expected = gradients_of(encoder, *example)
    for found, wanted, variable in zip(gradients_of(encoder, *example), expected, encoder.weights, strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-4 * (1 + abs(wanted).max()), err_msg=variable.name)


def test_gradients_in_half_precision_are_as_exact_as_the_libraries():
    encoder, *example = made("vit")
    exact = np.concatenate([g.ravel() for g in gradients_of(encoder, *example)])
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        half, *_ = made("vit")
        found = np.concatenate([g.ravel() for g in gradients_of(half, *example)])
        with libraries_blocks():
            keras = np.concatenate([g.ravel() for g in gradients_of(half, *example)])
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert np.linalg.norm(found - exact) < 1.2 * np.linalg.norm(keras - exact) < 0.5 * np.linalg.norm(exact)


def test_what_cannot_be_flat_is_left_to_the_libraries():
    encoder, ids, _ = made("bert")
    assert runs_flat(encoder, True)
    with libraries_blocks(), mock.patch("tfrec.encoders.text.run_blocks", side_effect=AssertionError):
        encoder(ids)  # what the others are compared with is not flat
    add_lora(encoder, rank=2)
    assert not runs_flat(encoder, False)
    merge_lora(encoder)
    assert runs_flat(encoder, True)
    dropping = BertEncoder(**BERT, dropout=0.5)
    dropping.build(None)
    assert runs_flat(dropping, False)
    assert not runs_flat(dropping, True)
    first, second = (dropping(tf.constant(ids), training=True).numpy() for _ in range(2))
    assert abs(first - second).max() > 0.1


def plain_attention(query, key, value, masks):
    return tf.nn.softmax(query @ tf.linalg.matrix_transpose(key) + masks) @ value


def plain_norm(x, scale, offset):
    mean, variance = tf.nn.moments(x, -1, keepdims=True)
    return tf.nn.batch_normalization(x, mean, variance, offset, scale, 1e-6)


@given(st.integers(0, 2**31 - 1), st.integers(1, 5), st.integers(2, 9), st.sampled_from([0.01, 1.0, 10.0]))
@settings(max_examples=25, deadline=None)
def test_gradients_written_out_are_those_of_the_formulas(seed, rows, width, spread):
    rng = np.random.default_rng(seed)

    def drawn(*shape):
        return tf.constant(rng.standard_normal(shape) * spread, tf.float32)

    masks = tf.constant(np.where(rng.random((2, 1, rows, rows)) < 0.3, -1e9, 0.0), tf.float32)
    sides = [drawn(2, 3, rows, width) for _ in range(3)]
    cases = [
        (written_out.layer_norm(1e-6), plain_norm, [drawn(rows, width), drawn(width), drawn(width)]),
        (written_out.gelu, lambda x: tf.nn.gelu(x, approximate=False), [drawn(rows, width)]),
        (written_out.attention(masks), lambda q, k, v: plain_attention(q, k, v, masks), sides),
    ]
    for own, formula, inputs in cases:
        found, expected = [], []
        for function, into in (
            (lambda *x, own=own: written_out.differentiable(own, True, *x), found),
            (formula, expected),
        ):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                value = function(*inputs)
                loss = tf.reduce_sum(tf.sin(value))
            into += [value, *tape.gradient(loss, inputs)]
        found.append(written_out.differentiable(own, False, *inputs))
        expected.append(expected[0])
        for one, other in zip(found, expected, strict=True):
            scale = 1 + float(tf.reduce_max(tf.abs(other)))
            np.testing.assert_allclose(one, other, atol=3e-4 * scale)


def test_a_row_that_sees_nothing_is_finite_in_float16():
    side = tf.ones([1, 1, 2, 4], tf.float16)
    masks = tf.fill([1, 1, 2, 2], -1e9)
    assert np.isfinite(written_out.differentiable(written_out.attention(masks), True, side, side, side)).all()


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
        assert encoder(tf.constant(IDS)).dtype == encoder(tf.constant(IDS), training=True).dtype == tf.bfloat16
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
