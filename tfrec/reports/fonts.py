"""Fonts of pictures: what comes with Matplotlib and Pillow has none of the letters of Korea, Japan and China."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

OWN = "DejaVu Sans"  # comes with Matplotlib
# Those that systems have for these letters; a picture takes each letter from the first that is installed and has it.
WIDE = (
    "Noto Sans CJK KR",
    "Noto Sans KR",
    "NanumGothic",
    "NanumBarunGothic",
    "Malgun Gothic",
    "Apple SD Gothic Neo",
    "UnDotum",
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Source Han Sans",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "Arial Unicode MS",
)


def font_files() -> dict[str, str]:
    """The fonts that pictures may use, family -> file, the first one first."""
    from matplotlib.font_manager import fontManager

    regular = {
        font.name: font.fname
        for font in fontManager.ttflist
        if font.style == "normal" and font.weight in (400, "normal")
    }
    return {name: regular[name] for name in (OWN, *WIDE) if name in regular}


def file_for(text: str) -> str | None:
    """The file of the first font that has all letters of a text, else of the one that has the most; None: there is none."""
    files = font_files().values()
    return min(files, key=lambda file: len(_lacking(text, file)), default=None)


def missing_letters(texts: Iterable[str]) -> str:
    """The letters of texts that no font has, in order, each once: pictures show boxes for them."""
    missing = set("".join(texts))
    for file in font_files().values():
        missing = _lacking(missing, file)
    return "".join(sorted(letter for letter in missing if letter.isprintable()))


def _lacking(letters: Iterable[str], file: str) -> set[str]:
    return {letter for letter in letters if ord(letter) not in _letters_of(file)}


@cache
def _letters_of(file: str) -> frozenset[int]:
    from matplotlib.font_manager import get_font

    return frozenset(get_font(file).get_charmap())
