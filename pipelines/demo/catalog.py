"""The demo shop's catalogue: what its articles are, and how they read in H&M's `articles.csv`.

An article is one level of each taste factor (`FACTORS`). Four of them have columns of their own. The
*design*, the place of a large block of accent colour, can only be seen in the photo; the *material* can
only be read in `detail_desc`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipelines.demo.text import Wording, describe, product_name

FACTORS = ("segment", "type", "colour", "pattern", "design", "material")
WEEKS = 40  # length of the shop's history; the last week is the test week
SHARE_AT_OPENING = 0.2  # of the articles; the others come in collections
WEEKS_BETWEEN_COLLECTIONS = 2
SHARE_WITHOUT = 0.01  # of the articles lack a photo, as many a description
POPULARITY_SPREAD = 0.3  # standard deviation of the log popularity: a long tail


class Segment(NamedTuple):
    """A part of the shop: index, index group and section of `articles.csv`, and its share of articles."""

    index_code: str
    index_name: str
    group_no: int
    group_name: str
    section_no: int
    section_name: str
    share: float


class GarmentType(NamedTuple):
    """A product type: its codes, the segments that sell it, its price and the day of year it sells best."""

    number: int
    name: str
    group: str
    garment_group_no: int
    garment_group: str
    segments: str
    price: float
    best_day: int
    share: float


class Colour(NamedTuple):
    """A colour with the codes of its group, perceived value and perceived master colour."""

    code: str
    name: str
    value_id: int
    value: str
    master_id: int
    master: str
    rgb: tuple[int, int, int]
    share: float


class Pattern(NamedTuple):
    """A graphical appearance."""

    number: int
    name: str
    share: float


class Material(NamedTuple):
    """A material, named in the description alone, and the day of year it sells best."""

    name: str
    best_day: int


SEGMENTS = (
    Segment("A", "Ladieswear", 1, "Ladieswear", 15, "Womens Everyday Collection", 0.36),
    Segment("D", "Divided", 2, "Divided", 53, "Divided Collection", 0.26),
    Segment("F", "Menswear", 3, "Menswear", 21, "Contemporary Casual", 0.22),
    Segment("S", "Sport", 26, "Sport", 5, "Ladies H&M Sport", 0.16),
)
_UPPER, _LOWER, _FULL = "Garment Upper body", "Garment Lower body", "Garment Full body"
TYPES = (
    GarmentType(255, "T-shirt", _UPPER, 1005, "Jersey Fancy", "ADFS", 12.99, 190, 1.5),
    GarmentType(259, "Shirt", _UPPER, 1010, "Blouses", "ADF", 24.99, 110, 1.0),
    GarmentType(252, "Sweater", _UPPER, 1003, "Knitwear", "ADF", 29.99, 330, 1.1),
    GarmentType(308, "Hoodie", _UPPER, 1005, "Jersey Fancy", "DFS", 27.99, 300, 0.9),
    GarmentType(265, "Dress", _FULL, 1013, "Dresses Ladies", "AD", 34.99, 170, 1.4),
    GarmentType(275, "Skirt", _LOWER, 1012, "Skirts", "AD", 22.99, 150, 0.9),
    GarmentType(272, "Trousers", _LOWER, 1009, "Trousers", "ADFS", 29.99, 280, 1.4),
    GarmentType(274, "Shorts", _LOWER, 1025, "Shorts", "ADFS", 17.99, 190, 0.8),
    GarmentType(262, "Jacket", _UPPER, 1007, "Outdoor", "ADFS", 59.99, 300, 0.9),
    GarmentType(94, "Sneakers", "Shoes", 1020, "Shoes", "ADFS", 34.99, 100, 0.8),
    GarmentType(66, "Bag", "Accessories", 1019, "Accessories", "ADFS", 19.99, 120, 0.7),
    GarmentType(75, "Hat/beanie", "Accessories", 1019, "Accessories", "ADFS", 12.99, 340, 0.6),
)
COLOURS = (
    Colour("09", "Black", 4, "Dark", 5, "Black", (38, 38, 42), 0.20),
    Colour("10", "White", 3, "Light", 9, "White", (238, 238, 234), 0.14),
    Colour("73", "Dark Blue", 4, "Dark", 2, "Blue", (34, 52, 98), 0.12),
    Colour("13", "Beige", 2, "Medium Dusty", 11, "Beige", (205, 180, 142), 0.10),
    Colour("07", "Grey", 1, "Dusty Light", 12, "Grey", (150, 152, 156), 0.09),
    Colour("51", "Light Pink", 1, "Dusty Light", 4, "Pink", (236, 178, 190), 0.08),
    Colour("72", "Blue", 2, "Medium Dusty", 2, "Blue", (74, 128, 196), 0.08),
    Colour("42", "Red", 5, "Bright", 18, "Red", (196, 38, 44), 0.07),
    Colour("93", "Dark Green", 4, "Dark", 19, "Green", (34, 92, 66), 0.06),
    Colour("22", "Yellow", 7, "Medium", 8, "Yellow", (236, 196, 58), 0.06),
)
PATTERNS = (
    Pattern(1010016, "Solid", 0.46),
    Pattern(1010017, "Stripe", 0.17),
    Pattern(1010001, "All over pattern", 0.14),
    Pattern(1010004, "Check", 0.12),
    Pattern(1010006, "Dot", 0.11),
)
DESIGNS = ("plain", "hem band", "yoke", "centre panel", "diagonal", "roundel")
MATERIALS = (
    Material("linen", 190),
    Material("satin", 350),
    Material("corduroy", 290),
    Material("velvet", 345),
    Material("canvas", 130),
    Material("wool", 10),
)
LEVELS = tuple(len(levels) for levels in (SEGMENTS, TYPES, COLOURS, PATTERNS, DESIGNS, MATERIALS))
NECKLINES = ("round", "V")  # of upper garments and dresses
LENGTHS = ("short", "long")  # of sleeves, skirts and trousers


@dataclass(frozen=True)
class Catalog:
    """The articles of the shop, sorted by article id.

    Attributes:
        article_ids: `[N]` ten digits: seven of the product, three of the variant.
        levels: `[N, 6] int8`, the level of each of `FACTORS`.
        cuts: `[N, 2] int8`, neckline and length: visible and mentioned, but nobody's taste.
        has_photo: `[N] bool`; a few articles were never photographed.
        popularity: `[N]` how much more than others an article sells, all else equal (a long tail).
        release: `[N] int16` week of release; negative before the shop's first week.
        frame: the 25 columns of `articles.csv`, all text.
    """

    article_ids: np.ndarray
    levels: np.ndarray
    cuts: np.ndarray
    has_photo: np.ndarray
    popularity: np.ndarray
    release: np.ndarray
    frame: pd.DataFrame

    def price(self) -> np.ndarray:
        """Return `[N]` prices in H&M's scaled unit (about 1/590 of a currency unit)."""
        return np.array([t.price for t in TYPES])[self.levels[:, 1]] / 590.0


