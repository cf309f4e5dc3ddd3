"""A shop's photos: those that the items file names, or those that are called like their items."""

from __future__ import annotations

import argparse
import os
from functools import cached_property
from pathlib import Path

import pandas as pd

from pipelines.photos.images import find_photos, store_photos
from pipelines.photos.item_photos import composed, photo_folder, photos_by_name, store_by_id
from pipelines.prepared_writer import PreparedWriter
from pipelines.schema import PreparedError
from pipelines.shop.files import ShopFile
from pipelines.shop.tables import ShopItems


def shop_photo_folder(args: argparse.Namespace, items: ShopFile) -> Path | None:
    """The folder of photos; None where there are none or they are left out.

    Raises:
        PreparedError: it is no folder, or photos are named and no folder is.
    """
    if not args.no_images and args.images is None and "photo" in items.column:
        raise PreparedError(
            f"{items.path} names photos (column {items.column['photo']!r}); name their folder by --images DIR, or leave "
            "them out by --no-images"
        )
    return photo_folder(args)


def store_shop_photos(
    folder: Path | None, items: ShopItems, file: ShopFile, args: argparse.Namespace, writer: PreparedWriter
) -> list[list[str]]:
    """Store the items' photos; returns the image keys of every item."""
    if folder is None:
        return [[] for _ in range(len(items.frame))]
    if items.photos is None:
        return _called_like_items(folder, items.frame["item_id"], args, writer)
    return _named(folder, items, file, args, writer)


def _called_like_items(
    folder: Path, item_ids: pd.Series, args: argparse.Namespace, writer: PreparedWriter
) -> list[list[str]]:
    photos = photos_by_name(folder)
    writer.notes["photos_of_no_item"] = len(photos.keys() - set(map(composed, item_ids)))
    return store_by_id(photos, item_ids, args, writer)


def _named(
    folder: Path, items: ShopItems, file: ShopFile, args: argparse.Namespace, writer: PreparedWriter
) -> list[list[str]]:
    """Photos are stored once each under the name that the file gives them; items may share one."""
    assert items.photos is not None
    keys: list[list[str]] = []
    first_row: dict[str, int] = {}

    def reject(name: str, reason: str) -> None:
        field = file.column["photo"]
        writer.reject(file=file.name, row=first_row[name], field=field, value=name, reason=reason)

    for row, names in zip(items.rows.tolist(), items.photos):
        keys.append(list(dict.fromkeys(names)))
        for name in keys[-1]:
            first_row.setdefault(name, row)
    find = NamedPhotos(folder)
    paths = {}
    for name in first_row:
        if _stays_inside(_with_slashes(name)):
            paths[name] = find(name)
        else:
            reject(name, "photo is named by a path that leaves --images")
    stored = store_photos(
        paths,
        writer=writer,
        size=args.image_size,
        threads=args.threads,
        reject=lambda name, path, reason: reject(name, reason),
    )
    return [[name for name in names if name in stored] for names in keys]


class NamedPhotos:
    """Finds the photos that a table names: as they are written, else by what systems change about a name.

    Args:
        folder: the photos are below it.
    """

    def __init__(self, folder: Path):
        self._folder = folder

    def __call__(self, name: str) -> Path:
        """The photo of a name that `_stays_inside`; where there is none, the path that it should have."""
        path = self._folder / name
        if os.path.isfile(path):  # unlike Path's, it takes a name that is too long for the file system as no file
            return path
        slashed = self._folder / _with_slashes(name)
        if os.path.isfile(slashed):
            return slashed
        return self._by_alike.get(_alike(_with_slashes(name)), slashed)

    @cached_property
    def _by_alike(self) -> dict[str, Path]:
        """Photos by their path without what may differ: the letter case of the ending, and Unicode's form."""
        photos: dict[str, Path] = {}
        for path in find_photos(self._folder):
            photos.setdefault(_alike(path.relative_to(self._folder).as_posix()), path)
        return photos


def _with_slashes(name: str) -> str:
    """A path as Windows writes it, with slashes."""
    return name.replace("\\", "/")


def _alike(name: str) -> str:
    """What two names have in common that mean the same photo."""
    stem, ending = os.path.splitext(composed(os.path.normpath(name)))
    return stem + ending.lower()


def _stays_inside(name: str) -> bool:
    """Whether a relative path can be a photo's below its folder."""
    return "\0" not in name and not os.path.isabs(name) and os.path.normpath(name).split(os.sep)[0] != os.pardir
