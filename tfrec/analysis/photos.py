"""Pictures made of photos: contact sheets of clusters, nearest-neighbour strips, attention over a photo."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tfrec.analysis.inputs import Catalogue
from tfrec.reports.fonts import file_for

TILE = 96
GAP = 6
INK, PAPER, MUTED = (28, 32, 38), (255, 255, 255), (225, 228, 232)
RIGHT, WRONG = (33, 145, 80), (200, 55, 45)


def thumbnail(jpeg: bytes | None, size: int = TILE) -> Image.Image:
    """A photo fitted into a white square; a grey square where there is none."""
    tile = Image.new("RGB", (size, size), PAPER if jpeg else MUTED)
    if jpeg:
        with Image.open(io.BytesIO(jpeg)) as photo:
            photo.draft("RGB", (size, size))
            small = photo.convert("RGB")
        scale = size / max(small.size)
        small = small.resize([max(1, round(side * scale)) for side in small.size], Image.Resampling.BICUBIC)
        tile.paste(small, ((size - small.width) // 2, (size - small.height) // 2))
    return tile


def data_uri(jpeg: bytes | None, size: int) -> str:
    """A thumbnail as a `data:` URI, so that a page needs no other file."""
    out = io.BytesIO()
    thumbnail(jpeg, size).save(out, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def cluster_sheet(
    catalogue: Catalogue, rows_by_group: Sequence[tuple[str, np.ndarray]], file: Path, *, columns: int = 10
) -> None:
    """Draw one row of sample photos per group, its name before it.

    Args:
        catalogue: the photos.
        rows_by_group: `(name, item rows)`; the first `columns` rows of each are shown.
        file: PNG to write.
        columns: photos per group.
    """
    label_width = 170
    width = label_width + columns * (TILE + GAP) + GAP
    sheet = Image.new("RGB", (width, max(1, len(rows_by_group)) * (TILE + GAP) + GAP), PAPER)
    draw, font = ImageDraw.Draw(sheet), _font(13, "".join(name for name, _ in rows_by_group))
    for number, (name, rows) in enumerate(rows_by_group):
        top = GAP + number * (TILE + GAP)
        draw.multiline_text((GAP, top + 8), name, fill=INK, font=font, spacing=5)
        for column, row in enumerate(rows[:columns]):
            sheet.paste(thumbnail(catalogue.photo(int(row))), (label_width + column * (TILE + GAP), top))
    sheet.save(file, optimize=True)


def neighbour_strips(
    catalogue: Catalogue,
    strips: Sequence[tuple[int, np.ndarray]],
    labels: np.ndarray | None,
    file: Path,
) -> None:
    """Draw one strip per query: its photo, a gap, its nearest neighbours framed green (same label) or red.

    Args:
        catalogue: the photos.
        strips: `(query row, neighbour rows)`.
        labels: `[N]`, or None for no frames.
        file: PNG to write.
    """
    columns = 1 + max((len(rows) for _, rows in strips), default=0)
    caption = 16
    height = TILE + caption + GAP
    sheet = Image.new("RGB", (columns * (TILE + GAP) + 3 * GAP, max(1, len(strips)) * height + GAP), PAPER)
    shown = [] if labels is None else [str(labels[row]) for query, rows in strips for row in (query, *rows)]
    draw, font = ImageDraw.Draw(sheet), _font(11, "".join(shown))
    for number, (query, rows) in enumerate(strips):
        top = GAP + number * height
        for column, row in enumerate([query, *rows]):
            left = GAP + column * (TILE + GAP) + (2 * GAP if column else 0)
            sheet.paste(thumbnail(catalogue.photo(int(row))), (left, top))
            if labels is None:
                continue
            name = _cut(str(labels[row]), 16)
            draw.text((left, top + TILE + 1), name, fill=INK, font=font)
            if column:
                colour = RIGHT if labels[row] == labels[query] else WRONG
                draw.rectangle([left, top, left + TILE - 1, top + TILE - 1], outline=colour, width=3)
    sheet.save(file, optimize=True)


def attention_overlay(jpeg: bytes, weights: np.ndarray, *, size: int = 224) -> Image.Image:
    """Lay attention weights over a photo as a heat map.

    Args:
        jpeg: the photo.
        weights: `[h, w]` non-negative weights of the photo's patches.
        size: side of the square result.

    Returns:
        The photo with warm colours where the weights are high.
    """
    from matplotlib import colormaps

    weights = np.asarray(weights, np.float64)
    if weights.ndim != 2:
        raise ValueError(f"weights has shape {weights.shape}; give one weight per patch, [h, w]")
    span = weights.max() - weights.min()
    heat = (weights - weights.min()) / span if span > 0 else np.zeros_like(weights)
    small = Image.fromarray((heat * 255).astype(np.uint8))
    # The grid has the shape of the photo, which is centred in the square.
    width, height = (max(1, round(size * side / max(small.size))) for side in small.size)
    mask = Image.new("L", (size, size))
    mask.paste(small.resize((width, height), Image.Resampling.BICUBIC), ((size - width) // 2, (size - height) // 2))
    strength = np.asarray(mask, np.float32)[..., None] / 255.0
    colours = colormaps["inferno"](strength[..., 0])[..., :3] * 255.0
    photo = np.asarray(thumbnail(jpeg, size), np.float32)
    mixed = photo * (1 - 0.65 * strength) + colours * 0.65 * strength
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def attention_sheet(catalogue: Catalogue, rows: Sequence[int], weights: np.ndarray, file: Path) -> None:
    """Draw photos above their attention maps.

    Args:
        catalogue: the photos.
        rows: `[n]` item rows that have a photo.
        weights: `[n, h, w]`.
        file: PNG to write.
    """
    side = 160
    sheet = Image.new("RGB", (max(1, len(rows)) * (side + GAP) + GAP, 2 * (side + GAP) + GAP), PAPER)
    for column, (row, weight) in enumerate(zip(rows, weights)):
        jpeg = catalogue.photo(int(row))
        left = GAP + column * (side + GAP)
        sheet.paste(thumbnail(jpeg, side), (left, GAP))
        if jpeg:
            sheet.paste(attention_overlay(jpeg, weight, size=side), (left, side + 2 * GAP))
    sheet.save(file, optimize=True)


def _font(size: int, text: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A font for all of a text: Pillow's own where that has its letters, which are those of Europe."""
    file = None if text.isascii() else file_for(text)
    return ImageFont.load_default(size) if file is None else ImageFont.truetype(file, size)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
