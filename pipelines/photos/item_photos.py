"""Photos that are called like their items, and the folder of photos that a reader's options name."""

from __future__ import annotations

import argparse
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from pipelines.photos.images import find_photos, store_photos
from pipelines.prepared_writer import PreparedWriter
from pipelines.printable import printable
from pipelines.schema import PreparedError


def photo_folder(args: argparse.Namespace, usual: Iterable[Path] = ()) -> Path | None:
    """The folder of photos: the one of `--images`, else the first of the `usual` ones; None where there is none or
    `--no-images` leaves photos out.

    Raises:
        PreparedError: `--images` is no folder.
    """
    if args.no_images:
        return None
    if args.images is not None and not args.images.is_dir():
        raise PreparedError(f"--images {args.images} is not a folder")
    return args.images or next((folder for folder in usual if folder.is_dir()), None)


def photos_by_name(folder: Path, id_of: Callable[[str], str] = str) -> dict[str, Path]:
    """The photos below a folder by the id that `id_of` makes of a file's name without its ending; the first of each counts,
    and how many others there are is printed.

    Ids are looked up among these, so that none is ever used as a path. Names are in NFC, see `photo_of`.
    """
    photos: dict[str, Path] = {}
    others: list[Path] = []
    for path in find_photos(folder):
        if photos.setdefault(id_of(composed(path.stem)), path) != path:
            others.append(path)
    if others:
        first = printable(others[0])
        print(f"{len(others):,} photos have the id of an earlier one and are not read, the first is {first}")
    return photos


def photo_of(item: str, photos: Mapping[str, Path]) -> Path | None:
    """An item's photo among `photos_by_name`, None where there is none.

    Archives from Macs write an accent as a letter of its own (NFD), tables write é as one (NFC): both are the same name.
    """
    return photos.get(composed(item))


def composed(name: str) -> str:
    """A name in Unicode's form NFC."""
    return unicodedata.normalize("NFC", name)


def say_photos(image_keys: Iterable[list[str]], folder: Path | None) -> None:
    """Say how many items have a photo, where photos were asked for."""
    if folder is not None:
        has_photo = [bool(keys) for keys in image_keys]
        print(f"photos: {sum(has_photo):,} of {len(has_photo):,} items have one ({folder})")


def store_by_id(
    photos: Mapping[str, Path], item_ids: Iterable[str], args: argparse.Namespace, writer: PreparedWriter
) -> list[list[str]]:
    """Store each item's photo under its id; returns the image keys of every item."""
    items = list(item_ids)
    found = ((item, photo_of(item, photos)) for item in items)
    paths = {item: path for item, path in found if path is not None}
    stored = store_photos(paths, writer=writer, size=args.image_size, threads=args.threads)
    return [[item] if item in stored else [] for item in items]
