"""Photos for the image store: checked before they are decoded, decoded once, resized, encoded again."""

from __future__ import annotations

import io
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from pipelines.prepared_writer import PreparedWriter
from pipelines.processor import cores
from pipelines.progress import Progress
from pipelines.schema import PreparedError

FORMATS = ("JPEG", "PNG", "WEBP")  # what shops deliver; Pillow's rarer decoders stay shut
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MAX_PIXELS = 50_000_000
QUALITY = 90
EXIF_ORIENTATION = 0x0112
UPRIGHT = {  # EXIF orientation -> what turns the photo upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = {UPRIGHT[orientation] for orientation in (5, 6, 7, 8)}  # the turns that swap width and height


class PhotoError(ValueError):
    """A photo cannot be used; the message is the reason that the manifest counts by."""


@contextmanager
def checked_photo(source: Path | BinaryIO, *, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Open a photo for a block that decodes it; the block gets it by its header, before memory is spent on it.

    Args:
        source: the file, or its bytes as a stream.
        max_pixels: photos of more pixels are refused.

    Raises:
        PhotoError: there is no file, it is no photo or a too large one, or the block finds it damaged.
    """
    try:
        with Image.open(source, formats=FORMATS) as photo:
            if photo.width * photo.height > max_pixels:
                raise PhotoError(f"photo has more than {max_pixels:,} pixels")
            yield photo
    except (FileNotFoundError, IsADirectoryError):
        raise PhotoError("photo is missing") from None
    except UnidentifiedImageError as error:
        raise PhotoError("photo is not a JPEG, PNG or WebP file") from error
    except Image.DecompressionBombError as error:
        raise PhotoError(f"photo has more than {max_pixels:,} pixels") from error
    except (PhotoError, MemoryError):
        raise
    except PermissionError as error:
        raise PhotoError("photo may not be read (permission denied)") from error
    except Exception as error:  # damaged bytes make decoders raise nearly anything; a run goes on
        raise PhotoError("photo is truncated or damaged") from error


def shrink_photo(data: bytes, *, size: int, quality: int = QUALITY, max_pixels: int = MAX_PIXELS) -> bytes:
    """Decode a photo of any supported format and encode it as a small upright RGB JPEG.

    Args:
        data: the file's bytes: JPEG, PNG or WebP, whatever its name says.
        size: the longer side of the result in pixels; smaller photos are not enlarged.
        quality: JPEG quality of the result.
        max_pixels: photos of more pixels are refused by their header, before memory is spent on them.

    Returns:
        The JPEG's bytes, without the metadata of the original.

    Raises:
        PhotoError: the bytes are no photo, or a truncated or too large one.
    """
    if not data:
        raise PhotoError("photo is empty")
    with checked_photo(io.BytesIO(data), max_pixels=max_pixels) as photo:
        return as_jpeg(_shrink(photo, size), quality=quality)


def as_jpeg(image: Image.Image, *, quality: int = QUALITY) -> bytes:
    """Encode an RGB image, without the notes that came with it: Pillow would copy its comment, of whatever length."""
    out = io.BytesIO()
    image.info.clear()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def store_photos(
    paths: Mapping[str, Path],
    *,
    writer: PreparedWriter,
    size: int,
    threads: int | None = None,
    reject: Callable[[str, Path, str], None] | None = None,
) -> set[str]:
    """Shrink photos on threads and put them into a dataset's image store, in the mapping's order.

    Args:
        paths: image key -> file. A file that cannot be used is rejected with its reason.
        writer: the dataset being written.
        size: see `shrink_photo`.
        threads: how many photos are worked on at once; by default one a core (Pillow frees the GIL).
        reject: called with key, file and reason of each that cannot be used; by default the writer is told of the file.

    Returns:
        The keys that were stored.
    """
    stored = set()
    with warnings.catch_warnings(), Progress("photos", len(paths), unit=" photos") as progress:
        warnings.simplefilter("ignore")  # Pillow's opinions on odd metadata; sizes are checked above
        for key, path, result in _shrunk_in_order(paths, size, threads or cores()):
            if isinstance(result, bytes):
                writer.images.add(key, result)
                stored.add(key)
            elif reject is not None:
                reject(key, path, str(result))
            else:
                file = f"{path.parent.name}/{path.name}"
                writer.reject(file=file, row=0, field="image", value=key, reason=str(result))
            progress.update()
    return stored


def find_photos(folder: Path) -> Iterator[Path]:
    """Yield every photo file below a folder, at any depth, in a fixed order."""
    return find_files(folder, SUFFIXES)


def find_files(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """Yield every file below a folder whose name ends in one of `suffixes`, in letters of any case, in a fixed order.

    Links to folders are followed, each folder is looked into once.

    Raises:
        PreparedError: a folder cannot be read.
    """

    def unreadable(error: OSError) -> None:
        if isinstance(error, FileNotFoundError):  # no folder, no photos: the reader says what it misses
            return
        raise PreparedError(f"{error.filename} cannot be read ({error.strerror}); make it readable, or move it away")

    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=unreadable):
        about = os.stat(parent)
        if (place := (about.st_dev, about.st_ino)) in seen:
            folders.clear()
            continue
        seen.add(place)
        folders.sort()
        for name in sorted(files):
            if name.lower().endswith(suffixes):
                yield Path(parent, name)


def with_known_ending(path: Path) -> Path | None:
    """The photo whose name differs from `path` by its ending alone, in small or capital letters; None: there is none."""
    endings = [case(suffix) for suffix in SUFFIXES for case in (str.lower, str.upper, str.title)]
    named = (path.with_suffix(ending) for ending in endings if path.name)
    return next((photo for photo in named if os.path.isfile(photo)), None)


def upright_turn(photo: Image.Image) -> Image.Transpose | None:
    """What turns a photo upright by its EXIF note; None where it is stored upright, or the note is broken."""
    try:
        return UPRIGHT.get(photo.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # Pillow's parsers raise nearly anything; the photo itself may be sound
        return None


def without_palette_or_alpha(photo: Image.Image) -> Image.Image:
    """Convert the modes that cannot be scaled as they are; what is transparent becomes white."""
    if photo.mode.startswith(("I", "F")):  # 16 bits of grey
        return photo.point(lambda value: value / 256).convert("L")
    if photo.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in photo.info:
        rgba = photo.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return photo if photo.mode in ("RGB", "L", "CMYK") else photo.convert("RGB")


def _shrink(photo: Image.Image, size: int) -> Image.Image:
    """Scale to at most `size` pixels a side, turn upright, convert to RGB."""
    scale = min(1.0, size / max(photo.size))
    target = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    photo.draft("RGB", target)  # lets the JPEG decoder itself scale by 1/2, 1/4 or 1/8, not below the target
    photo.load()
    turn = upright_turn(photo)  # which may load the photo, and forgives what it finds
    image = without_palette_or_alpha(photo)
    if image.size != target:
        image = image.resize(target, Image.Resampling.HAMMING)  # antialiased: Pillow widens the kernel to the scale
    if turn is not None:
        image = image.transpose(turn)
    return image if image.mode == "RGB" else image.convert("RGB")


def _shrunk_in_order(
    paths: Mapping[str, Path], size: int, threads: int
) -> Iterator[tuple[str, Path, bytes | PhotoError]]:
    """Yield each photo's bytes, or why there are none; a bounded number is in flight."""

    def work(path: Path) -> bytes | PhotoError:
        try:
            return shrink_photo(path.read_bytes(), size=size)
        except PhotoError as error:
            return error
        except (FileNotFoundError, IsADirectoryError):
            return PhotoError("photo is missing")
        except OSError:
            return PhotoError("photo cannot be read")

    waiting: deque[tuple[str, Path, Future]] = deque()
    todo = iter(paths.items())
    with ThreadPoolExecutor(threads) as pool:
        for key, path in islice(todo, 8 * threads):
            waiting.append((key, path, pool.submit(work, path)))
        while waiting:
            key, path, future = waiting.popleft()
            yield key, path, future.result()
            for key, path in islice(todo, 1):
                waiting.append((key, path, pool.submit(work, path)))
