"""Made-up outfits in K-Fashion's own JSON layout, every attribute visible in the drawn photo.

The original may not be passed on; with these pairs, tests and newcomers run the same pipeline.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pipelines.publish import filled_whole, is_free
from pipelines.schema import PreparedError

SIZE = (240, 320)  # width, height
LABELS_FOLDER, PHOTOS_FOLDER = "라벨링데이터", "원천데이터"  # as AI Hub's archives unpack
Point = tuple[float, float]

COLOURS = {
    "블랙": (30, 30, 34), "화이트": (244, 244, 240), "레드": (200, 38, 42),
    "블루": (42, 82, 190), "그린": (42, 128, 66), "옐로우": (236, 200, 50), "핑크": (240, 142, 172),
    "브라운": (122, 78, 44), "퍼플": (120, 62, 160),
}  # fmt: skip
STYLES = {
    "모던": (206, 210, 216),
    "로맨틱": (246, 222, 228),
    "스트리트": (150, 146, 140),
    "리조트": (190, 224, 236),
}
PRINTS = ("무지", "스트라이프", "도트", "체크")
MATERIALS = ("우븐", "데님", "니트")  # plain, diagonal twill, horizontal ribs
FITS = {"타이트": 0.8, "노멀": 1.0, "루즈": 1.25}
SLEEVES = {"민소매": 0.0, "반팔": 0.4, "긴팔": 1.0}
NECKLINES = ("라운드넥", "브이넥", "스퀘어넥")
LENGTHS = {
    "상의": {"크롭": 0.22, "노멀": 0.3, "롱": 0.38},
    "하의": {"미니": 0.18, "니렝스": 0.28, "맥시": 0.42},
    "원피스": {"미니": 0.42, "니렝스": 0.52, "맥시": 0.68},
    "아우터": {"크롭": 0.24, "노멀": 0.34, "롱": 0.56},
}
KINDS = {
    "상의": ("티셔츠", "블라우스"),  # the blouse has buttons
    "하의": ("스커트", "팬츠"),
    "원피스": ("드레스",),
    "아우터": ("재킷", "코트"),  # the coat has lapels
}


@dataclass(frozen=True)
class Drawn:
    """A drawn garment: its K-Fashion label, and the polygons it fills (the first one outlines it)."""

    category: str
    label: dict[str, Any]
    polygons: list[list[Point]]


def generate(raw: str | Path, pairs: int, *, seed: int = 0) -> int:
    """Write `pairs` photos and labels; equal arguments give equal files.

    Args:
        raw: folder to make; it must be absent or empty. It appears whole or not at all.
        pairs: how many outfits; each has one to three garments.
        seed: of everything random.

    Returns:
        How many garments were drawn.

    Raises:
        PreparedError: `raw` is not an empty folder, or `pairs` is below 1.
    """
    raw = Path(raw)
    if not is_free(raw):
        raise PreparedError(
            f"{raw} is not an empty folder; give --raw a new one for the synthetic "
            "pairs, or leave --synthetic out to read what is there"
        )
    if pairs < 1:
        raise PreparedError(f"--synthetic {pairs}: ask for at least 1 pair")
    with filled_whole(raw.absolute()) as folder:
        garments = _write_pairs(folder, pairs, seed)
    return garments


def draw_pair(image_id: int, rng: np.random.Generator) -> tuple[Image.Image, dict[str, Any]]:
    """Draw one outfit and describe it as K-Fashion does."""
    style = _pick(rng, STYLES)
    categories = ["원피스"] if rng.random() < 0.3 else ["하의", "상의"]
    categories += ["아우터"] if rng.random() < 0.35 else []
    centre = SIZE[0] / 2 + rng.uniform(-16, 16)
    top = SIZE[1] * 0.2 + rng.uniform(-8, 8)
    photo = Image.new("RGB", SIZE, STYLES[style])
    _draw_body(photo, centre, top)
    outfit = [_garment(category, centre, top, rng) for category in categories]
    for garment in outfit:
        _paint(photo, garment)
    noise = rng.normal(0, 4, (SIZE[1], SIZE[0], 1))
    pixels = np.clip(np.asarray(photo, np.float64) + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels), _describe(image_id, style, outfit)


def _write_pairs(raw: Path, pairs: int, seed: int) -> int:
    """Fill an empty folder; returns the number of garments."""
    for folder in (LABELS_FOLDER, PHOTOS_FOLDER):
        (raw / folder).mkdir()
    garments = 0
    for number in range(pairs):
        rng = np.random.default_rng([seed, number])
        image_id = 100_000 + number
        photo, label = draw_pair(image_id, rng)
        photo.save(raw / PHOTOS_FOLDER / f"{image_id}.jpg", quality=90)
        text = json.dumps(label, ensure_ascii=False)
        (raw / LABELS_FOLDER / f"{image_id}.json").write_text(text, encoding="utf-8")
        boxes = label["데이터셋 정보"]["데이터셋 상세설명"]["렉트좌표"]
        garments += sum(entry != [{}] for entry in boxes.values())
    return garments


def _garment(category: str, centre: float, top: float, rng: np.random.Generator) -> Drawn:
    """Draw the attributes of one garment and shape it accordingly."""
    colour, second = rng.choice(list(COLOURS), 2, replace=False).tolist()
    kind, print_, fit = _pick(rng, KINDS[category]), _pick(rng, PRINTS), _pick(rng, FITS)
    material, length = _pick(rng, MATERIALS), _pick(rng, LENGTHS[category])
    label: dict[str, Any] = {"카테고리": kind, "색상": colour, "핏": fit, "기장": length, "소재": [material]}
    label |= {"프린트": [print_]} | ({} if print_ == "무지" else {"서브색상": second})
    label |= {"디테일": ["단추"]} if kind in ("블라우스", "코트") else {}
    high, wide = LENGTHS[category][length] * SIZE[1], FITS[fit] * 34.0
    if category == "하의":
        return Drawn(category, label, _bottom(kind, centre, top + 0.26 * SIZE[1], wide, high))
    sleeve, neckline = _pick(rng, SLEEVES), _pick(rng, NECKLINES)
    label |= {"소매기장": sleeve} | ({} if category == "아우터" else {"넥라인": neckline})
    wide += 8 if category == "아우터" else 0
    body = _body(category, neckline, centre, top, wide, high)
    return Drawn(category, label, [body, *_sleeves(centre, top, wide, SLEEVES[sleeve] * 0.3 * SIZE[1])])


def _body(category: str, neckline: str, centre: float, top: float, wide: float, high: float) -> list[Point]:
    """Outline of a top, a dress (flared) or an open outer garment, from the left shoulder round."""
    flare = 1.5 if category == "원피스" else 1.0
    hem = [(centre + wide * flare, top + high), (centre - wide * flare, top + high)]
    if category == "아우터":  # open in front, so that what is worn below still shows
        hem[1:1] = [
            (centre + 10, top + high),
            (centre + 10, top + 14),
            (centre - 10, top + 14),
            (centre - 10, top + high),
        ]
    cut = {
        "라운드넥": [(-12, 0), (-8, 9), (0, 12), (8, 9), (12, 0)],
        "브이넥": [(-12, 0), (0, 30), (12, 0)],
        "스퀘어넥": [(-16, 0), (-16, 18), (16, 18), (16, 0)],
    }[neckline]
    neck = [(centre + x, top + y) for x, y in cut]
    return [(centre - wide, top + 4), *neck, (centre + wide, top + 4), *hem]


def _sleeves(centre: float, top: float, wide: float, long: float) -> list[list[Point]]:
    if not long:
        return []
    shapes = []
    for side in (-1, 1):
        shoulder, cuff = centre + side * wide, centre + side * (wide + 12 + long * 0.3)
        shapes.append(
            [
                (shoulder - side * 6, top + 4),
                (cuff, top + long),
                (cuff - side * 14, top + long),
                (shoulder - side * 6, top + 34),
            ]
        )
    return shapes


def _bottom(kind: str, centre: float, waist: float, wide: float, high: float) -> list[list[Point]]:
    """A flared skirt, or trousers with two legs."""
    if kind == "스커트":
        return [
            [
                (centre - wide * 0.8, waist),
                (centre + wide * 0.8, waist),
                (centre + wide * 1.5, waist + high),
                (centre - wide * 1.5, waist + high),
            ]
        ]
    crotch = (centre, waist + min(30.0, 0.5 * high))
    left, right = (centre - wide, waist + high), (centre + wide, waist + high)
    inner_left, inner_right = (centre - wide * 0.25, waist + high), (centre + wide * 0.25, waist + high)
    return [
        [
            (centre - wide * 0.8, waist),
            (centre + wide * 0.8, waist),
            right,
            inner_right,
            crotch,
            inner_left,
            left,
        ]
    ]


def _paint(photo: Image.Image, garment: Drawn) -> None:
    """Fill the garment's polygons with its colour, print, material and detail."""
    mask = Image.new("L", SIZE, 0)
    for polygon in garment.polygons:
        ImageDraw.Draw(mask).polygon(polygon, fill=255)
    label = garment.label
    cloth = Image.new("RGB", SIZE, COLOURS[label["색상"]])
    draw = ImageDraw.Draw(cloth)
    _draw_print(draw, label["프린트"][0], COLOURS[label.get("서브색상", label["색상"])])
    _draw_material(draw, label["소재"][0], COLOURS[label["색상"]])
    photo.paste(cloth, mask=mask)
    outline = ImageDraw.Draw(photo)
    for polygon in garment.polygons:
        outline.line([*polygon, polygon[0]], fill=(20, 20, 20), width=1)
    if "디테일" in label:
        left, top, right, bottom = mask.getbbox() or (0, 0, 0, 0)
        x = (left + right) / 2 + (16 if garment.category == "아우터" else 0)
        for y in np.arange(top + 38, bottom - 4, 12.0):
            outline.ellipse((x - 3, y - 3, x + 3, y + 3), fill=(250, 210, 90), outline=(20, 20, 20))


