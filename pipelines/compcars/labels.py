"""CompCars's raw files as one list of photos: the image/label tree, or a CSV, with what is wrong said for
each row.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.photos.images import find_photos, with_known_ending
from pipelines.printable import printable
from pipelines.raw.raw_csv import open_records
from pipelines.schema import PreparedError

CSV_COLUMNS = ("image_name", "image_path", "released_year", "viewpoint", "bbox", "make", "model", "type")
VIEWPOINTS = {1: "front", 2: "rear", 3: "side", 4: "front_side", 5: "rear_side", -1: "unknown"}
TYPES = (
    "MPV",
    "SUV",
    "sedan",
    "hatchback",
    "minibus",
    "fastback",
    "estate",
    "pickup",
    "hardtop convertible",
    "sports",
    "crossover",
    "convertible",
)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")

Reject = Callable[..., None]  # PreparedWriter.reject


@dataclass(frozen=True)
class CarPhoto:
    """One labelled photo.

    Attributes:
        path: the file.
        file: the raw file that describes it, for messages about it.
        row: its row there; 0 for a label file of its own.
        make: id or name.
        model: id or name; ids are unique within CompCars, names within their make.
        year: four digits.
        view: a value of `VIEWPOINTS`.
        box: x1, y1, x2, y2 in pixels, counted from 1, ends included.
        kind: body type, or "".
    """

    path: Path
    file: str
    row: int
    make: str
    model: str
    year: str
    view: str
    box: tuple[float, float, float, float]
    kind: str


@dataclass(frozen=True)
class Names:
    """What CompCars's `misc` folder knows about ids; empty where the files are absent.

    Attributes:
        makes: make id -> name.
        models: model id -> name.
        kinds: model id -> body type.
    """

    makes: dict[str, str] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)


def read_tree(raw: Path, reject: Reject) -> Iterator[CarPhoto]:
    """Walk through the photos in `image/make/model/year` with `label/make/model/year/*.txt`.

    Args:
        raw: the folder that holds `image` and `label`.
        reject: called with `file, row, field, value, reason` for every photo that cannot be used.

    Raises:
        PreparedError: there is no `image` folder, or no photo in it.
    """
    images, names = raw / "image", read_names(raw / "misc")
    photos = []
    for photo in find_photos(images):
        if len(photo.relative_to(images).parts) == 4:
            photos.append(photo)
            continue
        place = str(photo.relative_to(raw))
        reject(file=place, row=0, field="image", value=place, reason="photo is not in a folder image/make/model/year")
    if not photos:
        raise PreparedError(f"{images} holds no make/model/year/*.jpg; --raw must be CompCars's `data` folder")
    for photo in sorted(photos):
        make, model, year, _ = map(printable, photo.relative_to(images).parts)
        label = (raw / "label" / photo.relative_to(images)).with_suffix(".txt")
        lines = label.read_text(encoding="ascii", errors="replace").split("\n") if label.is_file() else []
        where: dict[str, Any] = {"file": str(label.relative_to(raw)), "row": 0}
        cells = {"released_year": year, "viewpoint": "", "bbox": ""}
        if lines:
            cells.update(zip(("viewpoint", "boxes", "bbox"), (line.strip() for line in lines)))
        if not lines or cells.get("boxes") == "0":
            reject(**where, field="bbox", value=cells.get("boxes", ""), reason="no label file or no box in it")
        elif parsed := _check(cells, where, reject):
            yield CarPhoto(
                path=photo,
                **where,
                make=names.makes.get(make, make),
                model=names.models.get(model, model),
                kind=names.kinds.get(model, ""),
                **parsed,
            )


def read_csv(file: Path, raw: Path, reject: Reject) -> Iterator[CarPhoto]:
    """Read the CSV `image_name,image_path,released_year,viewpoint,bbox,make,model,type`, one photo a row.

    Args:
        file: the CSV.
        raw: folder that relative image paths start from.
        reject: called with `file, row, field, value, reason` for every row that cannot be used.

    Raises:
        PreparedError: a column is missing, or the file is not UTF-8.
    """
    header, rows = open_records(file, CSV_COLUMNS, reject=reject)
    for row, values in rows:
        where: dict[str, Any] = {"file": file.name, "row": row}
        record = dict(zip(header, values))
        cells = {name: record.get(name, "").strip() for name in CSV_COLUMNS}
        empty = next((name for name in ("make", "model") if not cells[name]), None)
        if len(values) > len(header) or empty:
            field_name = empty or "type"
            reject(
                **where,
                field=field_name,
                value=cells[field_name],
                reason="wrong number of cells or empty name",
            )
        elif parsed := _check(cells, where, reject):
            path = find_photo(raw, cells["image_path"], cells["image_name"])
            kind = _kind(cells["type"])
            yield CarPhoto(path=path, **where, make=cells["make"], model=cells["model"], kind=kind, **parsed)


def find_photo(raw: Path, path: str, name: str) -> Path:
    """Resolve a CSV's image path: from `raw`, from `raw/image`, or, written on another machine, after its
    `image/`.

    Returns:
        The first candidate that is a file, as it is named or with another ending, else the plain one (whose absence the
        reader of photos reports).
    """
    tail = path.replace("\\", "/").rpartition("/image/")[2].lstrip("/")
    candidates = [
        raw / path,
        raw / "image" / path,
        raw / "image" / tail,
        raw / "image" / tail / name,
        raw / path / name,
    ]
    named = next((candidate for candidate in candidates if os.path.isfile(candidate)), None)
    return named or next(filter(None, map(with_known_ending, candidates)), raw / path)


def parse_box(text: str) -> tuple[float, float, float, float] | None:
    """Four numbers in any brackets or separators, corners in order; None when they are not a box."""
    numbers = [float(number) for number in NUMBER.findall(text)]
    if len(numbers) != 4:
        return None
    x1, y1, x2, y2 = numbers
    return (x1, y1, x2, y2) if 0 <= x1 < x2 and 0 <= y1 < y2 else None


def parse_view(text: str) -> str | None:
    """CompCars's number or its name -> a value of `VIEWPOINTS`; None when it is neither."""
    name = text.lower().replace("-", "_").replace(" ", "_")
    if name in VIEWPOINTS.values():
        return name
    try:
        return VIEWPOINTS.get(int(float(text)))
    except (ValueError, OverflowError):  # an infinite number is no whole one
        return None


