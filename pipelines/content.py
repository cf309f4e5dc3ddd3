"""The content of a catalogue's items as arrays that a batch is gathered from: pixels, token ids, attribute ids.

The item tower's inputs for any rows, wherever they come from: photos decoded once and kept as pixels when they fit into
memory, decoded for each batch otherwise; or the frozen encoders' tokens from a feature store.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines.prefetching import made_ahead
from pipelines.prepared import Prepared
from pipelines.processor import cores
from pipelines.progress import Progress

PIXEL_BYTES = 4 << 30


@dataclass
class ItemContent:
    """What the item tower reads.

    Attributes:
        items: number of items N.
        arrays: name -> array `[N, ...]` (memory-mapped or resident), gathered by row: `tokens`, `attributes`, `photos`,
            `has_photo`, `photo_tokens`, `text_tokens`, `text_mask`.
        photo_bytes: each item's stored photo, or None where pixels are resident or unused.
        size: height and width of the pixels.
        pad_id: token id of padding; a text that is all padding is none.
    """

    items: int
    arrays: dict[str, Any] = field(default_factory=dict)
    photo_bytes: "PhotoBytes | None" = None
    size: tuple[int, int] | None = None
    pad_id: int = 0

    def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The content of `rows` `[E]`: each array's rows, and `photo_bytes` as an object array where photos are bytes."""
        batch = {name: np.asarray(array[rows]) for name, array in self.arrays.items()}
        if self.photo_bytes is not None:
            batch["photo_bytes"] = self.photo_bytes.read(rows)
        return batch


class PhotoBytes:
    """One photo a row as bytes.

    Args:
        prepared: the dataset.
        keys: the key of each row's photo, None where it has none; the first photo of each item where not given.
    """

    def __init__(self, prepared: Prepared, keys: Sequence[str | None] | None = None):
        self.keys = [row[0] if len(row) else None for row in prepared.items["images"]] if keys is None else list(keys)
        if prepared.images is None:
            raise ValueError(f"{prepared.path} has no photos")
        self.store = prepared.images

    @property
    def present(self) -> np.ndarray:
        """Whether each row has a photo, bool `[N]`."""
        return np.array([key is not None for key in self.keys])

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Bytes of `rows`, object `[E]`; empty where an item has no photo."""
        read = [b"" if self.keys[row] is None else self.store.read(self.keys[row]) for row in rows]
        return np.array(read, dtype=object)


def photo_arrays(
    prepared: Prepared, size: tuple[int, int], *, limit: int = PIXEL_BYTES
) -> tuple[dict[str, np.ndarray], PhotoBytes | None]:
    """Photos of all items for `ItemContent`: resident pixels where they fit into `limit` bytes, else bytes.

    Args:
        prepared: the dataset.
        size: height and width in pixels.
        limit: most bytes of resident pixels.

    Returns:
        Arrays (`has_photo`, and `photos` uint8 `[N, H, W, 3]` where resident) and a `PhotoBytes` or None.
    """
    items = len(prepared.items)
    if prepared.images is None:
        blank = np.broadcast_to(np.uint8(0), (items, *size, 3))  # which takes one byte, whatever the catalogue's size
        return {"has_photo": np.zeros(items, bool), "photos": blank}, None
    photos = PhotoBytes(prepared)
    arrays = {"has_photo": photos.present}
    if items * size[0] * size[1] * 3 > limit:
        return arrays, photos
    return {**arrays, "photos": decode_all(photos, items, size)}, None


def decode_all(
    photos: PhotoBytes, items: int, size: tuple[int, int], *, batch: int = 256, boxes: np.ndarray | None = None
) -> np.ndarray:
    """Decode every item's photo: uint8 `[N, H, W, 3]`, white where there is none; cropped to `boxes` `[N, 4]` if given."""
    import tensorflow as tf

    from pipelines.photos.boxes import BoxCropper
    from pipelines.photos.pixels import decode_photos

    if boxes is not None:
        crop, place = BoxCropper(size), tf.constant(boxes)
    pixels = np.empty((items, *size, 3), np.uint8)
    starts = tf.data.Dataset.range(0, items, batch)

    @tf.autograph.experimental.do_not_convert  # there is nothing to convert, and looking for it takes two seconds
    def read(start: tf.Tensor) -> tf.Tensor:
        read_rows = lambda s: photos.read(np.arange(s, min(s + batch, items)))  # noqa: E731
        data = tf.numpy_function(read_rows, [start], tf.string, stateful=False)
        data.set_shape([None])
        return decode_photos(data, size)[0] if boxes is None else crop(data, place[start : start + batch])

    done = 0
    with Progress("decode photos", items, unit=" photos") as bar:
        for block in made_ahead(starts, read, cores()):
            block = block.numpy()
            pixels[done : done + len(block)] = block
            done += len(block)
            bar.update(len(block))
    return pixels
