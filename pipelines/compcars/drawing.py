"""Draws one end of a made-up car: the photos of the CompCars miniature."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, ...]  # red, green, blue

SIZE = (200, 150)  # width and height of a photo
SUPERSAMPLE = 2  # drawn larger and reduced: smooth edges
LAMPS = ("round", "wide", "triangle", "double", "slim", "square", "ring", "cross")


def draw_car(
    make: int, *, style: int, front: bool, rng: np.random.Generator
) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """Draw one end of a car on a random street.

    Args:
        make: decides the lamps' family, the body's height and the emblem.
        style: 0 or 1, the make's two fronts or two rears.
        front: which end.
        rng: decides colour, place, size, light and clutter, which say nothing about the model.

    Returns:
        The photo, and the car's box `x1, y1, x2, y2` (from 1, as CompCars counts).
    """
    width, height = (side * SUPERSAMPLE for side in SIZE)
    photo = _street(width, height, rng)
    draw = ImageDraw.Draw(photo)
    w = width * rng.uniform(0.55, 0.8)
    h = w * (0.62 + 0.05 * (make % 3))
    x = rng.uniform(0.03 * width, 0.97 * width - w)
    y = rng.uniform(0.04 * height, max(0.05 * height, 0.94 * height - h))
    h = min(h, 0.95 * height - y)
    pen = Pen(draw, x, y, w, h)
    body = tuple(int(c) for c in rng.integers(30, 235, 3))
    _body(pen, body)
    (_front if front else _rear)(pen, make, style, body)
    pen.text_plate(rng)
    box = tuple(round(v / SUPERSAMPLE) for v in (x + 1, y + 1, x + w, y + h))
    photo = photo.resize(SIZE, Image.Resampling.BOX)
    return _light(photo, rng), (max(1, box[0]), max(1, box[1]), min(SIZE[0], box[2]), min(SIZE[1], box[3]))


class Pen:
    """Draws in a car's own coordinates: (0, 0) is its upper left, (1, 1) its lower right corner."""

    def __init__(self, draw: ImageDraw.ImageDraw, x: float, y: float, w: float, h: float):
        self.draw, self.x, self.y, self.w, self.h = draw, x, y, w, h

    def at(self, *points: tuple[float, float]) -> list[tuple[float, float]]:
        """Car coordinates to pixels."""
        return [(self.x + u * self.w, self.y + v * self.h) for u, v in points]

    def rectangle(self, u1: float, v1: float, u2: float, v2: float, fill: Colour, radius: float = 0.0) -> None:
        self.draw.rounded_rectangle(self.at((u1, v1), (u2, v2)), radius * self.w, fill=fill, outline=(20, 20, 20))

    def ellipse(self, u: float, v: float, radius: float, fill: Colour) -> None:
        (x, y), r = self.at((u, v))[0], radius * self.w
        self.draw.ellipse([x - r, y - r, x + r, y + r], fill=fill, outline=(20, 20, 20))

    def polygon(self, *points: tuple[float, float], fill: Colour) -> None:
        self.draw.polygon(self.at(*points), fill=fill, outline=(20, 20, 20))

    def line(self, u1: float, v1: float, u2: float, v2: float, fill: Colour, width: float = 0.012) -> None:
        self.draw.line(self.at((u1, v1), (u2, v2)), fill=fill, width=max(1, round(width * self.w)))

    def text_plate(self, rng: np.random.Generator) -> None:
        """A number plate with random strokes."""
        self.rectangle(0.4, 0.76, 0.6, 0.83, (240, 240, 235))
        for u in rng.uniform(0.42, 0.58, 6):
            self.line(u, 0.775, u, 0.815, (40, 40, 60), 0.008)