def read_names(misc: Path) -> Names:
    """Read `make_model_name.mat` and `attributes.txt`, each where it is present."""
    names = Names()
    matrix = misc / "make_model_name.mat"
    if matrix.is_file():
        from scipy.io import loadmat

        content = loadmat(str(matrix))
        for key, known in (("make_names", names.makes), ("model_names", names.models)):
            for number, cell in enumerate(content.get(key, []), start=1):
                text = str(cell[0][0]).strip() if cell[0].size else ""
                if text:
                    known[str(number)] = text
    table = misc / "attributes.txt"
    if table.is_file():
        for line in table.read_text(encoding="ascii", errors="replace").split("\n")[1:]:
            cells = line.split()
            if len(cells) >= 6:
                names.kinds[cells[0]] = _kind(cells[5])
    return names


def _check(cells: dict[str, str], where: dict, reject: Reject) -> dict | None:
    """Parse what every photo needs, or reject the photo for the first thing that is wrong."""
    year = cells["released_year"].removesuffix(".0")
    view, box = parse_view(cells["viewpoint"]), parse_box(cells["bbox"])
    if not (year.isdecimal() and len(year) == 4):
        reject(**where, field="released_year", value=cells["released_year"], reason="no released year")
    elif view is None:
        reject(**where, field="viewpoint", value=cells["viewpoint"], reason="viewpoint is not -1 or 1..5")
    elif box is None:
        reject(**where, field="bbox", value=cells["bbox"], reason="broken box")
    else:
        return {"year": year, "view": view, "box": box}
    return None


def _kind(text: str) -> str:
    """Body type by CompCars's number 1..12, or the text itself; 0 and blanks are unknown."""
    number = text.removesuffix(".0")
    if number.isdecimal():
        return TYPES[int(number) - 1] if 1 <= int(number) <= len(TYPES) else ""
    return text