def make_catalog(items: int, *, seed: int) -> Catalog:
    """Draw a catalogue.

    Args:
        items: number of articles.
        seed: same seed, same catalogue.

    Returns:
        The catalogue; the colour variants of one product share type, material, cut, name and description.
    """
    rng = np.random.default_rng([seed, 1])
    product, variant = _variants(items, rng)
    products = int(product[-1]) + 1
    segment = rng.choice(len(SEGMENTS), products, p=_shares(SEGMENTS))
    levels = np.stack(
        [
            segment[product],
            _types_sold_in(segment, rng)[product],
            _distinct_colours(product, rng),
            rng.choice(len(PATTERNS), items, p=_shares(PATTERNS)),
            rng.integers(len(DESIGNS), size=items),
            rng.integers(len(MATERIALS), size=products)[product],
        ],
        axis=1,
    ).astype(np.int8)
    cuts = np.stack([rng.integers(len(c), size=products)[product] for c in (NECKLINES, LENGTHS)], axis=1).astype(
        np.int8
    )
    codes = np.sort(rng.choice(900_000, products, replace=False) + 100_000)
    article_ids = np.array([f"0{codes[p]}{v:03d}" for p, v in zip(product, variant)])
    return Catalog(
        article_ids=article_ids,
        levels=levels,
        cuts=cuts,
        has_photo=rng.random(items) >= SHARE_WITHOUT,
        popularity=rng.lognormal(0.0, POPULARITY_SPREAD, items),
        release=_release_weeks(products, rng)[product],
        frame=_articles_frame(article_ids, levels, cuts, product, seed),
    )


