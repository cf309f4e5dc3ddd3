"""A shop's photos: those that the items file names, or those that are called like their items."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from pipelines.images import find_photos, store_photos
from pipelines.prepared_writer import PreparedWriter
from pipelines.schema import PreparedError
from pipelines.shop_files import ShopFile
from pipelines.shop_tables import ShopItems


def photo_folder(args: argparse.Namespace, items: ShopFile) -> Path | None:
    """The folder of photos; None where there are none or they are left out.

    Raises:
        PreparedError: it is no folder, or photos are named and no folder is.
    """
    if args.no_images:
        return None
    if args.images is None and "photo" in items.column:
        raise PreparedError(
            f"{items.path} names photos (column {items.column['photo']!r}); name their folder by --images DIR, or leave "
            "them out by --no-images"
        )
    if args.images is not None and not args.images.is_dir():
        raise PreparedError(f"--images {args.images} is not a folder")
    return args.images


def store_shop_photos(
    folder: Path | None, items: ShopItems, file: ShopFile, args: argparse.Namespace, writer: PreparedWriter
) -> list[list[str]]:
    """Store the items' photos; returns the image keys of every item."""
    if folder is None:
        return [[] for _ in range(len(items.frame))]
    if items.photos is None:
        return _called_like_items(folder, items.frame["item_id"].tolist(), args, writer)
    return _named(folder, items, file, args, writer)


def _called_like_items(
    folder: Path, item_ids: list[str], args: argparse.Namespace, writer: PreparedWriter
) -> list[list[str]]:
    """Photos are looked up by their file names, so an id is never used as a path."""
    by_id: dict[str, Path] = {}
    for path in find_photos(folder):
        by_id.setdefault(path.stem, path)
    paths = {item: by_id[item] for item in item_ids if item in by_id}
    writer.notes["photos_of_no_item"] = len(by_id) - len(paths)
    stored = store_photos(paths, writer=writer, size=args.image_size, threads=args.threads)
    return [[item] if item in stored else [] for item in item_ids]


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
    paths = {}
    for name in first_row:
        if _stays_inside(name):
            paths[name] = folder / name
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


def _stays_inside(name: str) -> bool:
    """Whether a relative path can be a photo's below its folder."""
    return "\0" not in name and not os.path.isabs(name) and os.path.normpath(name).split(os.sep)[0] != os.pardir
