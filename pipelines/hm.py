"""Prepare the data of Kaggle's "H&M Personalized Fashion Recommendations".

Reads the competition's files as they are (articles.csv, customers.csv, transactions_train.csv,
images/0NN/0NNxxxxxxx.jpg), or the cleaned variant (*_clean.csv, normalized_images/).
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Mapping
from pathlib import Path

from pipelines.arguments import MOST_DAYS, PHOTO_SIDE, SHARE, whole_number
from pipelines.remote import local_path

HELP = "H&M Personalized Fashion Recommendations: articles, customers, transactions, photos"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add = parser.add_argument
    add("--raw", type=Path, required=True, metavar="DIR", help="folder with the CSV files")
    add(
        "--images",
        type=Path,
        metavar="DIR",
        help="folder of photos (default: images/ or normalized_images/ in --raw)",
    )
    add("--no-images", action="store_true", help="leave all photos out")
    add(
        "--image-size",
        type=PHOTO_SIDE,
        default=256,
        metavar="PX",
        help="longer side of stored photos (default: 256)",
    )
    add("--out", type=local_path, required=True, metavar="PREPARED", help="folder to make")
    add("--overwrite", action="store_true", help="replace a prepared dataset that stands at --out")
    add(
        "--split",
        choices=["temporal", "leave-last-out"],
        default="temporal",
        help="hold out the last days, or each customer's last two new articles (default: temporal)",
    )
    add(
        "--cutoff",
        type=datetime.date.fromisoformat,
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
        help="temporal: days before the cutoff for validation (default: as --test-days)",
    )
    add(
        "--min-items",
        type=whole_number(3),
        default=3,
        help="leave-last-out: fewest articles of a split customer (default: 3)",
    )
    add(
        "--max-rejected",
        type=SHARE,
        default=0.1,
        metavar="SHARE",
        help="stop when more than this share of a file's rows is unusable (default: 0.1)",
    )
    add("--threads", type=whole_number(1), metavar="N", help="photos worked on at once (default: one a core)")


def run(args: argparse.Namespace, *, extras: Mapping[str, Path] | None = None) -> None:
    """Prepare the dataset that the options describe (`pipelines.hm_dataset.prepare`)."""
    from pipelines.hm_dataset import prepare  # here, so that --help need not wait for pandas

    prepare(args, extras=extras or {})
