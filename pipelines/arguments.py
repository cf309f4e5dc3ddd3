"""The options every reader has, and the bounds of their numbers."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TypeVar

from pipelines.remote import local_path

MOST_DAYS = 36_500  # a hundred years; counting back much further leaves the calendar
Number = TypeVar("Number", int, float)


def add_paths(parser: argparse.ArgumentParser, raw: str) -> None:
    """Add `--raw`, `--out` and `--overwrite`.

    Args:
        parser: the reader's own parser.
        raw: what `--raw` names, for its help.
    """
    parser.add_argument("--raw", required=True, help=raw)
    parser.add_argument(
        "--out", type=local_path, required=True, metavar="PREPARED", help="the prepared dataset's folder to make"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing prepared dataset at --out")


def whole_number(least: int, most: float = math.inf) -> Callable[[str], int]:
    """An option's `type`: a whole number within bounds, both included."""
    return _within(int, "a whole number", least, most)


def number(least: float, most: float = math.inf) -> Callable[[str], float]:
    """An option's `type`: a finite number within bounds, both included."""
    return _within(float, "a number", least, most)


def _within(kind: Callable[[str], Number], name: str, least: float, most: float) -> Callable[[str], Number]:
    bounds = f"from {least:,} to {most:,}" if math.isfinite(most) else f"of at least {least:,}"

    def parse(text: str) -> Number:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most or value == math.inf:
            raise argparse.ArgumentTypeError(f"{text!r} is not {name} {bounds}")
        return value

    return parse


PHOTO_SIDE = whole_number(16, 65_500)  # pixels; longer JPEGs cannot be written
SEED = whole_number(0)
SHARE = number(0, 1)