def _draw_print(draw: ImageDraw.ImageDraw, print_: str, colour: tuple[int, int, int]) -> None:
    wide, high = SIZE
    if print_ in ("스트라이프", "체크"):
        for x in range(0, wide, 14):
            draw.line((x, 0, x, high), fill=colour, width=4)
    if print_ == "체크":
        for y in range(0, high, 14):
            draw.line((0, y, wide, y), fill=colour, width=4)
    if print_ == "도트":
        for x in range(6, wide, 14):
            for y in range(6, high, 14):
                draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour)


def _draw_material(draw: ImageDraw.ImageDraw, material: str, colour: tuple[int, int, int]) -> None:
    shade = tuple(int(0.6 * part + (90 if sum(colour) < 150 else 0)) for part in colour)
    wide, high = SIZE
    if material == "데님":
        for x in range(-high, wide, 6):
            draw.line((x, 0, x + high, high), fill=shade, width=1)
    if material == "니트":
        for y in range(0, high, 5):
            draw.line((0, y, wide, y), fill=shade, width=1)


def _draw_body(photo: Image.Image, centre: float, top: float) -> None:
    """Head and limbs in one skin tone, so that sleeves and lengths can be told."""
    draw, skin = ImageDraw.Draw(photo), (226, 184, 152)
    draw.ellipse((centre - 18, top - 48, centre + 18, top - 8), fill=skin)
    draw.rectangle((centre - 7, top - 12, centre + 7, top + 16), fill=skin)
    draw.rectangle((centre - 30, top + 2, centre + 30, top + 96), fill=skin)
    for side in (-1, 1):
        draw.line((centre + side * 30, top + 8, centre + side * 58, top + 100), fill=skin, width=11)
        draw.line((centre + side * 14, top + 90, centre + side * 18, SIZE[1] - 8), fill=skin, width=15)


