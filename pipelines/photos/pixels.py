"""Photo bytes to pixels, as a TensorFlow graph of stock ops: the same function in training, export and serving."""

import tensorflow as tf

from pipelines.photos.images import MAX_PIXELS
from pipelines.photos.orientation import is_sideways, jpeg_orientation, turned_upright

WHITE = 255
PNG_HEAD = 1 << 18  # bytes in which what is transparent is looked for; it stands before the pixels


def decode_photos(photos: tf.Tensor, size: tuple[int, int], *, parallel: int = 10) -> tuple[tf.Tensor, tf.Tensor]:
    """Decode photos and fit them into `size`, keeping their proportions, on white.

    Args:
        photos: JPEG or PNG bytes, string `[B]`; an empty string is a missing photo.
        size: height and width in pixels.
        parallel: photos decoded at a time, each of which may take 150 MB.

    Returns:
        Pixels uint8 `[B, height, width, 3]` (white where missing), and bool `[B]`, True where there was a photo.

    Raises:
        tf.errors.InvalidArgumentError: when run, for bytes that are no JPEG or PNG, are cut short, or declare more
            than 50 megapixels.
    """
    present = tf.strings.length(photos) > 0
    blank = tf.fill([*size, 3], tf.constant(WHITE, tf.uint8))
    pixels = tf.map_fn(
        lambda photo: tf.cond(tf.strings.length(photo) > 0, lambda: decode_photo(photo, size), lambda: blank),
        photos,
        fn_output_signature=tf.TensorSpec([*size, 3], tf.uint8),
        parallel_iterations=parallel,
    )
    return pixels, present


def decode_photo(photo: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """One photo's bytes (scalar string) to pixels uint8 `[height, width, 3]`; see `decode_photos`."""
    pixels, orientation = stored_pixels(photo)
    return letterbox(pixels, size, orientation)


def open_photo(photo: tf.Tensor) -> tf.Tensor:
    """One photo's bytes (scalar string) to its pixels upright and on white, uint8 `[h, w, 3]`; see `decode_photos`."""
    return turned_upright(*stored_pixels(photo))


def stored_pixels(photo: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """One photo's bytes (scalar string) to its pixels on white, uint8 `[h, w, 3]`, and the EXIF orientation they have."""
    png, area = is_png(photo), declared_area(photo)
    # Decoders allocate what the header declares: a file of 0.4 MB can ask for 432 MB.
    check = tf.debugging.assert_less_equal(
        area, tf.constant(MAX_PIXELS, tf.int64), message=f"photo declares more than {MAX_PIXELS:,} pixels"
    )
    with tf.control_dependencies([check]):
        clear = tf.cond(png, lambda: may_be_clear(photo), lambda: False)
        pixels = tf.cond(clear, lambda: on_white(decoded(photo, 4)), lambda: decoded(photo, 3))
    return tf.ensure_shape(pixels, [None, None, 3]), tf.cond(png, lambda: 1, lambda: jpeg_orientation(photo))


def is_png(photo: tf.Tensor) -> tf.Tensor:
    """Whether a photo's bytes (scalar string) are a PNG's."""
    return tf.equal(tf.strings.substr(photo, 0, 4), b"\x89PNG")


def declared_area(photo: tf.Tensor) -> tf.Tensor:
    """The pixels that the header of a JPEG or PNG (scalar string) declares, a scalar int64."""
    shape = tf.cond(is_png(photo), lambda: png_shape(photo), lambda: tf.io.extract_jpeg_shape(photo)[:2])
    return tf.reduce_prod(tf.cast(shape, tf.int64))


def declared_areas(photos: tf.Tensor) -> tf.Tensor:
    """`declared_area` of photos string `[B]`, 0 of those that are missing: int64 `[B]`."""
    nothing = tf.constant(0, tf.int64)
    return tf.map_fn(
        lambda photo: tf.cond(tf.strings.length(photo) > 0, lambda: declared_area(photo), lambda: nothing),
        photos,
        fn_output_signature=tf.TensorSpec([], tf.int64),
    )


def decoded(photo: tf.Tensor, channels: int) -> tf.Tensor:
    """A JPEG's or PNG's bytes (scalar string) to its pixels uint8 `[h, w, channels]`."""
    return tf.io.decode_image(photo, channels=channels, expand_animations=False)


def may_be_clear(photo: tf.Tensor) -> tf.Tensor:
    """Whether a PNG (scalar string) has an alpha channel, or says which of its colours are transparent."""
    head = tf.strings.substr(photo, 0, PNG_HEAD)
    colour_type = tf.strings.substr(head + "\0" * 26, 25, 1)  # padded for a header that is cut short
    return tf.strings.regex_full_match(colour_type, b"[\x04\x06]") | tf.strings.regex_full_match(head, rb"\C*tRNS\C*")


def on_white(pixels: tf.Tensor) -> tf.Tensor:
    """Pixels uint8 `[h, w, 4]` whose last channel is their opacity, on white: uint8 `[h, w, 3]`."""
    colours, opacity = tf.split(tf.cast(pixels, tf.uint16), [3, 1], -1)
    return tf.cast((colours * opacity + WHITE * (WHITE - opacity) + WHITE // 2) // WHITE, tf.uint8)


def png_shape(photo: tf.Tensor) -> tf.Tensor:
    """Height and width from a PNG's header, int32 `[2]`."""
    # Padded, so that a header that is cut short reads as no size at all, and the decoder names the fault.
    header = tf.io.decode_raw(tf.strings.substr(photo + "\0" * 24, 16, 8), tf.uint8)
    number = tf.reshape(tf.cast(header, tf.int32), [2, 4])
    width_height = tf.reduce_sum(number * [1 << 24, 1 << 16, 1 << 8, 1], 1)
    return tf.abs(tf.reverse(width_height, [0]))


def letterbox(image: tf.Tensor, size: tuple[int, int], orientation: tf.Tensor | int = 1) -> tf.Tensor:
    """Scale `image` uint8 `[h, w, 3]` to fit into `size` with antialiasing, centred on white: uint8 `[*size, 3]`.

    An image with another EXIF `orientation` than 1 (int32 scalar) is turned upright when it is small.
    """
    height, width = size
    turned = lambda shape: tf.where(is_sideways(orientation), shape[::-1], shape)  # noqa: E731
    shape = turned(tf.cast(tf.shape(image)[:2], tf.float32))
    scale = tf.minimum(height / shape[0], width / shape[1])
    fitted = tf.maximum(tf.cast(tf.round(shape * scale), tf.int32), 1)
    resized = tf.image.resize(image, turned(fitted), method="bilinear", antialias=True)
    upright = turned_upright(resized, orientation)
    top, left = (height - fitted[0]) // 2, (width - fitted[1]) // 2
    padded = tf.pad(upright - WHITE, [[top, height - fitted[0] - top], [left, width - fitted[1] - left], [0, 0]])
    pixels = tf.cast(tf.round(tf.clip_by_value(padded + WHITE, 0.0, 255.0)), tf.uint8)
    return tf.ensure_shape(pixels, [height, width, 3])
