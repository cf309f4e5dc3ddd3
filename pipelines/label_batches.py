"""Class-balanced batches of photos for metric learning; a batch is a function of the step number."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from pipelines.balanced import balanced_batches
from pipelines.batches import make_dataset
from pipelines.photos.views import ViewPhotos
from pipelines.prefetching import made_ahead

if TYPE_CHECKING:
    import tensorflow as tf

    from pipelines.photos.augment import PhotoAugmenter


@dataclass
class LabelBatches:
    """P x K batches; calling it with a step number makes that step's batch.

    Attributes:
        rows: `[n]` rows of the training items.
        labels: int32 `[n]` their classes, 0..C-1.
        photos: of all items.
        classes: P, different classes in a batch.
        per_class: K, items of each.
        seed: of the order and of the photos' changes.
    """

    rows: np.ndarray
    labels: np.ndarray
    photos: ViewPhotos
    classes: int
    per_class: int
    seed: int = 0

    def __post_init__(self) -> None:
        # Steps on both sides of an epoch's end are made at the same time.
        self.epoch = lru_cache(maxsize=2)(self._epoch)
        self.steps_per_epoch = len(self.epoch(0))
        if not self.steps_per_epoch:
            raise ValueError(f"{len(self.rows)} training items make no batch of {self.classes} classes")

    def __call__(self, step: int) -> dict:
        """The batch of `step`.

        Returns:
            `items` (see `ViewPhotos.gather`) of B = P * K items, `labels` int32 `[B]`, and `seed` int32 `[2]` for
            changes to the photos.
        """
        epoch, place = divmod(step, self.steps_per_epoch)
        chosen = self.epoch(epoch)[place]
        return {
            "items": self.photos.gather(self.rows[chosen]),
            "labels": self.labels[chosen],
            "seed": np.array([self.seed, step], np.uint32).view(np.int32),  # seeds go up to 2**32
        }

    def _epoch(self, number: int) -> np.ndarray:
        """The batches of an epoch, places among the training items int32 `[batches, B]`."""
        return balanced_batches(
            self.labels, classes=self.classes, per_class=self.per_class, epoch=number, seed=self.seed
        )

    def dataset(
        self, start: int, stop: int, augment: PhotoAugmenter | None = None, play: float = 0.0
    ) -> tf.data.Dataset:
        """tf.data over the batches of steps `start` to `stop`, photos decoded, cropped and changed; see `BatchDecoder`.

        Yields:
            `items` with `photos` uint8 `[B, V, H, W, 3]` and `present` bool `[B, V]`, and `labels` int32 `[B]`.
        """
        decode = BatchDecoder(self.photos, augment=augment, play=play)
        return made_ahead(make_dataset(self, start, stop), decode)


class BatchDecoder:
    """Decodes a batch's photos where they are bytes, crops them to boxes, and changes them.

    Args:
        photos: where the batches' photos come from.
        augment: changes the photos; missing ones change too, and stay masked.
        play: of the boxes, see `BoxCropper`.
    """

    def __init__(self, photos: ViewPhotos, *, augment: PhotoAugmenter | None = None, play: float = 0.0):
        from pipelines.photos.boxes import BoxCropper

        self.size, self.augment = photos.size, augment
        self.crop = None if photos.boxes is None else BoxCropper(photos.size, play=play)

    def __call__(self, batch: dict) -> dict:
        """Finish a batch.

        Args:
            batch: see `LabelBatches`; `seed` may be absent where nothing is random.

        Returns:
            `items` with `photos` uint8 `[B, V, H, W, 3]` and `present` bool `[B, V]`, and `labels`.
        """
        import tensorflow as tf

        from pipelines.photos.pixels import decode_photos

        items = dict(batch["items"])
        views = items["present"].shape[1]
        if "photo_files" not in items:
            flat = tf.reshape(items["photos"], [-1, *self.size, 3])
        else:
            files = tf.reshape(items.pop("photo_files"), [-1])
            if self.crop is None:
                flat = decode_photos(files, self.size)[0]
            else:
                flat = self.crop(files, tf.reshape(items.pop("boxes"), [-1, 4]), batch.get("seed"))
        if self.augment is not None:
            flat = self.augment(flat, batch["seed"])
        items["photos"] = tf.reshape(flat, [-1, views, *self.size, 3])
        return {"items": items, "labels": batch["labels"]}
