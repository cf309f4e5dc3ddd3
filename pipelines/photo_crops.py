"""Photos cropped to a labelled box for the image store: checked, decoded once, cropped, shrunk, broken ones
counted.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from pipelines.images import FORMATS, MAX_PIXELS, QUALITY, PhotoError
from pipelines.prepared_writer import PreparedWriter
from pipelines.progress import Progress

AHEAD = 64  # photos in flight

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Shot:
    """One photo to crop and store.

    Attributes:
        key: its key in the image store.
        path: the file.
        box: x1, y1, x2, y2 to crop to, counted from 1, ends included.
        file: the raw file that names it, for the account of rejections.
        row: its row there; 0 where it has none.
    """

    key: str
    path: Path
    box: Box
    file: str
    row: int


def store_crops(writer: PreparedWriter, shots: Iterable[Shot], *, size: int, total: int) -> set[str]:
    """Crop, encode and store photos on threads, in order.

    Args:
        writer: takes the photos, and the rejection of those that cannot be used.
        shots: what to store.
        size: longest side in pixels; smaller crops are kept as they are.
        total: how many there are, for the progress bar.

    Returns:
        The keys that were stored.
    """

    def work(shot: Shot) -> bytes | PhotoError:
        try:
            return crop_photo(shot.path, shot.box, size=size)
        except PhotoError as error:
            return error

    stored = set()
    threads = len(os.sched_getaffinity(0))  # Pillow decodes and resizes outside the interpreter lock
    with Progress("photos", total, unit=" photos") as progress, ThreadPoolExecutor(threads) as pool:
        for batch in _batches(shots, AHEAD):
            for shot, encoded in zip(batch, pool.map(work, batch)):
                if isinstance(encoded, bytes):
                    writer.images.add(shot.key, encoded)
                    stored.add(shot.key)
                else:
                    writer.reject(file=shot.file, row=shot.row, field="photo", value=shot.path, reason=str(encoded))
                progress.update()
    return stored


def crop_photo(path: Path, box: Box, *, size: int) -> bytes:
    """Return the box of one photo, at most `size` pixels long, as JPEG.

    Raises:
        PhotoError: the file is missing, no photo, cut off, too large, or the box lies outside the photo.
    """
    try:
        # A small file can claim a picture that fills the memory, so its header is checked before it is
        # decoded.
        with Image.open(path, formats=FORMATS) as photo:
            if photo.width * photo.height > MAX_PIXELS:
                raise PhotoError(f"photo has more than {MAX_PIXELS:,} pixels")
            upright = ImageOps.exif_transpose(photo).convert("RGB")
    except (FileNotFoundError, IsADirectoryError):
        raise PhotoError("photo is missing") from None
    except UnidentifiedImageError as error:
        raise PhotoError("photo is not a JPEG, PNG or WebP file") from error
    except Image.DecompressionBombError as error:
        raise PhotoError(f"photo has more than {MAX_PIXELS:,} pixels") from error
    except (OSError, SyntaxError, EOFError, IndexError, KeyError) as error:
        raise PhotoError("photo is truncated or damaged") from error
    crop = upright.crop(_inside(box, upright.size))
    crop.thumbnail((size, size), Image.Resampling.BICUBIC)
    encoded = io.BytesIO()
    crop.save(encoded, "JPEG", quality=QUALITY)
    return encoded.getvalue()


def _inside(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box counted from 1, ends included, as Pillow's crop; a pixel's slack at the border is forgiven."""
    x1, y1, x2, y2 = box
    width, height = size
    if x2 > width + 1 or y2 > height + 1:
        raise PhotoError("box lies outside the photo")
    left, top = max(0, int(x1) - 1), max(0, int(y1) - 1)
    return left, top, min(width, max(left + 1, int(x2))), min(height, max(top + 1, int(y2)))


def _batches(shots: Iterable[Shot], count: int) -> Iterator[list[Shot]]:
    shots = iter(shots)
    while batch := list(islice(shots, count)):
        yield batch
