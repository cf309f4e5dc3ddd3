"""Prepare K-Fashion (AI Hub): JSON labels and photos, one item for each labelled garment.

Photos and labels lie at any depth below --raw and are matched by name (100026.json, 100026.jpg). If several share a
name, those in one folder are matched, or those at the same path below parallel folders (labels/a/1.json,
photos/a/1.jpg). Each garment is cropped to its bounding box, with a margin. Garments of one photo stay in one part of
the split.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipelines.arguments import PHOTO_SIDE, SEED, SHARE, add_paths, number, whole_number
from pipelines.kfashion import synthetic as kfashion_synthetic
from pipelines.kfashion.labels import ATTRIBUTES, CATEGORIES, Garment, Label, read_label
from pipelines.photos.crops import Shot, store_crops, upright_size
from pipelines.photos.images import PhotoError, find_files, find_photos
from pipelines.photos.label_photos import LabelPhotos
from pipelines.prepared import PreparedError, PreparedWriter
from pipelines.progress import Progress
from pipelines.ratio_splits import check_shares, random_split
from pipelines.summary import print_summary

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Item:
    """A garment that can be cut out of its photo."""

    item_id: str
    image_id: str
    garment: Garment
    shot: Shot


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this reader's options."""
    add_paths(parser, "folder with the label files (*.json) and photos, at any depth")
    parser.add_argument(
        "--categories",
        nargs="+",
        choices=CATEGORIES,
        default=list(CATEGORIES),
        metavar="CATEGORY",
        help="garments to keep: 상의 (top), 하의 (bottom), 아우터 (outerwear), 원피스 (dress); default: all",
    )
    parser.add_argument("--padding", type=number(0), default=0.1, help="margin, share of the box (default 0.1)")
    parser.add_argument(
        "--image-size", "--size", type=PHOTO_SIDE, default=256, help="longest side of a stored photo (default 256)"
    )
    parser.add_argument("--test-share", type=SHARE, default=0.1, help="of the photos (default 0.1)")
    parser.add_argument("--val-share", type=SHARE, default=0.1, help="of the photos (default 0.1)")
    parser.add_argument("--seed", type=SEED, default=0, help="of the split and of --synthetic (default 0)")
    parser.add_argument(
        "--synthetic", type=whole_number(1), metavar="N", help="first draw N made-up outfits in this layout into --raw"
    )


def run(args: argparse.Namespace) -> None:
    """Read the folder `args.raw` and write the prepared dataset `args.out`.

    Raises:
        PreparedError: the folder has no label files, or no garment of them can be used.
    """
    check_shares(args.test_share, args.val_share)
    raw = Path(args.raw)
    names = ("categories", "padding", "image_size", "test_share", "val_share", "seed", "synthetic")
    options = {name: getattr(args, name) for name in names}
    with PreparedWriter(
        args.out, dataset="kfashion", source=str(raw), options=options, overwrite=args.overwrite
    ) as writer:
        if args.synthetic is not None:
            kfashion_synthetic.generate(raw, args.synthetic, seed=args.seed)
        items = _read_items(raw, args, writer)
        stored = store_crops(writer, [item.shot for item in items], size=args.image_size, total=len(items))
        items = [item for item in items if item.item_id in stored]
        if not items:
            raise PreparedError(f"--raw {raw}: no garment can be used; rejected: {writer.rejected}")
        writer.items(_items_frame(items, args))
        writer.split = {
            "kind": "random-by-photo",
            **{name: getattr(args, name) for name in ("test_share", "val_share", "seed")},
        }
    print_summary(args.out)


def crop_box(box: Box, padding: float, declared: tuple[float, float], actual: tuple[int, int]) -> Box:
    """Widen a box and move it to the photo as it is on disk.

    Args:
        box: `(left, top, right, bottom)` in the label's pixels.
        padding: margin on each side, as a share of the box's own width and height.
        declared: width and height of the photo as the label has them; NaN where it does not say.
        actual: width and height of the photo turned upright.

    Returns:
        The box in the photo's pixels, cut at its edges.
    """
    scale_x, scale_y = (real / said if said == said else 1.0 for real, said in zip(actual, declared))
    left, top, right, bottom = box
    margin_x, margin_y = padding * (right - left), padding * (bottom - top)
    return (
        max(0.0, (left - margin_x) * scale_x),
        max(0.0, (top - margin_y) * scale_y),
        min(float(actual[0]), (right + margin_x) * scale_x),
        min(float(actual[1]), (bottom + margin_y) * scale_y),
    )


