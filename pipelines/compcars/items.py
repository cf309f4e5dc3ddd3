"""CompCars's labelled photos -> items: one car of one model and year, seen from several sides."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines.compcars.labels import CarPhoto, read_csv, read_tree
from pipelines.label_splits import split_labels
from pipelines.photos.boxes import format_box
from pipelines.photos.crops import Shot, store_crops
from pipelines.prepared import PreparedError, PreparedWriter
from pipelines.printable import printable

REPEATED = "photo and box stand in an earlier row"


@dataclass(frozen=True)
class Options:
    """How photos become items.

    Attributes:
        views: the views an item has, in order.
        items: `pairs` (the n-th photo of each view) or `years` (all photos of a model and year).
        split: `stratified` or `class-disjoint`, see `pipelines.label_splits`.
        test_share: of items, or of models.
        val_share: the same for validation.
        size: longest side of a stored photo.
        margin: share of a box's sides that is kept around it; the items then carry `boxes`.
        seed: of the split.
    """

    views: tuple[str, ...] = ("front", "rear")
    items: str = "pairs"
    split: str = "stratified"
    test_share: float = 0.2
    val_share: float = 0.0
    size: int = 256
    margin: float = 0.0
    seed: int = 0


def prepare(
    raw: str | Path, out: str | Path, options: Options, *, csv: str | None = None, overwrite: bool = False
) -> None:
    """Write the prepared dataset.

    Args:
        raw: CompCars's folder.
        out: folder to make.
        options: see `Options`.
        csv: the CSV to read instead of the tree; by default the only `*.csv` in `raw`.
        overwrite: replace `out`.

    Raises:
        PreparedError: there is nothing usable.
    """
    raw = Path(raw)
    table = _find_csv(raw, csv)
    with PreparedWriter(
        out, dataset="compcars", source=str(raw), options=asdict(options), overwrite=overwrite
    ) as writer:
        photos = list(read_csv(table, raw, writer.reject) if table else read_tree(raw, writer.reject))
        wanted = [photo for photo in photos if photo.view in options.views]
        writer.notes["photos_by_view"] = dict(sorted(Counter(photo.view for photo in photos).items()))
        writer.notes["photos_of_other_views"] = len(photos) - len(wanted)
        wanted = list(_each_once(wanted, writer))
        shots = {_key(photo, number): photo for number, photo in enumerate(wanted)}
        stored = store_crops(
            writer,
            (Shot(key, photo.path, photo.box, photo.file, photo.row) for key, photo in shots.items()),
            size=options.size,
            total=len(shots),
            margin=options.margin,
        )
        frame = items_frame({key: photo for key, photo in shots.items() if key in stored}, options)
        if not len(frame):
            raise PreparedError(
                f"{raw}: none of {len(photos)} labelled photos can be used for the views "
                f"{list(options.views)}; rejected: {writer.rejected}"
            )
        if options.margin:
            frame["boxes"] = [[format_box(stored[key]) for key in keys] for keys in frame["images"]]
        shares: dict[str, Any] = {name: getattr(options, name) for name in ("test_share", "val_share", "seed")}
        frame["split"] = split_labels(frame["label"].to_numpy(), kind=options.split, **shares)
        writer.split = {"kind": options.split, **shares}
        writer.items(frame)


def items_frame(photos: dict[str, CarPhoto], options: Options) -> pd.DataFrame:
    """Group photos of one make, model and year into items.

    Args:
        photos: image key -> photo.
        options: `views` and `items` are used.

    Returns:
        The items table without its split; item ids are `make_model_year_n` without spaces, labels `make_model`.
        Models whose labels or ids would be the same text are told apart by `~2`, `~3` ... behind the model.
    """
    cars: dict[tuple[str, str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for key, photo in photos.items():
        cars[photo.make, photo.model, photo.year][photo.view].append(key)
    models = sorted({(make, model) for make, model, _ in cars})
    labels = _told_apart([f"{make}_{model}" for make, model in models])
    stems = _told_apart([label.replace(" ", "-") for label in labels])
    names = dict(zip(models, zip(labels, stems)))
    rows = []
    for (make, model, year), by_view in sorted(cars.items()):
        label, stem = names[make, model]
        columns = [by_view.get(view, []) for view in options.views]
        count = max(map(len, columns)) if options.items == "pairs" else 1
        for number in range(count):
            part = slice(number, number + 1) if options.items == "pairs" else slice(None)
            keys = [key for column in columns for key in column[part]]
            shown = [(key, photos[key]) for key in keys]
            rows.append({"item_id": f"{stem}_{year}_{number}", **_row(label, year, shown)})
    return pd.DataFrame(rows)


def _told_apart(names: list[str]) -> list[str]:
    """The names with `~2`, `~3` ... behind those that stood before; the others stay as they are."""
    apart: dict[str, None] = {}  # a set that keeps its order
    for name in names:
        text, number = name, 1
        while text in apart:
            number += 1
            text = f"{name}~{number}"
        apart[text] = None
    return list(apart)


def _row(label: str, year: str, shown: list[tuple[str, CarPhoto]]) -> dict:
    """One item of the photos `shown`, without its id."""
    first, views = shown[0][1], [photo.view for _, photo in shown]
    return {
        "title": f"{first.make} {first.model} {year}",
        "images": [key for key, _ in shown],
        "views": views,
        "group": f"{label}_{year}",
        "label": label,
        "attr.make": [first.make],
        "attr.type": [first.kind] if first.kind else [],
        "attr.year": [year],
        "attr.viewpoint": sorted(set(views)),
    }


def _each_once(photos: Iterable[CarPhoto], writer: PreparedWriter) -> Iterator[CarPhoto]:
    """The photos without those that a table lists again, which could be in training and in the test."""
    seen = set()
    for photo in photos:
        if (shown := (photo.path, photo.box, photo.view)) in seen:
            writer.reject(file=photo.file, row=photo.row, field="image_path", value=str(photo.path), reason=REPEATED)
            continue
        seen.add(shown)
        yield photo


def _key(photo: CarPhoto, number: int) -> str:
    """A key that is unique though a photo's name is not."""
    return f"{number:06d}-{printable(photo.path.stem)}"


def _find_csv(raw: Path, csv: str | None) -> Path | None:
    """The CSV to read, or None for the tree."""
    if csv is not None:
        if not Path(csv).is_file():
            raise PreparedError(f"--csv {csv} is not a file")
        return Path(csv)
    found = sorted(raw.glob("*.csv"))
    if len(found) > 1:
        raise PreparedError(f"{raw} holds {len(found)} CSV files; name one with --csv")
    return found[0] if found else None
