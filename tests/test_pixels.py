"""Photo bytes in the graph: every kind of file that shops send, and what they send instead of one."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipelines.photos.images import shrink_photo
from pipelines.photos.orientation import jpeg_orientation, turned_upright
from pipelines.photos.pixels import declared_areas, decode_photos, open_photo


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


def see_through(image: Image.Image) -> Image.Image:
    """The image as a cut-out: clear on the left, solid on the right."""
    opacity = np.broadcast_to(np.linspace(0, 255, image.width), (image.height, image.width))
    image = image.copy()
    image.putalpha(Image.fromarray(opacity.astype(np.uint8)))
    return image


def noted(orientation: int, *, endian: str = "<", **options) -> bytes:
    """A photo whose EXIF holds a maker and an orientation, in either order of bytes."""
    exif = Image.Exif()
    exif.endian = endian
    exif[0x010F], exif[0x0112] = "a maker of cameras", orientation
    return encoded(gradient(90, 120), quality=95, exif=exif.tobytes(), **options)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_bits(depth: int) -> bytes:
    """A grey PNG of 8 x 4 pixels with `depth` bits each, all at their brightest."""
    header = struct.pack(">IIBBBBB", 8, 4, depth, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\xff" * depth) * 4)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


GREY = gradient(90, 120).convert("L")
PALETTE = gradient(90, 120).quantize(32)
AS_SHOPS_SEND_THEM = {
    "jpeg": encoded(gradient(90, 120), quality=95),
    "grey jpeg": encoded(GREY, quality=95),
    "cmyk jpeg": encoded(gradient(90, 120).convert("CMYK"), quality=95),
    "progressive": noted(6, progressive=True),
    "comment and profile first": noted(6, comment=b"c" * 900, icc_profile=b"p" * 70_000),
    "png": encoded(gradient(90, 120), "PNG"),
    "rgba": encoded(see_through(gradient(90, 120)), "PNG"),
    "la": encoded(see_through(GREY), "PNG"),
    "palette": encoded(PALETTE, "PNG"),
    "palette with alpha": encoded(PALETTE, "PNG", transparency=bytes(range(0, 256, 8))),
    "one clear colour": encoded(GREY, "PNG", transparency=90),
    "16-bit grey": encoded(Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257), "PNG"),
    "1 bit": png_of_bits(1),
    "2 bits": png_of_bits(2),
    "4 bits": png_of_bits(4),
    **{f"orientation {number}": noted(number) for number in range(1, 9)},
    **{f"orientation {number}, big-endian": noted(number, endian=">") for number in (5, 6)},
}


@pytest.mark.parametrize("data", AS_SHOPS_SEND_THEM.values(), ids=AS_SHOPS_SEND_THEM)
def test_a_photo_is_read_as_the_catalogue_is(data):
    """The reader of raw files stores upright photos on white; a served model gets what the customer has."""
    pixels, present = decode(data, shrink_photo(data, size=1000, quality=95), size=(48, 40))
    assert present.all()
    difference = np.abs(pixels[0].astype(int) - pixels[1])
    assert difference.mean() < 1.5
    assert difference.max() <= 16  # JPEG's own loss, at the edges of a palette's colours


def test_photos_of_all_kinds_are_read_in_one_batch():
    kinds = list(AS_SHOPS_SEND_THEM.values())
    graph = tf.function(lambda x: decode_photos(x, (24, 16))[0], input_signature=[tf.TensorSpec([None], tf.string)])
    together = graph(tf.constant([*kinds, b""])).numpy()
    for row, data in enumerate(kinds):
        np.testing.assert_array_equal(together[row], decode(data)[0][0])


def test_cropping_sees_a_photo_upright_too():
    assert open_photo(tf.constant(noted(6))).shape == (90, 120, 3)
    assert open_photo(tf.constant(noted(1))).shape == (120, 90, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turning_is_what_pillow_does(orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    image = gradient(7, 5)
    data = encoded(image, "PNG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(turned_upright(tf.constant(np.asarray(image)), orientation), np.asarray(expected))


def jpeg_with(*segments: bytes) -> bytes:
    """A JPEG with these APP1 segments behind its first bytes."""
    photo = encoded(gradient(20, 10))
    parts = [b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment for segment in segments]
    return photo[:2] + b"".join(parts) + photo[2:]


def tiff(*entries: bytes, start=8, count=None, mark=b"II*\0") -> bytes:
    count = len(entries) if count is None else count
    return b"Exif\0\0" + mark + struct.pack("<I", start) + struct.pack("<H", count) + b"".join(entries) + b"\0" * 4


def entry(tag=0x0112, kind=3, value=6) -> bytes:
    return struct.pack("<HHII", tag, kind, 1, value)


@pytest.mark.parametrize(
    ("expected", "data"),
    [
        (6, jpeg_with(tiff(entry()))),
        (6, jpeg_with(tiff(entry(kind=4)))),
        (6, jpeg_with(tiff(*[entry(tag) for tag in range(0x100, 0x113)]))),
        (6, jpeg_with(b"http://ns.adobe.com/xap/1.0/\0<x>Exif\0\0</x>", tiff(entry()))),
        (6, jpeg_with(tiff(entry(), count=900))),
        (1, jpeg_with(tiff(entry(value=0)))),
        (1, jpeg_with(tiff(entry(value=9)))),
        (1, jpeg_with(tiff(entry(kind=2)))),
        (1, jpeg_with(tiff(entry(tag=0x0113)))),
        (1, jpeg_with(tiff(entry(), start=2**32 - 1))),
        (1, jpeg_with(tiff(entry(), start=20))),
        (1, jpeg_with(tiff())),
        (1, jpeg_with(b"Exif\0\0")),
        (1, jpeg_with(b"Exif\0\0II")),
        (1, jpeg_with(b"about Exif\0\0 alone")),
        (1, jpeg_with(tiff(entry()))[:20]),
        (1, b"\xff\xd8\xff\xe1\xff\xffExif\0\0"),
        (1, b"Exif\0\0"),
        (1, b"\xff\xd8"),
        (1, b""),
    ],
)
def test_the_orientation_is_found_or_the_photo_is_taken_as_it_is(expected, data):
    assert int(jpeg_orientation(tf.constant(data))) == expected


def bomb() -> bytes:
    """A PNG of 12,000 x 12,000 pixels in its header, and next to nothing in it."""
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


def test_the_pixels_that_headers_declare_are_told_without_decoding():
    def encoded(size, kind):
        stream = io.BytesIO()
        Image.new("RGB", size).save(stream, kind)
        return stream.getvalue()

    photos = tf.constant([encoded((30, 20), "JPEG"), b"", encoded((7, 5), "PNG")])
    np.testing.assert_array_equal(declared_areas(photos), [600, 0, 35])