def _shares(levels: tuple) -> np.ndarray:
    """Return the levels' shares, scaled to sum to one."""
    shares = np.array([level.share for level in levels])
    return shares / shares.sum()


def _variants(items: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Group articles into products of one to four variants; returns both numbers, `[items]` each."""
    sizes = rng.choice([1, 2, 3, 4], size=items, p=[0.45, 0.3, 0.15, 0.1])
    product = np.repeat(np.arange(items), sizes)[:items]
    first = np.searchsorted(product, product)
    return product, np.arange(items) - first + 1


def _types_sold_in(segment: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a garment type that each product's segment sells, `[products]`."""
    types = np.zeros(len(segment), dtype=np.int64)
    for number, seg in enumerate(SEGMENTS):
        share = np.array([t.share if seg.index_code in t.segments else 0.0 for t in TYPES])
        chosen = segment == number
        types[chosen] = rng.choice(len(TYPES), int(chosen.sum()), p=share / share.sum())
    return types


def _distinct_colours(product: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw each article's colour, different within a product, `[items]` (the Gumbel trick)."""
    products = int(product[-1]) + 1
    keys = np.log(_shares(COLOURS)) + rng.gumbel(size=(products, len(COLOURS)))
    order = np.argsort(-keys, axis=1)
    rank = np.arange(len(product)) - np.searchsorted(product, product)
    return order[product, rank]


def _release_weeks(products: int, rng: np.random.Generator) -> np.ndarray:
    """Draw each product's release week; the last collection arrives in the test week, `[products] int16`."""
    collections = np.arange(WEEKS - 1, 0, -WEEKS_BETWEEN_COLLECTIONS)
    early = -rng.integers(0, 26, size=products)
    opening = rng.random(products) < SHARE_AT_OPENING
    opening[0] = True  # however small the shop, there is something to buy on its first day
    late = rng.choice(collections, size=products)
    return np.where(opening, early, late).astype(np.int16)


def _articles_frame(
    article_ids: np.ndarray, levels: np.ndarray, cuts: np.ndarray, product: np.ndarray, seed: int
) -> pd.DataFrame:
    """Spell the articles out as H&M's 25 columns of text."""
    segments = [SEGMENTS[i] for i in levels[:, 0]]
    types = [TYPES[i] for i in levels[:, 1]]
    colours = [COLOURS[i] for i in levels[:, 2]]
    patterns = [PATTERNS[i] for i in levels[:, 3]]
    wording = [
        Wording(t.name, MATERIALS[m].name, NECKLINES[n], LENGTHS[length])
        for t, m, (n, length) in zip(types, levels[:, 5], cuts)
    ]
    described = np.random.default_rng([seed, 7]).random(int(product[-1]) + 1) >= SHARE_WITHOUT
    departments = [1000 + 100 * s + t for s, t in levels[:, :2].tolist()]
    columns = {
        "article_id": article_ids,
        "product_code": [article_id[:7] for article_id in article_ids],
        "prod_name": [product_name(w, number=int(p), seed=seed) for w, p in zip(wording, product)],
        "product_type_no": [t.number for t in types],
        "product_type_name": [t.name for t in types],
        "product_group_name": [t.group for t in types],
        "graphical_appearance_no": [p.number for p in patterns],
        "graphical_appearance_name": [p.name for p in patterns],
        "colour_group_code": [c.code for c in colours],
        "colour_group_name": [c.name for c in colours],
        "perceived_colour_value_id": [c.value_id for c in colours],
        "perceived_colour_value_name": [c.value for c in colours],
        "perceived_colour_master_id": [c.master_id for c in colours],
        "perceived_colour_master_name": [c.master for c in colours],
        "department_no": departments,
        "department_name": [f"{s.index_name} {t.garment_group}" for s, t in zip(segments, types)],
        "index_code": [s.index_code for s in segments],
        "index_name": [s.index_name for s in segments],
        "index_group_no": [s.group_no for s in segments],
        "index_group_name": [s.group_name for s in segments],
        "section_no": [s.section_no for s in segments],
        "section_name": [s.section_name for s in segments],
        "garment_group_no": [t.garment_group_no for t in types],
        "garment_group_name": [t.garment_group for t in types],
        "detail_desc": [
            describe(w, number=int(p), seed=seed) if described[p] else "" for w, p in zip(wording, product)
        ],
    }
    return pd.DataFrame(columns).astype(str)
