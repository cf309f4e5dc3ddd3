"""Items' content, as clients and prepared data hold it, through a run's towers."""

from __future__ import annotations

import tensorflow as tf

from tfrec.runs.run import Run
from tfrec.saved_model.tensors import per_row


def encode_content(
    run: Run, photo: tf.Tensor, text: tf.Tensor, attributes: tf.Tensor, batch: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Candidate vectors of `batch` items from raw content, of which one row may stand for all of them.

    Args:
        run: whose towers encode; what its modalities lack is passed over.
        photo: image file bytes `[B]`, "" = none.
        text: string `[B]`, "" = none.
        attributes: int32 `[B, F, V]`.
        batch: B, a scalar.

    Returns:
        Vectors `[B, D]`, and which photos could be read, bool `[B]`.
    """
    pixels, readable, tokens = read_content(run, photo, text, batch)
    return run.towers.item(pixels, readable, tokens, per_row(attributes, batch)), readable


def read_content(
    run: Run, photo: tf.Tensor, text: tf.Tensor, batch: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Photos and texts of `batch` items as a run's towers read them: pixels, which photos could be read, and token ids. One
    photo or text that stands for all of them is read once.
    """
    pixels, readable = tf.zeros([batch, 1, 1, 3], tf.uint8), tf.zeros([batch], tf.bool)
    tokens = tf.zeros([batch, 1], tf.int32)
    if "photo" in run.modalities:
        pixels, readable = (per_row(part, batch) for part in run.towers.pixels(photo))
    if "text" in run.modalities:
        tokens = per_row(run.towers.tokens(text), batch)
    return pixels, readable, tokens


def check_photos(readable: tf.Tensor) -> None:
    """Refuse photos that are not `readable` bool `[B]`, by their rows (INVALID_ARGUMENT)."""
    wrong = tf.where(~readable)[:, 0]
    message = "photo must be a readable JPEG or PNG file; rows that are not:"
    tf.debugging.Assert(tf.equal(tf.size(wrong), 0), [message, wrong[:5]])
