"""Random changes to training photos inside tf.data: KerasCV's preprocessing layers, drawing from a seed that is given.

KerasCV's layers draw from generators with a state, so a resumed training would see other photos than one that was never
stopped. Here their generators are replaced by one that derives every draw from the step's seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from pipelines.keras_packages import keras_cv

FILL = "nearest"  # what comes in from outside when a photo is moved: the border's colour goes on
UNUSED = 1  # a seed for generators that are replaced; without one, KerasCV asks for the global generator


class SeededDraws:
    """Stands for `tf.random.Generator` in KerasCV's layers; every draw is a function of the seed and its number.

    While a graph is traced, `start` puts the seed in place and the draws that follow are numbered.
    """

    def __init__(self) -> None:
        self._seed, self._number = None, 0

    def start(self, seed: tf.Tensor) -> None:
        """Draw from `seed`, int32 `[2]`, from here on."""
        self._seed, self._number = seed, 0

    def next_seed(self) -> tf.Tensor:
        """The seed of the next draw, int32 `[2]`."""
        self._number += 1
        return tf.random.experimental.stateless_fold_in(self._seed, self._number)

    def uniform(
        self,
        shape: Sequence[int] | tf.Tensor,
        minval: float = 0,
        maxval: float | None = None,
        dtype: tf.DType = tf.float32,
        **_: Any,
    ) -> tf.Tensor:
        """As `tf.random.Generator.uniform`."""
        maxval = 1 if maxval is None and tf.as_dtype(dtype).is_floating else maxval
        return tf.random.stateless_uniform(shape, self.next_seed(), minval, maxval, dtype)


class SeededFactor(keras_cv.core.FactorSampler):
    """A KerasCV factor sampler that draws from `SeededDraws`.

    Args:
        sampler: a normal or uniform factor sampler.
        draws: where the draws come from.
    """

    def __init__(self, sampler: keras_cv.core.FactorSampler, draws: SeededDraws):
        self.sampler, self.draws = sampler, draws

    def __call__(self, shape: Sequence[int] | tf.Tensor = (), dtype: tf.DType | str = "float32") -> tf.Tensor:
        seed, like = self.draws.next_seed(), self.sampler
        if isinstance(like, keras_cv.core.NormalFactorSampler):
            normal = tf.random.stateless_normal(shape, seed, like.mean, like.stddev, dtype)
            return tf.clip_by_value(normal, like.min_value, like.max_value)
        return tf.random.stateless_uniform(shape, seed, like.lower, like.upper, dtype)


def seed_layer(layer: tf.keras.layers.Layer, draws: SeededDraws) -> tf.keras.layers.Layer:
    """Make a KerasCV layer, and those inside it, draw from `draws`; returns the layer."""
    random = (keras_cv.core.NormalFactorSampler, keras_cv.core.UniformFactorSampler)
    for part in (layer, *layer.submodules):
        if hasattr(part, "_random_generator"):
            part._random_generator = draws
        for name, value in list(vars(part).items()):
            if isinstance(value, random):
                setattr(part, name, SeededFactor(value, draws))
    return layer


@contextmanager
def float32_layers() -> Iterator[None]:
    """Make layers that compute in float32 whatever the policy: cropping and resizing has no bfloat16 kernel."""
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy("float32")
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(before)


class PhotoAugmenter:
    """Mirror, move, zoom and RandAugment (Cubuk et al. 2019, https://arxiv.org/abs/1909.13719).

    Args:
        size: height and width of the photos.
        flip: mirror half of them.
        shift: move by up to this share of the side.
        zoom: crop to at least this share of the area, and resize; 1: never.
        operations: RandAugment's operations a photo; 0: none.
        magnitude: their strength, 0 to 1.
    """

    def __init__(
        self,
        size: tuple[int, int],
        *,
        flip: bool = False,
        shift: float = 0.0,
        zoom: float = 1.0,
        operations: int = 0,
        magnitude: float = 0.3,
    ):
        self.draws = SeededDraws()
        layers = keras_cv.layers
        of_batches, of_photos = [], []
        with float32_layers():
            if flip:
                of_batches.append(layers.RandomFlip("horizontal", seed=UNUSED))
            if shift:
                of_batches.append(layers.RandomTranslation(shift, shift, fill_mode=FILL, seed=UNUSED))
            if zoom < 1.0:
                of_photos.append(layers.RandomCropAndResize(size, (zoom, 1.0), (3 / 4, 4 / 3), seed=UNUSED))
            if operations:
                strength = {"augmentations_per_image": operations, "magnitude": magnitude}
                of_photos.append(layers.RandAugment((0, 255), **strength, seed=UNUSED))
        self._of_batches = [seed_layer(layer, self.draws) for layer in of_batches]
        self._of_photos = [seed_layer(layer, self.draws) for layer in of_photos]

    def __call__(self, photos: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Change photos.

        Args:
            photos: uint8 `[M, H, W, 3]`.
            seed: int32 `[2]`; equal seeds give equal changes.

        Returns:
            uint8 `[M, H, W, 3]`.
        """
        if not (self._of_batches or self._of_photos):
            return photos
        changed = tf.cast(photos, tf.float32)
        self.draws.start(seed)
        changed = apply(self._of_batches, changed)
        if self._of_photos:
            # These draw once a call, so every photo is a call with a seed of its own.
            limits = tf.int32.min, tf.int32.max
            seeds = tf.random.stateless_uniform([tf.shape(photos)[0], 2], self.draws.next_seed(), *limits, tf.int32)
            changed = tf.map_fn(self._change_one, (changed, seeds), fn_output_signature=tf.float32)
        changed = tf.cast(tf.round(tf.clip_by_value(changed, 0.0, 255.0)), tf.uint8)
        return tf.ensure_shape(changed, photos.shape)

    def _change_one(self, photo_and_seed: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        photo, seed = photo_and_seed
        self.draws.start(seed)
        return apply(self._of_photos, photo)


def apply(layers: list[Callable], photos: tf.Tensor) -> tf.Tensor:
    """Photos through one layer after the other."""
    for layer in layers:
        photos = layer(photos)
    return photos
