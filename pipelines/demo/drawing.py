"""Photos of the demo shop's garments, drawn with Pillow.

Type, colour, pattern, cut and design are visible. The design, the place of a large block in the shop's accent
colour, is visible nowhere else. Pose, light and background vary from photo to photo, so articles that agree
in everything still look different.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from pipelines.demo.catalog import COLOURS, DESIGNS, LENGTHS, NECKLINES, PATTERNS, TYPES
from pipelines.demo.garments import Garment, garment_of

WIDTH, HEIGHT = 160, 200  # of a photo
_BOX = 224  # pixels of the garment's own square, drawn a little larger than it appears
_ACCENT = (28, 184, 174)  # of every design; no garment has this colour
JPEG_QUALITY = 88


class Look(NamedTuple):
    """What an article looks like: level numbers of the catalogue's factors and cuts."""

    type: int
    colour: int
    pattern: int
    design: int
    neckline: int
    length: int


def draw_photo(look: Look, rng: np.random.Generator) -> Image.Image:
    """Draw one article.

    Args:
        look: what it looks like.
        rng: decides pose, light and background, nothing else.

    Returns:
        An RGB image, `WIDTH` x `HEIGHT`.
    """
    garment = garment_of(TYPES[look.type].name, NECKLINES[look.neckline], LENGTHS[look.length])
    colour = _tinted(COLOURS[look.colour].rgb, rng)
    mask = _mask(garment)
    cloth = Image.new("RGB", mask.size, colour)
    _draw_pattern(ImageDraw.Draw(cloth), PATTERNS[look.pattern].name, colour, rng)
    _draw_design(ImageDraw.Draw(cloth), DESIGNS[look.design], garment)
    _draw_details(ImageDraw.Draw(cloth), garment, _shade(colour, -46 if sum(colour) > 300 else 60))
    cloth = Image.composite(cloth, Image.new("RGB", mask.size, _shade(colour, -60)), _inner(mask))
    return _photograph(cloth, mask, rng)


def _pixels(points: tuple[tuple[float, float], ...]) -> list[tuple[float, float]]:
    """Scale points of the unit square to the garment's square."""
    return [(x * _BOX, y * _BOX) for x, y in points]


