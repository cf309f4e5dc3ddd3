"""The customers of a recommender's page: purchases and recommendations as photos with captions."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tfrec.reports.page import Section, render

if TYPE_CHECKING:
    from pipelines.prepared import Prepared

PHOTO_SIZE = (200, 280)  # the most pixels a photo takes in the report
PHOTO_QUALITY = 80
CAPTION_FIELDS = 2  # attribute values printed under a photo; the alternative text has more
ALT_FIELDS = 6


@dataclass(frozen=True)
class Card:
    """One item as shown: `marks` are words such as `hit`, set on the photo; `regions` `(left, top, width, height)` are
    framed on it, in pixels of its `size` (width, height).
    """

    title: str
    caption: str
    alt: str
    photo: str | None
    size: tuple[int, int] = (0, 0)
    rank: int | None = None
    marks: tuple[str, ...] = ()
    reason: str = ""
    regions: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Customer:
    """One customer as shown."""

    user_id: str
    summary: str
    more: int  # earlier purchases that are not shown
    history: list[Card] = field(default_factory=list)
    targets: list[Card] = field(default_factory=list)
    recommended: list[Card] = field(default_factory=list)


def customers_section(prepared: Prepared, examples: list[dict[str, Any]]) -> list[Section]:
    """The section of the customers; none without examples."""
    if not examples:
        return []
    text = (
        "Drawn at random, so hits and misses are as frequent as they are. A recommendation that the customer went on to "
        "buy is framed and says “bought”. Small frames on a photo: where the item’s own words and attributes look in it, "
        "by the attention between the two."
    )
    return [Section("Customers", [text], embed=render("customers.html", customers=customers(prepared, examples)))]


def customers(prepared: Prepared, examples: list[dict[str, Any]]) -> list[Customer]:
    """Turn examples (`tfrec.examples`) into what the template draws.

    Args:
        prepared: the dataset whose item rows the examples name.
        examples: as `sample_examples` made them.
    """
    card = _card_maker(prepared)
    return [_customer(example, card) for example in examples]


def _customer(example: dict[str, Any], card: Callable[..., Card]) -> Customer:
    history, targets = example["history"], example["targets"]
    seen = example.get("seen", history)
    rows = [int(row) for row, _ in example["recommended"]]
    reasons = example.get("reasons") or [""] * len(rows)
    regions = example.get("regions") or [[]] * len(rows)
    recommended = []
    for rank, (row, reason, looked) in enumerate(zip(rows, reasons, regions), 1):
        marks = ("hit",) * (row in targets) + ("seen",) * (row in seen)
        recommended.append(card(row, rank=rank, marks=marks, reason=reason, regions=looked))
    found = [("hit",) if row in rows else () for row in targets]
    return Customer(
        user_id=str(example["user_id"]),
        summary=_summary(targets, rows),
        more=max(0, int(example.get("purchases", len(history))) - len(history)),
        history=[card(row) for row in history],
        targets=[card(row, marks=marks) for row, marks in zip(targets, found)],
        recommended=recommended,
    )


def _summary(targets: list[int], rows: list[int]) -> str:
    places = [str(place) for place, row in enumerate(rows, 1) if row in targets]
    if not places:
        return f"none of {_count(len(targets), 'next purchase')} among the first {len(rows)}"
    where = f"at place {places[0]}" if len(places) == 1 else f"at places {', '.join(places)}"
    return f"{len(places)} of {_count(len(targets), 'next purchase')} found, {where}"


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


def _card_maker(prepared: Prepared) -> Callable[..., Card]:
    """A function from an item's row to its card; every photo is read and shrunk once."""
    items, fields = prepared.items, prepared.fields
    photos: dict[int, tuple[str | None, tuple[int, int]]] = {}

    def card(
        row: int,
        *,
        rank: int | None = None,
        marks: tuple[str, ...] = (),
        reason: str = "",
        regions: Sequence[tuple[float, float, float, float]] = (),
    ) -> Card:
        item = items.iloc[row]
        if row not in photos:
            photos[row] = _photo(prepared, item["images"])
        photo, (width, height) = photos[row]
        title = str(item["title"] or item["item_id"])
        values = {name: ", ".join(map(str, item[f"attr.{name}"])) for name in fields}
        filled = {name: value for name, value in values.items() if value}
        words = "; ".join(f"{_readable(name)}: {value}" for name, value in list(filled.items())[:ALT_FIELDS])
        return Card(
            title=title,
            caption=" · ".join(_caption_values(filled)),
            alt=f"{title} ({words})" if words else title,
            photo=photo,
            size=(width, height),
            rank=rank,
            marks=marks,
            reason=reason,
            regions=tuple((x * width, y * height, w * width, h * height) for x, y, w, h in regions),
        )

    return card


def _caption_values(filled: dict[str, str]) -> list[str]:
    """The values that tell garments apart at a glance: type and colour where there are such fields."""
    wanted = [name for word in ("type", "colour", "color") for name in filled if word in name.lower()]
    names = list(dict.fromkeys(_first_of_each_kind(wanted) + list(filled)))
    return list(dict.fromkeys(filled[name] for name in names))[:CAPTION_FIELDS]


def _first_of_each_kind(names: list[str]) -> list[str]:
    types = [name for name in names if "type" in name.lower()]
    colours = [name for name in names if "type" not in name.lower()]
    return types[:1] + colours[:1]


def _readable(field_name: str) -> str:
    return field_name.removesuffix("_name").replace("_", " ")


def _photo(prepared: Prepared, keys: Any) -> tuple[str | None, tuple[int, int]]:
    """The first photo as a data URI, shrunk, and its width and height; None where there is none that opens."""
    from PIL import Image, UnidentifiedImageError

    if prepared.images is None or len(keys) == 0:
        return None, (0, 0)
    try:
        with Image.open(io.BytesIO(prepared.images.read(keys[0]))) as image:
            image.draft("RGB", PHOTO_SIZE)
            photo = image.convert("RGB")
    except (UnidentifiedImageError, OSError, KeyError):
        return None, (0, 0)
    photo.thumbnail(PHOTO_SIZE)
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=PHOTO_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"), photo.size
