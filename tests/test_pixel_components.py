"""The fixed pixel part of embeddings: known cases, precision, missing views, and that training leaves it alone."""

import numpy as np
import pytest

from tests.layer_checks import check_layer
from tests.metric_data import write_items
from tests.test_metric_learning import SMALL, configure, run, vectors
from tfrec.metric_learning.pixel_components import PixelComponents

RNG = np.random.default_rng(0)
PHOTOS = RNG.integers(0, 256, (40, 2, 8, 6, 3)).astype(np.uint8)
PRESENT = RNG.random((40, 2)) < 0.8


def adapted(photos=PHOTOS, present=PRESENT, **options):
    layer = PixelComponents((4, 3), **{"components": 6, **options})
    layer.adapt([(photos[:7], present[:7]), (photos[7:], present[7:])])
    return layer


def small_ink(photos):
    """Means of 2 x 2 pixels, inverted, each photo of length 1: `[N, V, P]`."""
    count, views = photos.shape[:2]
    ink = 255.0 - photos.reshape(count, views, 4, 2, 3, 2, 3).astype(float).mean((3, 5)).reshape(count, views, -1)
    return ink / np.linalg.norm(ink, axis=-1, keepdims=True)


def test_layer_checks():
    def layer():
        made = PixelComponents((4, 3), components=6)
        made.adapt([(PHOTOS, PRESENT)])
        return made

    made = check_layer(layer, (PHOTOS, PRESENT), (40, 6))
    assert not made.trainable_weights


@pytest.mark.parametrize("whiten", [0.0, 0.5])
def test_cosines_are_those_of_the_principal_components(whiten):
    present = np.ones((40, 2), bool)
    found = adapted(present=present, whiten=whiten)(PHOTOS, present).numpy()
    ink = small_ink(PHOTOS).reshape(40, -1)
    left, values, _ = np.linalg.svd(ink - ink.mean(0), full_matrices=False)
    expected = (left * values ** (1 - whiten))[:, :6]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-3)


def test_with_all_components_cosines_are_those_of_centred_pixels():
    photos, present = PHOTOS[:, :1], np.ones((40, 1), bool)
    found = adapted(photos, present, components=36, whiten=0.0)(photos, present).numpy()
    ink = small_ink(photos)[:, 0]
    centred = ink - ink.mean(0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(found @ found.T, centred @ centred.T, atol=1e-3)


def test_a_missing_photo_is_not_read():
    layer = adapted()
    present = np.tile([True, False], (40, 1))
    other = PHOTOS.copy()
    other[:, 1] = 0
    np.testing.assert_array_equal(layer(PHOTOS, present), layer(other, present))
    again = PHOTOS.copy()
    again[~PRESENT] = 7
    np.testing.assert_array_equal(adapted(again).projection, adapted().projection)


def test_white_photos_stay_finite():
    white = np.full((3, 2, 8, 6, 3), 255, np.uint8)
    assert np.isfinite(adapted()(white, np.ones((3, 2), bool))).all()
    assert np.isfinite(adapted(np.repeat(white, 10, 0), np.ones((30, 2), bool)).projection).all()


def test_too_many_components_are_refused():
    with pytest.raises(ValueError, match="components=50"):
        adapted(components=50)


@pytest.mark.long
def test_it_stands_beside_the_learned_part_and_the_loss_does_not_see_it(tmp_path):
    data = write_items(tmp_path / "data")
    plain = vectors(run(configure(data, SMALL), tmp_path / "plain"))["vectors"]
    options = {"model": {"pixels": {"weight": 2.0, "components": 5, "side": 8}}}
    both = vectors(run(configure(data, SMALL, options), tmp_path / "both"))["vectors"]
    assert both.shape == (48, 8 + 5)
    np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(both[:, :8] * np.sqrt(5.0), plain, atol=1e-4)  # 1 of the 1 + 2 x 2 is the learned part's