def _mask(garment: Garment) -> Image.Image:
    mask = Image.new("L", (_BOX, _BOX), 0)
    draw = ImageDraw.Draw(mask)
    for shape in garment.shapes:
        draw.polygon(_pixels(shape), fill=255)
    for hole in garment.holes:
        draw.polygon(_pixels(hole), fill=0)
    for start, end in garment.straps:
        draw.line(_pixels((start, end)), fill=255, width=_BOX // 26)
    return mask


def _inner(mask: Image.Image) -> Image.Image:
    """Return the mask without its rim, so that the rim shows as an outline."""
    return mask.filter(ImageFilter.BoxBlur(1)).point(lambda value: 255 if value == 255 else 0)


def _tinted(rgb: tuple[int, int, int], rng: np.random.Generator) -> tuple[int, int, int]:
    """Vary a colour a little, as dyes and lamps do."""
    return _clipped(np.array(rgb) + rng.integers(-7, 8, size=3))


def _shade(rgb: tuple[int, int, int], by: int) -> tuple[int, int, int]:
    return _clipped(np.array(rgb) + by)


def _clipped(rgb: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (int(c) for c in np.clip(rgb, 0, 255))
    return red, green, blue


def _draw_pattern(
    draw: ImageDraw.ImageDraw, pattern: str, colour: tuple[int, int, int], rng: np.random.Generator
) -> None:
    """Draw a fine pattern in a shade of the garment's own colour."""
    ink = _shade(colour, 62 if sum(colour) < 380 else -62)
    step = int(rng.integers(13, 18))
    lines = range(int(rng.integers(step)), _BOX, step)
    if pattern in ("Stripe", "Check"):
        for at in lines:
            draw.line([(0, at), (_BOX, at)], fill=ink, width=5 if pattern == "Stripe" else 3)
    if pattern == "Check":
        for at in lines:
            draw.line([(at, 0), (at, _BOX)], fill=ink, width=3)
    elif pattern == "Dot":
        for row, y in enumerate(lines):
            for x in range((row % 2) * step // 2, _BOX, step):
                draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=ink)
    elif pattern == "All over pattern":
        for x, y, size in zip(*rng.integers(0, _BOX, (2, 110)), rng.integers(3, 7, 110)):
            x, y, size = int(x), int(y), int(size)
            draw.ellipse([x - size, y - size // 2, x + size, y + size // 2], fill=ink)
            draw.ellipse([x - size // 2, y - size, x + size // 2, y + size], fill=ink)


def _draw_design(draw: ImageDraw.ImageDraw, design: str, garment: Garment) -> None:
    """Draw the large block of accent colour whose place is the article's design."""
    left, top, right, bottom = (side * _BOX for side in garment.panel)
    across, down = right - left, bottom - top
    if design == "hem band":
        draw.rectangle([0, top + 0.62 * down, _BOX, _BOX], fill=_ACCENT)
    elif design == "yoke":
        draw.rectangle([0, 0, _BOX, top + 0.36 * down], fill=_ACCENT)
    elif design == "centre panel":
        draw.rectangle([left + 0.32 * across, 0, right - 0.32 * across, _BOX], fill=_ACCENT)
    elif design == "diagonal":
        draw.polygon([(0, top), (left, top), (right, bottom), (right, _BOX), (0, _BOX)], fill=_ACCENT)
    elif design == "roundel":
        x, y, radius = (left + right) / 2, (top + bottom) / 2, 0.33 * min(across, down)
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=_ACCENT)


def _draw_details(draw: ImageDraw.ImageDraw, garment: Garment, colour: tuple[int, int, int]) -> None:
    """Draw seams and buttons."""
    for seam in garment.seams:
        draw.line(_pixels(seam), fill=colour, width=2)
    for x, y in _pixels(garment.buttons):
        draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=colour)


def _photograph(cloth: Image.Image, mask: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Lay the garment on a background: a little turned and shifted, in uneven light, with a shadow."""
    angle = np.deg2rad(rng.uniform(-4.0, 4.0))
    scale = _BOX / (WIDTH * rng.uniform(0.97, 1.07))
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    x = WIDTH / 2 + rng.uniform(-4, 4)
    y = HEIGHT / 2 + rng.uniform(-6, 6)
    pose = (cos, sin, _BOX / 2 - cos * x - sin * y, -sin, cos, _BOX / 2 + sin * x - cos * y)

    def posed(image: Image.Image) -> Image.Image:
        return image.transform((WIDTH, HEIGHT), Image.Transform.AFFINE, pose, Image.Resampling.BILINEAR)

    photo = _background(rng)
    here = posed(mask)
    shadow = here.filter(ImageFilter.BoxBlur(5)).point(lambda value: value * 0.28)
    photo.paste((60, 58, 62), (int(rng.integers(2, 6)), int(rng.integers(3, 8))), shadow)
    photo.paste(posed(cloth), (0, 0), here)
    return _lit(photo, rng)


def _background(rng: np.random.Generator) -> Image.Image:
    """Return a plain studio wall, light, a little warmer or cooler from photo to photo."""
    tone = int(rng.integers(222, 246))
    return Image.new("RGB", (WIDTH, HEIGHT), _clipped(tone + rng.integers(-6, 7, size=3)))


def _lit(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the photo under a lamp from one side, with soft folds and a little sensor noise."""
    light = 1.0 + rng.uniform(-0.08, 0.08) + rng.normal(0.0, 0.022, (5, 4))
    ramp = Image.fromarray(light.astype(np.float32)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    pixels = np.asarray(photo, dtype=np.float32) * np.asarray(ramp)[:, :, None]
    pixels += rng.normal(0.0, 2.0, (HEIGHT, WIDTH, 1)).astype(np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
