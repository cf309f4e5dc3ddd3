"""Fusing views: known cases, and nothing of a missing view gets through."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import pytest
import tensorflow as tf

from tests.layer_checks import check_layer
from tfrec.encoders.image import ViTEncoder
from tfrec.encoders.resnet import ResNetEncoder
from tfrec.metric_learning.multi_view import MultiViewEncoder, ViewFusion

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(3, 2, 8)).astype(np.float32)
PRESENT = np.array([[True, True], [True, False], [False, True]])


@pytest.mark.parametrize(("kind", "width"), [("concat", 16), ("mean", 8), ("attention", 8)])
def test_fusions_pass_the_layer_checks(kind, width):
    check_layer(lambda: ViewFusion(kind, heads=2), (VECTORS, PRESENT), (3, width))


def test_mean_is_over_the_views_that_are_there():
    fused = ViewFusion("mean")(VECTORS, PRESENT).numpy()
    np.testing.assert_allclose(fused[0], VECTORS[0].mean(0), rtol=1e-6)
    np.testing.assert_allclose(fused[1], VECTORS[1, 0], rtol=1e-6)
    np.testing.assert_array_equal(ViewFusion("mean")(VECTORS, np.zeros((3, 2), bool)), np.zeros((3, 8)))


@pytest.mark.parametrize("kind", ["concat", "mean", "attention"])
def test_a_missing_photo_is_not_read_and_a_present_one_is(kind):
    encoder = ViTEncoder(size=8, patch=4, dim=8, layers=1, heads=2)
    layer = MultiViewEncoder(encoder, ViewFusion(kind, heads=2))
    photos = RNG.integers(0, 256, (3, 2, 8, 8, 3)).astype(np.uint8)
    before = layer(photos, PRESENT).numpy()
    photos[1, 1], photos[2, 0] = 0, 255
    np.testing.assert_allclose(layer(photos, PRESENT), before, atol=1e-6)
    photos[1, 0] = 255 - photos[1, 0]
    assert not np.allclose(layer(photos, PRESENT)[1], before[1], atol=1e-3)


def test_views_share_their_weights():
    encoder = ViTEncoder(size=8, patch=4, dim=8, layers=1, heads=2)
    layer = MultiViewEncoder(encoder, ViewFusion("mean"))
    photos = RNG.integers(0, 256, (3, 2, 8, 8, 3)).astype(np.uint8)
    everything = np.ones((3, 2), bool)
    np.testing.assert_allclose(layer(photos, everything), layer(photos[:, ::-1], everything), atol=1e-5)


def test_an_unknown_fusion_is_refused():
    with pytest.raises(ValueError, match="'sum' is unknown"):
        ViewFusion("sum")


def test_batch_statistics_are_those_of_the_photos_that_are_there():
    """A missing photo's stand-in would move what all others are normalised by."""
    photos = RNG.integers(0, 256, (3, 2, 16, 16, 3)).astype(np.uint8)
    other = photos.copy()
    other[1, 1], other[2, 0] = 255, 0
    outputs, statistics = [], []
    for shown in (photos, other):
        tf.keras.utils.set_random_seed(0)
        encoder = ResNetEncoder(size=16, depths=(1,), widths=(8,), stem_width=4)
        layer = MultiViewEncoder(encoder, ViewFusion("mean"))
        outputs.append(layer(shown, PRESENT, training=True).numpy())
        statistics.append([v.numpy() for v in encoder.non_trainable_variables])
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-6)
    for a, b in zip(*statistics, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
