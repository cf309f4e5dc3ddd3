"""Prepare a shop's own tables: items, purchases, and optionally customers and photos.

Files are Parquet, or CSV (plain or gzipped). --items has `item_id` and optionally `title`, `text`, `group` (the product
that the item is a variant of) and `photo`; every other column is an attribute. --purchases has `customer_id`, `item_id`
and `time`. --customers has `customer_id`; every other column is a field of the customer. docs/your-data.md has an
example.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines.arguments import add_max_rejected, add_output, add_photo_options, add_split_options
from pipelines.shop.names import NAMES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add = parser.add_argument
    add("--items", type=Path, required=True, metavar="FILE", help="one row an item")
    add(
        "--purchases",
        type=Path,
        required=True,
        nargs="+",
        action="extend",
        metavar="FILE",
        help="one row a purchase; one file or several",
    )
    add("--customers", type=Path, metavar="FILE", help="one row a customer; those who only buy need no row")
    add("--images", type=Path, metavar="DIR", help="folder of photos: those that `photo` names, or item_id.jpg")
    add(
        "--columns",
        type=_renaming,
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=COLUMN",
        help=f"the shop's own name of a column ({', '.join(NAMES)}), e.g. item_id=sku time=ordered_at",
    )
    add(
        "--attributes",
        nargs="*",
        action="extend",
        metavar="COLUMN",
        help="columns of --items to take as attributes (default: all that have no other use)",
    )
    add("--separator", type=_separator, default=",", metavar="C", help="between the fields of CSV files (default: ,)")
    add_photo_options(parser)
    add_output(parser)
    add_split_options(parser)
    add_max_rejected(parser)


def run(args: argparse.Namespace) -> None:
    """Prepare the dataset that the options describe (`pipelines.shop.dataset.prepare`)."""
    from pipelines.shop.dataset import prepare  # here, so that --help need not wait for pandas

    prepare(args)


def _renaming(text: str) -> tuple[str, str]:
    name, _, column = text.partition("=")
    if name not in NAMES or not column:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=COLUMN with a name of {', '.join(NAMES)}")
    return name, column


def _separator(text: str) -> str:
    character = {"\\t": "\t", "tab": "\t"}.get(text, text)
    if len(character) != 1 or not character.isascii() or character in '"\r\n':
        raise argparse.ArgumentTypeError(f"{text!r} is not one character; write e.g. ; or tab")
    return character
