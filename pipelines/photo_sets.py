"""Stores the photos of a labelled photo set: decoded, cropped, resized and re-encoded on threads, broken ones
counted.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from pipelines.prepared import PreparedWriter
from pipelines.progress import Progress

MAX_PIXELS = 50_000_000  # a small file can claim a picture that fills the memory: its header is checked first
QUALITY = 92
THREADS = 4  # Pillow decodes and resizes outside the interpreter lock
AHEAD = 64  # photos in flight


class PhotoError(ValueError):
    """A photo cannot be used; the message is the reason that is counted."""


@dataclass(frozen=True)
class Shot:
    """One photo to store.

    Attributes:
        key: its key in the image store.
        path: the file.
        box: x1, y1, x2, y2 to crop to, counted from 1, ends included; None keeps everything.
        file: the raw file that names it, for the account of rejections.
        row: its row there.
    """

    key: str
    path: Path
    box: tuple[float, float, float, float] | None = None
    file: str = ""
    row: int = 0


def store_photos(writer: PreparedWriter, shots: Iterable[Shot], *, size: int, total: int) -> set[str]:
    """Encode and store photos, in order.

    Args:
        writer: takes the photos, and the rejection of those that cannot be read.
        shots: what to store.
        size: longest side in pixels; smaller photos are kept as they are.
        total: how many there are, for the progress bar.

    Returns:
        The keys that were stored.
    """
    stored = set()
    with Progress("photos", total, unit="photo") as progress, ThreadPoolExecutor(THREADS) as pool:
        for batch in _batches(shots, AHEAD):
            for shot, encoded in zip(batch, pool.map(lambda shot: _try_encode(shot, size), batch)):
                if isinstance(encoded, PhotoError):
                    file = shot.file or shot.path.name
                    writer.reject(
                        file=file, row=shot.row, field="photo", value=shot.path, reason=str(encoded)
                    )
                else:
                    writer.images.add(shot.key, encoded)
                    stored.add(shot.key)
                progress.update()
    return stored


def encode_photo(path: Path, *, size: int, box: tuple[float, float, float, float] | None = None) -> bytes:
    """Read one photo and return it upright, cropped and at most `size` pixels long, as JPEG.

    Raises:
        PhotoError: the file is missing, no photo, cut off, too large, or the box lies outside the photo.
    """
    try:
        with Image.open(path) as photo:
            if photo.width * photo.height > MAX_PIXELS:
                raise PhotoError(f"photo claims more than {MAX_PIXELS // 1_000_000} megapixels")
            if box is None:
                photo.draft("RGB", (size, size))  # JPEG decodes at 1/2, 1/4 or 1/8 for little
            photo.load()
            upright = ImageOps.exif_transpose(photo).convert("RGB")
    except FileNotFoundError:
        raise PhotoError("photo is missing") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, PhotoError):
            raise
        raise PhotoError("photo is unreadable or cut off") from error
    if box is not None:
        upright = upright.crop(_inside(box, upright.size))
    upright.thumbnail((size, size), Image.Resampling.BICUBIC)
    encoded = io.BytesIO()
    upright.save(encoded, "JPEG", quality=QUALITY)
    return encoded.getvalue()


def _inside(box: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box counted from 1, ends included, as Pillow's crop; a pixel's slack at the border is forgiven."""
    x1, y1, x2, y2 = box
    width, height = size
    if x2 > width + 1 or y2 > height + 1:
        raise PhotoError("box lies outside the photo")
    left, top = max(0, int(x1) - 1), max(0, int(y1) - 1)
    return left, top, min(width, max(left + 1, int(x2))), min(height, max(top + 1, int(y2)))


def _try_encode(shot: Shot, size: int) -> bytes | PhotoError:
    try:
        return encode_photo(shot.path, size=size, box=shot.box)
    except PhotoError as error:
        return error


def _batches(shots: Iterable[Shot], count: int) -> Iterator[list[Shot]]:
    shots = iter(shots)
    while batch := list(islice(shots, count)):
        yield batch
