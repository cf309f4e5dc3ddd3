"""Cropping to labelled boxes inside tf.data."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipelines.label_batches import LabelBatches
from pipelines.photos.boxes import BoxCropper, format_box, parse_box
from pipelines.photos.views import read_views
from pipelines.prepared import PreparedWriter, open_prepared

BOX = (0.25, 0.5, 0.75, 1.0)


def half_red() -> bytes:
    """40 x 20 pixels of blue, the box of `BOX` red."""
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[..., 2] = 255
    pixels[10:20, 10:30] = (255, 0, 0)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def test_the_box_fills_the_pixels_and_a_missing_photo_is_white():
    found = BoxCropper((8, 8))(tf.constant([half_red(), b""]), tf.constant([BOX, BOX])).numpy()
    assert (found[0, 1:, 1:-1] == (255, 0, 0)).all()
    assert (found[1] == 255).all()


def test_play_moves_the_box_by_the_seed():
    crop = BoxCropper((8, 8), play=0.3)
    photos, boxes = tf.constant([half_red()] * 4), tf.constant([BOX] * 4)
    first = crop(photos, boxes, tf.constant([0, 1])).numpy()
    np.testing.assert_array_equal(first, crop(photos, boxes, tf.constant([0, 1])))
    assert len({photo.tobytes() for photo in first}) == 4
    np.testing.assert_array_equal(crop(photos, boxes), BoxCropper((8, 8))(photos, boxes))


def test_boxes_are_written_and_read_back():
    assert parse_box(format_box(BOX)) == BOX
    for text in ("0 0 1", "0.5 0 0.2 1", "0 0 2 1"):
        with pytest.raises(ValueError, match="is no box"):
            parse_box(text)


def test_items_with_boxes_are_cropped_once_or_anew_in_every_batch(tmp_path):
    import pandas as pd

    with PreparedWriter(tmp_path / "data", dataset="boxes") as writer:
        rows = []
        for number in range(4):
            writer.images.add(f"p{number}", half_red())
            rows.append({"item_id": str(number), "images": [f"p{number}"], "label": "ab"[number // 2]})
        frame = pd.DataFrame(rows)
        frame["boxes"] = [[format_box(BOX)]] * 3 + [[]]
        writer.items(frame)
    prepared = open_prepared(tmp_path / "data")
    once, anew = (read_views(prepared, [], (8, 8), play=play) for play in (False, True))
    assert once.pixels is not None
    assert (once.pixels[0, 0, 1:, 1:-1] == (255, 0, 0)).all()
    assert (once.pixels[3, 0, 0] == (0, 0, 255)).all()  # no box: the whole photo
    assert anew.pixels is None
    labels = np.array([0, 0, 1, 1], np.int32)
    batches = [LabelBatches(np.arange(4), labels, photos, classes=2, per_class=2) for photos in (once, anew)]
    plain, fresh = (next(iter(b.dataset(0, 1)))["items"]["photos"].numpy() for b in batches)
    np.testing.assert_array_equal(plain, fresh)
    moved = next(iter(batches[1].dataset(0, 1, play=0.3)))["items"]["photos"].numpy()
    assert not np.array_equal(moved, fresh)
