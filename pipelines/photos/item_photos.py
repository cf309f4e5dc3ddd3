"""Photos that are called like their items, and the folder of photos that a reader's options name."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from pipelines.photos.images import find_photos, store_photos
from pipelines.prepared_writer import PreparedWriter
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
    """The photos below a folder by the id that `id_of` makes of a file's name without its ending; the first of each counts.

    Ids are looked up among these, so that none is ever used as a path.
    """
    photos: dict[str, Path] = {}
    for path in find_photos(folder):
        photos.setdefault(id_of(path.stem), path)
    return photos


def store_by_id(
    photos: Mapping[str, Path], item_ids: Iterable[str], args: argparse.Namespace, writer: PreparedWriter
) -> list[list[str]]:
    """Store each item's photo under its id; returns the image keys of every item."""
    items = list(item_ids)
    paths = {item: photos[item] for item in items if item in photos}
    stored = store_photos(paths, writer=writer, size=args.image_size, threads=args.threads)
    return [[item] if item in stored else [] for item in items]
