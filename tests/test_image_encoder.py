"""The image encoders: tokens of photos, pooling, freezing and low-rank adaptation."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import pytest
import tensorflow as tf

from tests.layer_checks import check_layer
from tfrec.config import ConfigError, ImageConfig
from tfrec.encoders.blocks import named_variables
from tfrec.encoders.errors import EncoderError
from tfrec.encoders.image import ViTEncoder, pool_grid
from tfrec.encoders.resnet import ResNetEncoder
from tfrec.encoders.tuning import add_lora, freeze, freeze_statistics, merge_lora
from tfrec.encoders.untrained import untrained_vit


def photos(height=16, width=24, count=2, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3)).astype(np.uint8)


def small_vit(**options):
    defaults = {"size": (16, 24), "patch": 8, "dim": 12, "layers": 2, "heads": 3}
    return ViTEncoder(**{**defaults, **options})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pre_norm": True, "activation": "quick_gelu", "mlp_dim": 20, "dropout": 0.1, "projection_dim": 5},
        {"stem_convolutions": 2},
        {"stem_convolutions": 2, "stem_pooling": True},
    ],
    ids=["vit", "clip", "convolutions", "pooled"],
)
def test_a_vit_passes_the_check_of_all_layers(options):
    layer = check_layer(lambda: small_vit(**options), photos(), (2, 7, 12), untrained=["projection"])
    assert layer.tokens == 7
    assert layer.grid == (2, 3)


def test_a_resnet_passes_the_check_of_all_layers():
    layer = check_layer(
        lambda: ResNetEncoder(size=(64, 40), depths=(2, 1), widths=(16, 32), stem_width=8),
        photos(64, 40),
        (2, 1 + 8 * 5, 32),
    )
    assert layer.grid == (8, 5)
    tokens = layer(photos(64, 40))
    np.testing.assert_allclose(layer.pooled(tokens), tf.reduce_mean(tokens[:, 1:], 1), rtol=1e-5)


def test_float_and_integer_photos_give_the_same_tokens_in_half_precision_too():
    for policy in ("float32", "mixed_bfloat16", "mixed_float16"):
        tf.keras.mixed_precision.set_global_policy(policy)
        try:
            encoder = small_vit()
            np.testing.assert_array_equal(
                tf.cast(encoder(photos()), tf.float32), tf.cast(encoder(photos().astype(np.float32)), tf.float32)
            )
        finally:
            tf.keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize("pooled", [False, True])
def test_convolutions_come_before_patches_as_coarse_as_without_them(pooled):
    encoder = small_vit(stem_convolutions=3, stem_pooling=pooled)
    assert encoder(photos()).shape == (2, 7, 12)
    assert encoder.embedding.projection.kernel.shape[:2] == (1, 1)
    names = set(named_variables(encoder))
    assert {"stem.convolution_2.kernel", "stem.norm_0.gamma", "patch.kernel"} <= names
    freeze(encoder, 1)
    trained = {variable.ref() for variable in encoder.trainable_variables}
    assert not trained & {variable.ref() for variable in encoder.convolutions.weights}


def test_a_pooled_stems_statistics_move_in_training_alone_and_not_where_frozen():
    encoder = small_vit(stem_convolutions=2, stem_pooling=True)
    encoder.build(None)
    mean = encoder.convolutions.layers[0][1].moving_mean
    start = mean.numpy()
    encoder(photos(), training=False)
    np.testing.assert_array_equal(mean, start)
    encoder(photos(), training=True)
    assert not np.allclose(mean, start)
    moved = mean.numpy()
    freeze(encoder)
    encoder(photos(), training=True)
    np.testing.assert_array_equal(mean, moved)


def test_all_weights_exist_after_build_and_the_first_call_adds_none():
    encoder = small_vit(pre_norm=True, projection_dim=4)
    encoder.build(None)
    built = len(encoder.weights)
    encoder.pooled(encoder(photos()))
    assert len(encoder.weights) == built
    names = {weight.name for weight in encoder.weights}
    assert {"embedding/class_token:0", "block_1/query/kernel:0", "projection/kernel:0"} <= names


def test_rows_and_columns_of_patches_keep_their_places():
    """Without position embeddings a patch's token depends on what it shows, not on where it stands."""
    encoder = small_vit(layers=1)
    encoder.build(None)
    encoder.embedding.position_embedding.set_weights([np.zeros((7, 12), np.float32)])
    photo = np.zeros((1, 16, 24, 3), np.uint8)
    photo[0, :8, 16:] = 200  # first row, third column: patch 2
    embedded = encoder.embed(photo)[0, 1:].numpy()
    differs = [not np.allclose(token, embedded[0]) for token in embedded]
    assert differs == [False, False, True, False, False, False]


