"""Photo bytes in the graph: every kind of file that shops send, and what they send instead of one."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipelines.pixels import decode_photos


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decode(*photos: bytes, size=(24, 16)):
    pixels, present = decode_photos(tf.constant(list(photos)), size)
    return pixels.numpy(), present.numpy()


def gradient(width: int, height: int) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], -1).astype(np.uint8))


def test_a_photo_is_fitted_on_white_with_antialiasing():
    pixels, present = decode(encoded(gradient(160, 80), quality=95))
    assert present.all()
    assert pixels.shape == (1, 24, 16, 3)
    assert (pixels[0, :8] == 255).all()
    assert (pixels[0, 16:] == 255).all()
    expected = np.asarray(gradient(160, 80).resize((16, 8), Image.BILINEAR), np.int32)
    assert np.abs(pixels[0, 8:16].astype(np.int32) - expected).max() <= 6


def test_kinds_of_photos():
    grey = Image.new("L", (30, 40), 90)
    pixels, present = decode(
        encoded(grey), encoded(grey, "PNG"), encoded(gradient(30, 40).convert("RGBA"), "PNG"), b"", size=(40, 30)
    )
    np.testing.assert_array_equal(present, [True, True, True, False])
    assert np.abs(pixels[:2].astype(int) - 90).max() <= 1
    assert (pixels[3] == 255).all()


def bomb() -> bytes:
    """A PNG of 12,000 x 12,000 pixels in its header, and next to nothing in it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "data",
    [b"<html>404</html>", encoded(gradient(90, 90))[:400], encoded(gradient(90, 90), "PNG")[:200], b"\x89PNG", b"x"],
    ids=["html", "cut jpeg", "cut png", "png signature", "one byte"],
)
def test_what_is_no_photo_is_an_invalid_argument(data):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(data)


def test_a_bomb_is_refused_by_its_header():
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than 50,000,000 pixels"):
        decode(bomb())


def test_graph_and_eager_agree_to_the_bit():
    photos = tf.constant([encoded(gradient(70, 50)), encoded(gradient(33, 91), "PNG")])
    graph = tf.function(lambda x: decode_photos(x, (24, 16))[0], input_signature=[tf.TensorSpec([None], tf.string)])
    np.testing.assert_array_equal(graph(photos), decode_photos(photos, (24, 16))[0])