def _street(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Sky, ground and a few blocks of clutter."""
    sky, ground = (tuple(int(c) for c in rng.integers(low, high, 3)) for low, high in ((130, 240), (60, 140)))
    photo = Image.new("RGB", (width, height), sky)
    draw = ImageDraw.Draw(photo)
    horizon = rng.uniform(0.35, 0.6) * height
    for _ in range(5):
        left, top = rng.uniform(0, width), horizon * rng.uniform(0.2, 0.9)
        colour = tuple(int(c) for c in rng.integers(60, 220, 3))
        draw.rectangle([left, top, left + rng.uniform(0.05, 0.25) * width, horizon], fill=colour)
    draw.rectangle([0, horizon, width, height], fill=ground)
    return photo


def _body(pen: Pen, colour: tuple[int, ...]) -> None:
    """Wheels, lower body, cabin and window; the same for every model, so it tells nothing but the make's
    height.
    """
    for u in (0.12, 0.76):
        pen.rectangle(u, 0.8, u + 0.12, 1.0, (25, 25, 25), 0.02)
    pen.polygon((0.2, 0.0), (0.8, 0.0), (0.92, 0.38), (0.08, 0.38), fill=colour)
    pen.polygon((0.25, 0.05), (0.75, 0.05), (0.84, 0.34), (0.16, 0.34), fill=(60, 75, 90))
    pen.rectangle(0.0, 0.36, 1.0, 0.88, colour, 0.06)


def _front(pen: Pen, make: int, style: int, body: tuple[int, ...]) -> None:
    """Grille and head lamps; `style` chooses the lamp shape and the grille's direction."""
    for side in (0.16, 0.84):
        _lamp(pen, side, 0.5, LAMPS[(make + 4 * style) % len(LAMPS)], (250, 248, 215))
    pen.rectangle(0.32, 0.45, 0.68, 0.68, (35, 35, 38), 0.03)
    for step in np.linspace(0.1, 0.9, 5):
        if style:
            pen.line(0.32 + 0.36 * step, 0.46, 0.32 + 0.36 * step, 0.67, (190, 190, 195))
        else:
            pen.line(0.33, 0.45 + 0.23 * step, 0.67, 0.45 + 0.23 * step, (190, 190, 195))
    _emblem(pen, make, 0.565)


def _rear(pen: Pen, make: int, style: int, body: tuple[int, ...]) -> None:
    """Boot lid and tail lamps; `style` chooses the lamp shape, and a spoiler or a light bar."""
    for side in (0.14, 0.86):
        _lamp(pen, side, 0.52, LAMPS[(make + 2 + 4 * style) % len(LAMPS)], (200, 25, 30))
    pen.line(0.3, 0.42, 0.3, 0.7, (30, 30, 30))
    pen.line(0.7, 0.42, 0.7, 0.7, (30, 30, 30))
    if style:
        pen.rectangle(0.12, 0.33, 0.88, 0.39, tuple(c // 2 for c in body), 0.02)
    else:
        pen.rectangle(0.27, 0.64, 0.73, 0.69, (160, 20, 25), 0.01)
    _emblem(pen, make, 0.53)


def _lamp(pen: Pen, u: float, v: float, shape: str, fill: tuple[int, int, int]) -> None:
    """One lamp centred at (u, v)."""
    if shape in ("round", "ring"):
        pen.ellipse(u, v, 0.075, fill)
        if shape == "ring":
            pen.ellipse(u, v, 0.04, (50, 50, 55))
    elif shape == "double":
        pen.ellipse(u - 0.045, v, 0.045, fill)
        pen.ellipse(u + 0.045, v, 0.045, fill)
    elif shape == "triangle":
        pen.polygon((u - 0.1, v - 0.07), (u + 0.1, v - 0.07), (u, v + 0.1), fill=fill)
    elif shape == "cross":
        pen.rectangle(u - 0.09, v - 0.03, u + 0.09, v + 0.03, fill)
        pen.rectangle(u - 0.025, v - 0.11, u + 0.025, v + 0.11, fill)
    else:
        half_width, half_height = {"wide": (0.11, 0.05), "slim": (0.11, 0.02), "square": (0.065, 0.09)}[shape]
        pen.rectangle(u - half_width, v - half_height, u + half_width, v + half_height, fill, 0.01)


def _emblem(pen: Pen, make: int, v: float) -> None:
    """The make's badge: a polygon with `make + 3` corners."""
    corners = [2 * math.pi * k / (make + 3) - math.pi / 2 for k in range(make + 3)]
    points = [(0.5 + 0.045 * math.cos(a), v + 0.045 * math.sin(a) * pen.w / pen.h) for a in corners]
    pen.polygon(*points, fill=(225, 225, 230))


def _light(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Random exposure and sensor noise."""
    pixels = np.asarray(photo, np.float32) * rng.uniform(0.65, 1.15) + rng.normal(0.0, 6.0, (*SIZE[::-1], 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
