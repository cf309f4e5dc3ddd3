"""Outlines of the demo shop's garments, in a unit square whose y axis points down."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

Point = tuple[float, float]
Shape = tuple[Point, ...]


class Garment(NamedTuple):
    """How a garment is drawn.

    Attributes:
        shapes: filled polygons; together they are the garment.
        panel: left, top, right, bottom of the part that carries the design.
        holes: polygons cut out again, such as a neckline.
        straps: start and end of thick lines, such as a bag's handle.
        seams: thin lines.
        buttons: centres of small discs.
    """

    shapes: tuple[Shape, ...]
    panel: tuple[float, float, float, float]
    holes: tuple[Shape, ...] = ()
    straps: tuple[tuple[Point, Point], ...] = ()
    seams: tuple[Shape, ...] = ()
    buttons: Shape = ()


def garment_of(type_name: str, neckline: str, length: str) -> Garment:
    """Return the outline of a garment type in a cut.

    Args:
        type_name: `product_type_name`.
        neckline: `round` or `V`; of tops and dresses.
        length: `short` or `long`; of sleeves, skirts and legs.

    Raises:
        KeyError: the type is unknown.
    """
    return _OUTLINES[type_name](neckline, length)


def _ellipse(x: float, y: float, width: float, height: float, start: float = 0.0, end: float = 360.0) -> Shape:
    """Return points along an ellipse, clockwise from the right."""
    angles = np.deg2rad(np.linspace(start, end, 25))
    return tuple((x + width * float(np.cos(a)), y + height * float(np.sin(a))) for a in angles)


def _mirrored(shape: Shape) -> Shape:
    return tuple((1.0 - x, y) for x, y in shape)


def _sleeves(length: str) -> tuple[Shape, Shape]:
    if length == "short":
        left: Shape = ((0.26, 0.08), (0.33, 0.13), (0.30, 0.36), (0.20, 0.40), (0.08, 0.33))
    else:
        left = ((0.26, 0.08), (0.33, 0.13), (0.30, 0.36), (0.20, 0.80), (0.07, 0.77))
    return left, _mirrored(left)


def _neck(neckline: str) -> Shape:
    if neckline == "V":
        return (0.40, 0.0), (0.60, 0.0), (0.60, 0.07), (0.50, 0.24), (0.40, 0.07)
    return _ellipse(0.5, 0.06, 0.105, 0.075)


def _body(hem: float, waist: float, width: float) -> Shape:
    """Return a bodice from the shoulders to the hem; `waist` and `width` are half widths."""
    right = ((0.62, 0.05), (0.74, 0.08), (0.72, 0.36), (0.5 + waist, 0.52), (0.5 + width, hem))
    return right + tuple(reversed(_mirrored(right)))


def _top(neckline: str, length: str, hem: float = 0.88) -> Garment:
    arm_holes: tuple[Shape, ...] = (((0.30, 0.14), (0.29, 0.36)), ((0.70, 0.14), (0.71, 0.36)))
    return Garment(
        shapes=(_body(hem, 0.22, 0.23), *_sleeves(length)),
        panel=(0.27, 0.08, 0.73, hem),
        holes=(_neck(neckline),),
        seams=arm_holes,
    )


def _shirt(neckline: str, length: str) -> Garment:
    top = _top(neckline, length, 0.92)
    collar = (0.40, 0.06), (0.46, 0.17), (0.50, 0.12), (0.54, 0.17), (0.60, 0.06)
    placket = ((0.5, 0.16), (0.5, 0.92))
    buttons = tuple((0.5, y) for y in (0.26, 0.38, 0.50, 0.62, 0.74, 0.86))
    return top._replace(seams=(*top.seams, collar, placket), buttons=buttons)


def _sweater(neckline: str, length: str) -> Garment:
    top = _top(neckline, length)
    ribs = tuple(((0.28 + 0.04 * i, 0.82), (0.28 + 0.04 * i, 0.88)) for i in range(12))
    return top._replace(seams=(*top.seams, ((0.27, 0.81), (0.73, 0.81)), *ribs))


def _hoodie(neckline: str, length: str) -> Garment:
    top = _top(neckline, length)
    hood = _ellipse(0.5, 0.10, 0.19, 0.13)
    pocket = (0.38, 0.62), (0.62, 0.62), (0.67, 0.78), (0.33, 0.78), (0.38, 0.62)
    cords = (((0.45, 0.16), (0.44, 0.34)), ((0.55, 0.16), (0.56, 0.34)))
    return top._replace(
        shapes=(*top.shapes, hood),
        holes=(_ellipse(0.5, 0.11, 0.09, 0.06),),
        seams=(*top.seams, pocket, *cords),
    )


def _jacket(neckline: str, length: str) -> Garment:
    top = _top(neckline, length, 0.84)
    lapels = (0.38, 0.06), (0.44, 0.30), (0.5, 0.40), (0.56, 0.30), (0.62, 0.06)
    zip_line = ((0.5, 0.40), (0.5, 0.84))
    pockets = (((0.33, 0.62), (0.43, 0.60)), ((0.57, 0.60), (0.67, 0.62)))
    hem = ((0.27, 0.78), (0.73, 0.78))
    return top._replace(seams=(*top.seams, lapels, zip_line, *pockets, hem))


def _dress(neckline: str, length: str) -> Garment:
    return Garment(
        shapes=(_body(0.98, 0.17, 0.35), *_sleeves(length)),
        panel=(0.24, 0.08, 0.76, 0.98),
        holes=(_neck(neckline),),
        seams=(((0.30, 0.52), (0.70, 0.52)), ((0.42, 0.54), (0.38, 0.98)), ((0.58, 0.54), (0.62, 0.98))),
    )


def _skirt(neckline: str, length: str) -> Garment:
    hem = 0.66 if length == "short" else 0.94
    return Garment(
        shapes=(((0.32, 0.10), (0.68, 0.10), (0.86, hem), (0.14, hem)),),
        panel=(0.18, 0.10, 0.82, hem),
        seams=(((0.31, 0.17), (0.69, 0.17)), ((0.42, 0.18), (0.36, hem)), ((0.58, 0.18), (0.64, hem))),
    )


def _legs(hem: float, width: float) -> Garment:
    left = (0.30, 0.04), (0.51, 0.04), (0.51, 0.32), (0.45, hem), (0.45 - width, hem), (0.26, 0.30)
    return Garment(
        shapes=(left, _mirrored(left)),
        panel=(0.22, 0.04, 0.78, hem),
        seams=(((0.27, 0.10), (0.73, 0.10)), ((0.5, 0.10), (0.5, 0.32)), ((0.30, 0.22), (0.36, 0.12))),
    )


def _moved(garment: Garment, down: float) -> Garment:
    """Return a garment without holes and buttons, moved down."""

    def move(shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
        return tuple(tuple((x, y + down) for x, y in shape) for shape in shapes)

    left, top, right, bottom = garment.panel
    return Garment(move(garment.shapes), (left, top + down, right, bottom + down), seams=move(garment.seams))


def _trousers(neckline: str, length: str) -> Garment:
    return _legs(0.80 if length == "short" else 0.98, 0.17)


def _shorts(neckline: str, length: str) -> Garment:
    return _moved(_legs(0.50 if length == "short" else 0.62, 0.26), 0.18)


def _sneakers(neckline: str, length: str) -> Garment:
    upper = (0.06, 0.34), (0.20, 0.38), (0.34, 0.30), (0.62, 0.52), (0.88, 0.58), (0.95, 0.70), (0.05, 0.70)
    sole = (0.04, 0.70), (0.97, 0.70), (0.96, 0.78), (0.05, 0.78)
    laces: tuple[Shape, ...] = tuple(
        ((0.36 + 0.07 * i, 0.42 + 0.05 * i), (0.46 + 0.07 * i, 0.36 + 0.05 * i)) for i in range(4)
    )
    return Garment(shapes=(upper, sole), panel=(0.08, 0.34, 0.92, 0.78), seams=(*laces, sole))


def _bag(neckline: str, length: str) -> Garment:
    body = (0.14, 0.40), (0.86, 0.40), (0.92, 0.90), (0.08, 0.90)
    handle = _ellipse(0.5, 0.42, 0.24, 0.30, 180.0, 360.0)
    return Garment(
        shapes=(body,),
        panel=(0.10, 0.40, 0.90, 0.90),
        straps=tuple(pairwise(handle)),
        seams=(((0.13, 0.48), (0.87, 0.48)),),
        buttons=((0.5, 0.48),),
    )


def _hat(neckline: str, length: str) -> Garment:
    crown = _ellipse(0.5, 0.62, 0.34, 0.46, 180.0, 360.0)
    cuff = (0.13, 0.60), (0.87, 0.60), (0.87, 0.80), (0.13, 0.80)
    ribs = tuple(((0.17 + 0.06 * i, 0.62), (0.17 + 0.06 * i, 0.79)) for i in range(12))
    pompom = _ellipse(0.5, 0.13, 0.08, 0.08)
    return Garment(shapes=(crown, cuff, pompom), panel=(0.14, 0.14, 0.86, 0.80), seams=(cuff[:2], *ribs))


_OUTLINES = {
    "T-shirt": _top,
    "Shirt": _shirt,
    "Sweater": _sweater,
    "Hoodie": _hoodie,
    "Dress": _dress,
    "Skirt": _skirt,
    "Trousers": _trousers,
    "Shorts": _shorts,
    "Jacket": _jacket,
    "Sneakers": _sneakers,
    "Bag": _bag,
    "Hat/beanie": _hat,
}
