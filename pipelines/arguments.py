"""The options every reader has, and the bounds of their numbers."""

from __future__ import annotations

import argparse
import datetime
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
    add_output(parser)


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add `--out` and `--overwrite`."""
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


def add_photo_options(parser: argparse.ArgumentParser) -> None:
    """Add `--no-images`, `--image-size` and `--threads`."""
    add = parser.add_argument
    add("--no-images", action="store_true", help="leave all photos out")
    add(
        "--image-size",
        type=PHOTO_SIDE,
        default=256,
        metavar="PX",
        help="longer side of stored photos (default: 256)",
    )
    add("--threads", type=whole_number(1), metavar="N", help="photos worked on at once (default: one a core)")


def date(text: str) -> datetime.date:
    """The type of an option that is a day."""
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date; write YYYY-MM-DD") from None


def add_split_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `pipelines.purchase_split` reads."""
    add = parser.add_argument
    add(
        "--split",
        choices=["temporal", "leave-last-out"],
        default="temporal",
        help="hold out the last days, or each customer's last two new items (default: temporal)",
    )
    add(
        "--cutoff",
        type=date,
        metavar="YYYY-MM-DD",
        help="temporal: first day of the test",
    )
    add(
        "--test-days",
        type=whole_number(1, MOST_DAYS),
        default=7,
        metavar="N",
        help="temporal: days from the cutoff on (default: 7)",
    )
    add(
        "--val-days",
        type=whole_number(0, MOST_DAYS),
        help="temporal: days before the cutoff for validation (default: as --test-days, of a short log a fifth of its days)",
    )
    add(
        "--min-items",
        type=whole_number(3),
        default=3,
        help="leave-last-out: fewest items of a split customer (default: 3)",
    )


def add_max_rejected(parser: argparse.ArgumentParser) -> None:
    """Add `--max-rejected` (`RawTable.settle`)."""
    parser.add_argument(
        "--max-rejected",
        type=SHARE,
        default=0.1,
        metavar="SHARE",
        help="stop when more than this share of a file's rows is unusable (default: 0.1)",
    )
