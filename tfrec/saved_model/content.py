"""Items' content, as clients and prepared data hold it, through a run's towers."""

from __future__ import annotations

import tensorflow as tf

from tfrec.runs.run import Run
from tfrec.saved_model.tensors import per_row


def encode_content(run: Run, photo: tf.Tensor, text: tf.Tensor, attributes: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
    """Candidate vectors of `batch` items from raw content, of which one row may stand for all of them.

    Args:
        run: whose towers encode; what its modalities lack is passed over.
        photo: image file bytes `[B]`, "" = none.
        text: string `[B]`, "" = none.
        attributes: int32 `[B, F, V]`.
        batch: B, a scalar.

    Returns:
        Vectors `[B, D]`.
    """
    pixels, has_photo, tokens = read_content(run, photo, text, batch)
    return run.towers.item(pixels, has_photo, tokens, per_row(attributes, batch))


def read_content(
    run: Run, photo: tf.Tensor, text: tf.Tensor, batch: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Photos and texts of `batch` items as a run's towers read them: pixels, which items have a photo, and token ids. One
    photo or text that stands for all of them is read once.
    """
    pixels, has_photo = tf.zeros([batch, 1, 1, 3], tf.uint8), tf.zeros([batch], tf.bool)
    tokens = tf.zeros([batch, 1], tf.int32)
    if "photo" in run.modalities:
        pixels, has_photo = (per_row(part, batch) for part in run.towers.pixels(checked_photos(photo)))
    if "text" in run.modalities:
        tokens = per_row(run.towers.tokens(text), batch)
    return pixels, has_photo, tokens


def checked_photos(photos: tf.Tensor, *, required: bool = False) -> tf.Tensor:
    """Image file bytes `[B]`, refused by their rows (INVALID_ARGUMENT) where they do not begin as a JPEG or PNG does, and
    where one is `required` and there is none, "".
    """
    fits = (tf.strings.substr(photos, 0, 3) == b"\xff\xd8\xff") | (tf.strings.substr(photos, 0, 4) == b"\x89PNG")
    wrong = tf.where(~(fits if required else fits | (photos == "")))[:, 0]
    message = "photo must be a readable JPEG or PNG file; rows that are not:"
    with tf.control_dependencies([tf.debugging.Assert(tf.equal(tf.size(wrong), 0), [message, wrong[:5]])]):
        return tf.identity(photos)  # decoded after the check: a decoder's error names no row
