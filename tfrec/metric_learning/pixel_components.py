"""What the pixels of an item's photos say by themselves, as a fixed part of an embedding: nothing of it trains."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from tfrec.metric_learning.losses import normalize


@tf.keras.utils.register_keras_serializable("tfrec")
class PixelComponents(tf.keras.layers.Layer):
    """Principal components of small photos, fitted by `adapt`, then constant.

    An encoder learns what tells the training classes apart and forgets the rest, which other classes may need; the
    closest photo in pixels is often of the same class whatever the class. A photo is made small, inverted (white
    grounds become zeros, so that the thing and not the ground decides), brought to length 1, and projected on the
    components of the training photos.

    Args:
        size: height and width that photos are made small to, in pixels.
        components: how many are kept (K).
        whiten: the power of a component's standard deviation that it is divided by; 0: as it is, 1: all weigh the same.
    """

    def __init__(self, size: tuple[int, int], *, components: int = 128, whiten: float = 0.25, **kwargs: Any):
        # float32 whatever the policy: near neighbours differ by small parts of their cosines.
        kwargs.update(dtype="float32", autocast=False)
        super().__init__(trainable=False, **kwargs)
        self.size = (int(size[0]), int(size[1]))
        self.components, self.whiten = components, whiten

    def build(self, input_shape: tf.TensorShape) -> None:
        """Create the constants for photos `[B, V, H, W, 3]`; before `adapt`, a random projection that keeps distances."""
        width = input_shape[1] * self._width
        self.mean = self.add_weight("mean", (width,), initializer="zeros", trainable=False)
        orthogonal = tf.keras.initializers.Orthogonal(seed=0)
        self.projection = self.add_weight(
            "projection", (width, self.components), initializer=orthogonal, trainable=False
        )
        super().build(input_shape)

    def adapt(self, batches: Iterable[tuple[np.ndarray | tf.Tensor, np.ndarray | tf.Tensor]], *, seed: int = 0) -> None:
        """Fit the mean and the components to items; of their photos only the small ones are kept.

        Args:
            batches: photos `[n, V, H, W, 3]` in 0..255, and bool `[n, V]`, False where there is no such photo; in all N
                items.
            seed: of the search for components.

        Raises:
            ValueError: fewer items, or fewer numbers an item, than components.
        """
        from sklearn.decomposition import PCA

        made = [(self._small(tf.convert_to_tensor(photos)).numpy(), np.asarray(present)) for photos, present in batches]
        small, there = (np.concatenate(parts) for parts in zip(*made))  # (N, V, P), (N, V)
        there = there[..., None]
        if not self.built:
            self.build(small.shape)
        mean = (small * there).sum(0) / np.maximum(there.sum(0), 1)
        centred = np.where(there, small - mean, 0.0).reshape(len(small), -1)
        if self.components > min(centred.shape):
            raise ValueError(
                f"components={self.components} cannot be had from {len(centred)} items of {centred.shape[1]} numbers; "
                "lower it"
            )
        found = PCA(self.components, random_state=seed).fit(centred)
        spread = np.maximum(np.sqrt(found.explained_variance_), 1e-6)
        self.mean.assign(mean.ravel())
        self.projection.assign((found.components_ / spread[:, None] ** self.whiten).T)

    def call(self, photos: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Project.

        Args:
            photos: `[B, V, H, W, 3]` in 0..255.
            present: bool `[B, V]`; the mean photo stands for one that is missing.

        Returns:
            float32 `[B, K]` of length 1.
        """
        small = self._small(photos)  # (B, V, P)
        mean = tf.reshape(self.mean, small.shape[1:])
        centred = tf.where(tf.convert_to_tensor(present)[..., None], small - mean, 0.0)
        return normalize(tf.matmul(tf.reshape(centred, [-1, self.mean.shape[0]]), self.projection))

    def _small(self, photos: tf.Tensor) -> tf.Tensor:
        """Inverted small photos of length 1, `[B, V, P]`."""
        views = photos.shape[1]
        flat = tf.cast(tf.reshape(photos, [-1, *photos.shape[2:]]), tf.float32)
        small = 255.0 - tf.image.resize(flat, self.size, method="area")
        return tf.reshape(normalize(tf.reshape(small, [-1, self._width])), [-1, views, self._width])

    @property
    def _width(self) -> int:
        """Numbers of one small photo (P)."""
        return self.size[0] * self.size[1] * 3

    def get_config(self) -> dict:
        """Return the arguments that rebuild the layer."""
        config = super().get_config()
        config.pop("trainable")
        return {**config, "size": self.size, "components": self.components, "whiten": self.whiten}


def shrunk(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Height and width in proportion, the longer of them at most `side`."""
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