def test_pooling_returns_class_token_mean_or_both():
    tokens = tf.random.normal([2, 7, 12])
    np.testing.assert_array_equal(small_vit().pooled(tokens), tokens[:, 0])
    np.testing.assert_allclose(small_vit(pooling="mean").pooled(tokens), tf.reduce_mean(tokens[:, 1:], 1), rtol=1e-5)
    both = small_vit(pooling="class_mean")
    assert both.pooled(tokens).shape == (2, 24)
    assert both.output_dim == 24
    assert small_vit(pooling="class_mean", projection_dim=3).pooled(tokens).shape == (2, 3)


@pytest.mark.parametrize(("grid", "factor"), [((4, 4), 2), ((3, 5), 2), ((7, 7), 3), ((2, 2), 1)])
def test_pooled_patches_are_means_of_squares(grid, factor):
    rows, columns = grid
    tokens = np.random.default_rng(1).normal(size=(2, 1 + rows * columns, 3)).astype(np.float32)
    maps = tokens[:, 1:].reshape(2, rows, columns, 3)
    expected = [tokens[:, 0]]
    for row in range(0, rows, factor):
        for column in range(0, columns, factor):
            expected.append(maps[:, row : row + factor, column : column + factor].mean((1, 2)))
    np.testing.assert_allclose(
        pool_grid(tf.constant(tokens), grid, factor), np.stack(expected, 1), rtol=1e-5, atol=1e-6
    )


def test_patches_pool_in_half_precision():
    tokens = tf.cast(tf.random.normal([1, 7, 12]), tf.bfloat16)
    assert small_vit().pool_patches(tokens).dtype == tf.bfloat16


