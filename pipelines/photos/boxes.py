"""Bounding boxes of photos: how items carry them, and photos cropped to them inside tf.data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf

WHOLE = (0.0, 0.0, 1.0, 1.0)


def format_box(box: Sequence[float]) -> str:
    """A box (left, top, right, bottom as shares of the photo's sides) as the text that items carry."""
    return " ".join(f"{share:.4f}" for share in box)


def parse_box(text: str) -> tuple[float, ...]:
    """What `format_box` wrote.

    Raises:
        ValueError: the text is no box.
    """
    box = tuple(map(float, text.split()))
    if len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        raise ValueError(f"{text!r} is no box; give left, top, right and bottom as shares of the photo's sides")
    return box


class BoxCropper:
    """Decodes photos and crops them to their boxes, with some play in training, by KerasCV's crop and resize.

    Args:
        size: height and width of the pixels; a box is stretched to it.
        play: each side of a box moves by up to this share of the box's length, out and in.
    """

    def __init__(self, size: tuple[int, int], *, play: float = 0.0):
        from pipelines.keras_packages import keras_cv

        self.size, self.play = size, play
        # The layer's own draws are not used: it is told where to crop.
        self.layer = keras_cv.layers.RandomCropAndResize(size, (1.0, 1.0), (1.0, 1.0), seed=1)

    def __call__(self, photos: tf.Tensor, boxes: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Decode and crop.

        Args:
            photos: JPEG or PNG bytes, string `[M]`; an empty string is a missing photo.
            boxes: float32 `[M, 4]`: left, top, right, bottom as shares of the photo's sides.
            seed: int32 `[2]`, for the play; None: none.

        Returns:
            uint8 `[M, H, W, 3]`, white where there is no photo.
        """
        import tensorflow as tf

        from pipelines.photos.pixels import WHITE, open_photo

        if seed is not None and self.play:
            sides = boxes[:, 2:] - boxes[:, :2]
            moves = tf.random.stateless_uniform(tf.shape(boxes), seed, -self.play, self.play)
            boxes = tf.clip_by_value(boxes + moves * tf.concat([sides, sides], 1), 0.0, 1.0)
        blank = tf.fill([*self.size, 3], tf.constant(float(WHITE)))

        def crop(photo_and_box: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            photo, box = photo_and_box
            place = tf.gather(box, [1, 0, 3, 2])[None]  # top, left, bottom, right
            cut = lambda: self.layer.augment_image(tf.cast(open_photo(photo), tf.float32), place)  # noqa: E731
            return tf.ensure_shape(tf.cond(tf.strings.length(photo) > 0, cut, lambda: blank), [*self.size, 3])

        pixels = tf.map_fn(crop, (photos, boxes), fn_output_signature=tf.TensorSpec([*self.size, 3], tf.float32))
        return tf.cast(tf.round(tf.clip_by_value(pixels, 0.0, 255.0)), tf.uint8)
