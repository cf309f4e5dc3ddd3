"""Photos cropped to a labelled box for the image store: checked, decoded once, cropped, shrunk, broken ones
counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from PIL import Image

from pipelines.photos.images import SIDEWAYS, PhotoError, as_jpeg, checked_photo, upright_turn, without_palette_or_alpha
from pipelines.prepared_writer import PreparedWriter
from pipelines.processor import cores
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


@dataclass(frozen=True)
class Crop:
    """A cropped photo.

    Attributes:
        jpeg: its bytes.
        box: where the labelled box lies in it: left, top, right, bottom as shares of its width and height.
    """

    jpeg: bytes
    box: Box


def store_crops(
    writer: PreparedWriter, shots: Iterable[Shot], *, size: int, total: int, margin: float = 0.0
) -> dict[str, Box]:
    """Crop, encode and store photos on threads, in order.

    Args:
        writer: takes the photos, and the rejection of those that cannot be used.
        shots: what to store.
        size: longest side in pixels; smaller crops are kept as they are.
        total: how many there are, for the progress bar.
        margin: see `crop_photo`.

    Returns:
        The keys that were stored, with the place of each box in its stored photo.
    """

    def work(shot: Shot) -> Crop | PhotoError:
        try:
            return crop_photo(shot.path, shot.box, size=size, margin=margin)
        except PhotoError as error:
            return error

    stored: dict[str, Box] = {}
    # Pillow decodes and resizes outside the interpreter lock.
    with Progress("photos", total, unit=" photos") as progress, ThreadPoolExecutor(cores()) as pool:
        for batch in _batches(shots, AHEAD):
            for shot, crop in zip(batch, pool.map(work, batch)):
                if isinstance(crop, Crop):
                    writer.images.add(shot.key, crop.jpeg)
                    stored[shot.key] = crop.box
                else:
                    writer.reject(file=shot.file, row=shot.row, field="photo", value=shot.path, reason=str(crop))
                progress.update()
    return stored


def crop_photo(path: Path, box: Box, *, size: int, margin: float = 0.0) -> Crop:
    """Cut the box out of one photo, at most `size` pixels long, as JPEG.

    Args:
        path: the photo.
        box: see `Shot`; in the pixels of the photo turned upright.
        size: longest side in pixels.
        margin: keep this share of the box's width and height around it, as far as the photo reaches.

    Raises:
        PhotoError: the file is missing, no photo, cut off, too large, or the box lies outside the photo.
    """
    with checked_photo(path) as photo:
        photo.load()
        turn = upright_turn(photo)
        upright = without_palette_or_alpha(photo)
        if turn is not None:
            upright = upright.transpose(turn)
        inner = _inside(box, upright.size)
        outer = _enlarged(inner, upright.size, margin)
        crop = upright.crop(outer).convert("RGB")
        crop.thumbnail((size, size), Image.Resampling.BICUBIC)
        return Crop(as_jpeg(crop), _shares(inner, outer))


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height of a photo turned upright, which is how `crop_photo` cuts it.

    Raises:
        PhotoError: the file is missing, no photo, damaged, or too large.
    """
    with checked_photo(path) as photo:
        width, height = photo.size
        return (height, width) if upright_turn(photo) in SIDEWAYS else (width, height)


def _enlarged(inner: tuple[int, int, int, int], size: tuple[int, int], margin: float) -> tuple[int, int, int, int]:
    """A crop with a margin around it, within the photo."""
    left, top, right, bottom = inner
    wide, high = round(margin * (right - left)), round(margin * (bottom - top))
    return max(0, left - wide), max(0, top - high), min(size[0], right + wide), min(size[1], bottom + high)


def _shares(inner: tuple[int, int, int, int], outer: tuple[int, int, int, int]) -> Box:
    """Where `inner` lies in `outer`, as shares of its sides."""
    width, height = outer[2] - outer[0], outer[3] - outer[1]
    return (
        (inner[0] - outer[0]) / width,
        (inner[1] - outer[1]) / height,
        (inner[2] - outer[0]) / width,
        (inner[3] - outer[1]) / height,
    )


def _inside(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box counted from 1, ends included, as Pillow's crop; a pixel's slack at the border is forgiven."""
    x1, y1, x2, y2 = box
    width, height = size
    if x2 > width + 1 or y2 > height + 1 or int(x1) > width or int(y1) > height:
        raise PhotoError("box lies outside the photo")
    left, top = max(0, int(x1) - 1), max(0, int(y1) - 1)
    return left, top, min(width, max(left + 1, int(x2))), min(height, max(top + 1, int(y2)))


def _batches(shots: Iterable[Shot], count: int) -> Iterator[list[Shot]]:
    shots = iter(shots)
    while batch := list(islice(shots, count)):
        yield batch