def _describe(image_id: int, style: str, outfit: list[Drawn]) -> dict[str, Any]:
    """The label file's content; categories the outfit lacks are `[{}]`, as in the original."""
    rectangles: dict[str, list] = {category: [{}] for category in LENGTHS}
    polygons, labels = dict(rectangles), dict(rectangles)
    for garment in outfit:
        points = np.clip([point for polygon in garment.polygons for point in polygon], 0, SIZE)
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        box = {"X좌표": left, "Y좌표": top, "가로": right - left, "세로": bottom - top}
        rectangles[garment.category] = [{name: round(float(value), 3) for name, value in box.items()}]
        outline = enumerate(garment.polygons[0], start=1)
        polygons[garment.category] = [
            {f"{axis}좌표{n}": round(float(value), 3) for n, point in outline for axis, value in zip("XY", point)}
        ]
        labels[garment.category] = [garment.label]
    detail = {
        "렉트좌표": rectangles,
        "폴리곤좌표": polygons,
        "라벨링": {"스타일": [{"스타일": style}], **labels},
    }
    name = f"{image_id}.jpg"
    image = {"이미지 식별자": image_id, "이미지 높이": SIZE[1], "이미지 파일명": name, "이미지 너비": SIZE[0]}
    data = {"파일 생성일자": "2020-01-01 00:00:00", "데이터셋 상세설명": detail}
    return {"이미지 정보": image, "데이터셋 정보": {**data, "파일 번호": image_id, "파일 이름": name}}


def _pick(rng: np.random.Generator, choices: Iterable[str]) -> str:
    """One of the names, as a plain string."""
    names = list(choices)
    return names[int(rng.integers(len(names)))]