def test_layer_tokens_end_where_the_call_ends():
    encoder = small_vit()
    states = encoder.layer_tokens(photos())
    assert len(states) == 3
    np.testing.assert_allclose(encoder.layer_norm(states[-1]), encoder(photos()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 7}, "size=.*patch=7"),
        ({"stem_convolutions": 4}, "stem_convolutions=4 .*patch=8"),
        ({"heads": 5}, "heads=5"),
        ({"pooling": "max"}, "pooling='max'"),
        ({"activation": "relu"}, "activation='relu'"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(EncoderError, match=message):
        small_vit(**options)


@pytest.mark.parametrize("option", ["model.image", "model.encoder"])
def test_sizes_of_a_configuration_that_do_not_fit_are_its_errors(option):
    sizes = ImageConfig(size=(50, 50), patch=12)
    with pytest.raises(ConfigError, match=rf"{option}: size=\(50, 50\) is not a multiple of patch=12"):
        untrained_vit(sizes, option=option)


def test_photos_of_another_size_are_refused_with_both_sizes():
    with pytest.raises(ValueError, match=r"24 x 16 pixels.*\(16, 24\)"):
        small_vit()(photos(24, 16))


def test_freezing_leaves_only_the_last_blocks_to_train():
    encoder = small_vit(layers=3, pre_norm=True)
    encoder.build(None)
    per_block, final = 16, 2
    freeze(encoder)
    assert encoder.trainable_weights == []
    freeze(encoder, train_last=2)
    assert len(encoder.trainable_weights) == 2 * per_block + final
    freeze(encoder, train_last=None)
    assert len(encoder.trainable_weights) == len(encoder.weights)
    with pytest.raises(EncoderError, match=r"train_last=4.*3 blocks"):
        freeze(encoder, train_last=4)


def test_frozen_weights_do_not_move_and_the_others_do():
    encoder = small_vit()
    encoder.build(None)
    freeze(encoder, train_last=1)
    before = [weight.numpy() for weight in encoder.blocks[0].weights + encoder.blocks[1].weights]
    optimizer = tf.keras.optimizers.Adam(0.1)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(encoder(photos()) ** 3)
    optimizer.minimize(loss, encoder.trainable_weights, tape=tape)
    moved = [
        not np.array_equal(old, new) for old, new in zip(before, encoder.blocks[0].weights + encoder.blocks[1].weights)
    ]
    assert not any(moved[:16])
    assert any(moved[16:])


def test_a_frozen_resnet_keeps_its_running_means():
    encoder = ResNetEncoder(size=32, depths=(1,), widths=(16,), stem_width=8)
    encoder.build(None)
    freeze(encoder)
    before = encoder.stem_norm.moving_mean.numpy()
    encoder(photos(32, 32), training=True)
    np.testing.assert_array_equal(encoder.stem_norm.moving_mean.numpy(), before)


def test_low_rank_updates_start_as_nothing_train_alone_and_merge_exactly():
    encoder = small_vit()
    published = encoder(photos())
    names = len(encoder.weights)
    add_lora(encoder, rank=2)
    np.testing.assert_allclose(encoder(photos()), published, rtol=1e-5, atol=1e-5)  # its blocks are no longer flat
    assert len(encoder.trainable_weights) == 2 * 2 * 2  # blocks, query and value, down and up
    with pytest.raises(ValueError, match="already"):
        add_lora(encoder)
    for weight in encoder.trainable_weights:
        weight.assign_add(tf.random.normal(weight.shape, seed=3))
    adapted = encoder(photos())
    assert np.abs(adapted - published).max() > 0.01
    merge_lora(encoder)
    assert len(encoder.weights) == names
    np.testing.assert_allclose(encoder(photos()), adapted, rtol=1e-4, atol=1e-5)


def test_low_rank_targets_are_checked():
    with pytest.raises(ValueError, match="targets"):
        add_lora(small_vit(), targets=["output"])


def test_a_resnet_takes_no_low_rank_updates_and_keeps_its_statistics():
    encoder = ResNetEncoder(size=16, depths=(1, 1), widths=(8, 16), stem_width=4)
    encoder(photos(16, 16))
    with pytest.raises(EncoderError, match=r"lora_rank=2: .* is a ResNet, which has no attention"):
        add_lora(encoder, rank=2)
    freeze_statistics(encoder)
    before = [v.numpy() for v in encoder.non_trainable_variables]
    whole = encoder(photos(16, 16, count=4), training=True)
    parts = [encoder(photos(16, 16, count=4)[i : i + 1], training=True) for i in range(4)]
    np.testing.assert_allclose(tf.concat(parts, 0), whole, atol=1e-5)
    for a, b in zip(before, encoder.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(a, b)
    assert encoder.trainable_variables  # the convolutions


def test_low_rank_updates_begin_as_the_reference_does():
    """kaiming_uniform of slope sqrt(5), as in PEFT: uniform within one over the root of the width."""
    encoder = small_vit(dim=64, heads=4)
    encoder(photos())
    add_lora(encoder, rank=8)
    values = np.concatenate([v.numpy().ravel() for v in encoder.trainable_variables if "lora_down" in v.name])
    assert np.abs(values).max() == pytest.approx(1 / 8, rel=0.02)
    assert values.var() == pytest.approx(1 / (3 * 64), rel=0.1)