def _read_items(raw: Path, args: argparse.Namespace, writer: PreparedWriter) -> list[Item]:
    """Read every label file; what cannot be used is rejected, what is not asked for is counted."""
    files = sorted(find_files(raw, (".json",)))
    if not files:
        state = "has no label file (*.json)" if raw.is_dir() else "is not a folder"
        raise PreparedError(f"--raw {raw} {state}; unpack K-Fashion there, or try --synthetic 500")
    photos = LabelPhotos(find_photos(raw), files)
    items: list[Item] = []
    seen: set[str] = set()
    unknown: Counter[str] = Counter()
    unwanted = 0
    with Progress("labels", len(files), unit=" labels") as progress:
        for file in files:
            progress.update()
            try:
                label = read_label(file)
            except PreparedError as error:
                writer.reject(file=file.name, row=0, field="", value=error, reason="broken label file")
                continue
            if label.image_id in seen:
                writer.reject(
                    file=file.name,
                    row=0,
                    field="이미지 식별자",
                    value=label.image_id,
                    reason="duplicate image id",
                )
                continue
            seen.add(label.image_id)
            unknown.update(label.unknown)
            wanted = [garment for garment in label.garments if garment.category in args.categories]
            unwanted += len(label.garments) - len(wanted)
            items += _items_of(label, wanted, file, photos, args.padding, writer)
    writer.notes |= {"labels": len(files), "garments_of_other_categories": unwanted}
    writer.notes |= {"unknown_label_keys": dict(sorted(unknown.items()))}
    return items


def _items_of(
    label: Label,
    garments: list[Garment],
    file: Path,
    photos: LabelPhotos,
    padding: float,
    writer: PreparedWriter,
) -> list[Item]:
    """The garments of one photo that have a photo and a sound rectangle."""
    if not garments:
        return []
    try:
        photo = photos.find(file, label.file_name)
        size = upright_size(photo)
    except PhotoError as error:
        for garment in garments:
            writer.reject(file=file.name, row=0, field=garment.category, value=label.image_id, reason=str(error))
        return []
    declared = (label.width, label.height)
    items = []
    for garment in garments:
        item_id = f"{label.image_id}_{garment.category}" + (f"_{garment.number + 1}" if garment.number else "")
        try:
            frame = [real if said != said else said for real, said in zip(size, declared)]
            left, top, right, bottom = crop_box(garment.box(*frame), padding, declared, size)
        except PreparedError as error:
            writer.reject(file=file.name, row=0, field=garment.category, value=error, reason="broken rectangle")
            continue
        # A Shot's box counts pixels from 1, both ends included.
        shot = Shot(item_id, photo, (left + 1, top + 1, right, bottom), file=file.name, row=0)
        items.append(Item(item_id, label.image_id, garment, shot))
    return items


def _items_frame(items: list[Item], args: argparse.Namespace) -> pd.DataFrame:
    """One row a garment. There is no text: K-Fashion's words are the attributes themselves."""
    image_ids = list(dict.fromkeys(item.image_id for item in items))
    split = random_split(len(image_ids), test_share=args.test_share, val_share=args.val_share, seed=args.seed)
    part = dict(zip(image_ids, split))
    kinds = [item.garment.attributes.get("category", [item.garment.category])[0] for item in items]
    frame = pd.DataFrame(
        {
            "item_id": [item.item_id for item in items],
            "title": kinds,
            "images": [[item.item_id] for item in items],
            "group": [item.image_id for item in items],
            "label": kinds,
            "split": [part[item.image_id] for item in items],
        }
    )
    for field in ATTRIBUTES:
        frame[f"attr.{field}"] = [item.garment.attributes.get(field, []) for item in items]
    return frame
