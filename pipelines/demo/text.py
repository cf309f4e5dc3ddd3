"""Names and descriptions of the demo shop's products, in the manner of H&M's `prod_name` and `detail_desc`.

The material stands in the description only: not in the name, not in a column, not in the drawing.
"""

from typing import NamedTuple

import numpy as np


class Wording(NamedTuple):
    """What a product's texts say."""

    type_name: str
    material: str
    neckline: str
    length: str


# fmt: off
_NAMES = (
    "Alma", "Bea", "Cleo", "Dora", "Edie", "Fay", "Gigi", "Hana", "Ines", "June", "Kaia", "Lova", "Mika",
    "Nova", "Orla", "Pia", "Remy", "Saga", "Tove", "Una", "Vera", "Wren", "Ylva", "Zoe", "Arlo", "Bo",
    "Cai", "Dag", "Elio", "Finn", "Gus", "Hugo", "Ivo", "Jon", "Kit", "Leo", "Max", "Nils", "Otto", "Per",
    "Rex", "Sten", "Tor", "Ulf", "Vide", "Zac",
)
# fmt: on
_TAGS = ("", "", "", "SS20", "Premium", "(1)", "TP", "FLIRTY", "Studio", "Soft", "Basic")

_OPENINGS = (
    "{noun} in {fabric}.",
    "{noun} made from {fabric}.",
    "{noun} cut from {fabric} for a good fit.",
    "{noun} in {fabric}, easy to combine.",
    "{noun} woven in {fabric}.",
    "Straight-cut {noun_lower} in {fabric}.",
)
_FABRICS = (
    "soft {0}",
    "airy {0}",
    "a {0} weave",
    "pure {0}",
    "washed {0}",
    "a {0} blend",
    "{0} with a slight sheen",
    "sturdy {0}",
)
_LATER_MENTIONS = (
    "",
    "",
    "The {0} becomes softer with every wash.",
    "Our {0} comes from a single mill.",
    "{0} quality throughout.",
)
_CUTS = {
    "top": (
        "{neck} neckline and {length} sleeves.",
        "{length} sleeves and a {neck} neckline.",
        "A {neck} neck, {length} sleeves and a rounded hem.",
    ),
    "bottom": (
        "Regular waist and a {length} cut.",
        "{length} legs or hem, concealed zip.",
        "Elasticated waist, {length} length.",
    ),
    "other": ("Lined.", "Partly lined inside.", "One size.", "Details in metal."),
}
_ENDINGS = ("", "", "Unlined.", "Machine wash at 40 degrees.", "Part of our everyday range.", "Regular fit.")
_KIND = {
    "T-shirt": "top",
    "Shirt": "top",
    "Sweater": "top",
    "Hoodie": "top",
    "Dress": "top",
    "Jacket": "top",
    "Skirt": "bottom",
    "Trousers": "bottom",
    "Shorts": "bottom",
}
_NOUNS = {
    "T-shirt": ("T-shirt", "Tee"),
    "Shirt": ("Shirt", "Blouse"),
    "Sweater": ("Jumper", "Sweater"),
    "Hoodie": ("Hoodie", "Hooded top"),
    "Dress": ("Dress", "Calf-length dress"),
    "Skirt": ("Skirt", "A-line skirt"),
    "Trousers": ("Trousers", "Slacks"),
    "Shorts": ("Shorts", "City shorts"),
    "Jacket": ("Jacket", "Short jacket"),
    "Sneakers": ("Trainers", "Sneakers"),
    "Bag": ("Bag", "Handbag"),
    "Hat/beanie": ("Hat", "Beanie"),
}


def product_name(wording: Wording, *, number: int, seed: int) -> str:
    """Return a product's name, e.g. `Alma dress SS20`; deterministic by number and seed."""
    rng = np.random.default_rng([seed, 2, number])
    name, noun, tag = _pick(rng, _NAMES), _pick(rng, _NOUNS[wording.type_name]), _pick(rng, _TAGS)
    return f"{name} {noun.lower()} {tag}".strip()


def describe(wording: Wording, *, number: int, seed: int) -> str:
    """Return a product's description: two to four sentences, one or two of which name the material."""
    rng = np.random.default_rng([seed, 3, number])
    noun = _pick(rng, _NOUNS[wording.type_name])
    fabric = _pick(rng, _FABRICS).format(wording.material)
    cut = _pick(rng, _CUTS[_KIND.get(wording.type_name, "other")])
    sentences = (
        _pick(rng, _OPENINGS).format(noun=noun, noun_lower=noun.lower(), fabric=fabric),
        cut.format(neck=wording.neckline, length=wording.length),
        _pick(rng, _LATER_MENTIONS).format(wording.material),
        _pick(rng, _ENDINGS),
    )
    return " ".join(s[0].upper() + s[1:] for s in sentences if s)


def _pick(rng: np.random.Generator, choices: tuple[str, ...] | list[str]) -> str:
    return choices[int(rng.integers(len(choices)))]
