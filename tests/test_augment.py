"""Changes to photos inside tf.data: functions of the seed, different for every photo."""

import numpy as np
import pytest
import tensorflow as tf

from pipelines.photos.augment import PhotoAugmenter
from tests.layer_checks import global_policy

PHOTOS = np.random.default_rng(0).integers(0, 256, (12, 20, 16, 3)).astype(np.uint8)
KINDS = {
    "flip": {"flip": True},
    "shift": {"shift": 0.2},
    "zoom": {"zoom": 0.5},
    "rand_augment": {"operations": 1, "magnitude": 0.8},
}


def changed(options, seeds):
    augment = PhotoAugmenter((20, 16), **options)
    steps = tf.data.Dataset.from_tensor_slices(np.array([[7, seed] for seed in seeds], np.int32))
    return [x.numpy() for x in steps.map(lambda seed: augment(tf.constant(PHOTOS), seed), num_parallel_calls=2)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.long
def test_equal_seeds_give_equal_photos_whatever_came_before(kind):
    first, again = changed(KINDS[kind], [1, 2, 3]), changed(KINDS[kind], [3, 1])
    np.testing.assert_array_equal(first[2], again[0])
    np.testing.assert_array_equal(first[0], again[1])
    assert not np.array_equal(first[0], first[1])
    assert first[0].dtype == np.uint8


@pytest.mark.parametrize("kind", KINDS)
def test_every_photo_of_a_batch_changes_in_its_own_way(kind):
    same = np.repeat(PHOTOS[:1], 12, 0)
    augment = PhotoAugmenter((20, 16), **KINDS[kind])
    found = tf.function(augment)(tf.constant(same), tf.constant([0, 1])).numpy()
    different = len({photo.tobytes() for photo in found})
    assert different == 2 if kind == "flip" else different > 6


@pytest.mark.parametrize("kind", KINDS)
def test_changes_are_the_same_under_mixed_precision(kind):
    with global_policy("mixed_bfloat16"):
        mixed = changed(KINDS[kind], [1])
    np.testing.assert_array_equal(mixed, changed(KINDS[kind], [1]))


def test_without_changes_photos_stay_as_they_are():
    np.testing.assert_array_equal(PhotoAugmenter((20, 16))(tf.constant(PHOTOS), tf.constant([0, 1])), PHOTOS)


def test_a_flip_mirrors_from_left_to_right():
    (found,) = changed(KINDS["flip"], [5])
    mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(found, PHOTOS)]
    kept = [np.array_equal(a, b) for a, b in zip(found, PHOTOS)]
    assert all(m or k for m, k in zip(mirrored, kept))
    assert 0 < sum(mirrored) < 12
