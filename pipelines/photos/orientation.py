"""The EXIF orientation of a JPEG, read and applied with TensorFlow's own ops, as part of a served graph.

A JPEG is a row of segments: 0xFF, a marker, two bytes of length. Cameras note in one of the first, APP1, how the picture
must be turned: as a TIFF directory, entries of 12 bytes, of which tag 0x0112 is the orientation (EXIF 2.32, 4.5 and 4.6).
"""

import tensorflow as tf

HEAD = 1 << 18  # bytes that are searched; an EXIF segment has less than 64 KB and stands at the front
SEGMENTS = 32  # that are looked at
PADDING = 16  # zeros behind the searched bytes, so that reading at their end reads nothing
APP0, APP1, APP15, COMMENT = 0xE0, 0xE1, 0xEF, 0xFE
TAG, SHORT, LONG = 0x0112, 3, 4


def is_sideways(orientation: tf.Tensor | int) -> tf.Tensor:
    """Whether an image of this EXIF orientation has width and height interchanged, bool scalar."""
    return tf.greater_equal(orientation, 5)


def turned_upright(image: tf.Tensor, orientation: tf.Tensor | int) -> tf.Tensor:
    """Turn an image as its EXIF orientation says.

    Args:
        image: `[h, w, C]`.
        orientation: int32 scalar, 1 to 8.

    Returns:
        `[h, w, C]`, or `[w, h, C]` for 5 to 8.
    """

    def turned() -> tf.Tensor:
        sides = tf.cond(is_sideways(orientation), lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
        # Mirrored from left to right by 2, 3, 6 and 7, from top to bottom by 3, 4, 7 and 8.
        flips = tf.stack([_one_of(orientation, 3, 4, 7, 8), _one_of(orientation, 2, 3, 6, 7), False])
        return tf.raw_ops.Reverse(tensor=sides, dims=flips)

    return tf.ensure_shape(tf.cond(tf.greater(orientation, 1), turned, lambda: image), [None, None, image.shape[-1]])


def jpeg_orientation(photo: tf.Tensor) -> tf.Tensor:
    """How a JPEG's EXIF says that it must be turned.

    Args:
        photo: the file's bytes, scalar string.

    Returns:
        int32 scalar, 1 to 8; 1, upright, where the bytes are no JPEG, or the note is absent or broken.
    """
    head = tf.strings.substr(photo, 0, HEAD)
    # Most photos have none, and one look costs a tenth of going from segment to segment.
    may_be_turned = tf.strings.regex_full_match(head, rb"\C*Exif\x00\x00\C*")
    return tf.cond(may_be_turned, lambda: _of_tiff(_exif(head)), lambda: 1)


def _exif(head: tf.Tensor) -> tf.Tensor:
    """The TIFF in the first EXIF segment of a JPEG's first bytes (scalar strings); no bytes where there is none."""
    end = tf.strings.length(head)
    head += "\0" * PADDING

    def segment(at: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.io.decode_raw(tf.strings.substr(head, at, 4), tf.uint8), tf.int32)

    def is_exif(at: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
        noted = tf.equal(tf.strings.substr(head, at + 4, 6), b"Exif\0\0")
        return (start[0] == 0xFF) & (start[1] == APP1) & noted

    def goes_on(at: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
        other = ((start[1] >= APP0) & (start[1] <= APP15)) | (start[1] == COMMENT)
        return (start[0] == 0xFF) & other & ~is_exif(at, start)

    def following(at: tf.Tensor, start: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        at = tf.minimum(at + 2 + start[2] * 256 + start[3], end)
        return at, segment(at)

    first = tf.minimum(2, end)  # behind the two bytes that make it a JPEG
    at, start = tf.while_loop(goes_on, following, (first, segment(first)), maximum_iterations=SEGMENTS)
    length = start[2] * 256 + start[3] - 8  # of what stands behind the length itself and the name
    return tf.strings.substr(head, at + 10, tf.where(is_exif(at, start), tf.maximum(length, 0), 0))


def _of_tiff(tiff: tf.Tensor) -> tf.Tensor:
    """The orientation in the first directory of a TIFF's bytes (scalar string); 1 where there is none."""
    little = tf.equal(tf.strings.substr(tiff, 0, 1), b"I")
    values = tf.cast(tf.io.decode_raw(tiff + "\0" * PADDING, tf.uint8), tf.int64)
    end = tf.shape(values, tf.int64)[0] - PADDING

    def number(digits: tf.Tensor) -> tf.Tensor:
        """Bytes `[..., n]` as numbers `[...]`."""
        weights = 256 ** tf.range(tf.shape(digits, tf.int64)[-1])
        return tf.reduce_sum(digits * tf.where(little, weights, weights[::-1]), -1)

    start = tf.minimum(number(values[4:8]), end)
    count = tf.minimum(number(values[start : start + 2]), (end - start - 2) // 12)
    entries = tf.reshape(values[start + 2 : start + 2 + 12 * tf.maximum(count, 0)], [-1, 12])
    kind = number(entries[:, 2:4])
    value = tf.where(kind == SHORT, number(entries[:, 8:10]), number(entries[:, 8:12]))
    wanted = (number(entries[:, :2]) == TAG) & ((kind == SHORT) | (kind == LONG)) & (value >= 1) & (value <= 8)
    return tf.cast(tf.concat([[1], value[wanted]], 0)[-1], tf.int32)


def _one_of(value: tf.Tensor | int, *those: int) -> tf.Tensor:
    return tf.reduce_any(tf.equal(value, those))
