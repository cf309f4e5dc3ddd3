"""Prepare the data of Kaggle's "H&M Personalized Fashion Recommendations".

Reads the competition's files unchanged (articles.csv, customers.csv, transactions_train.csv,
images/0NN/0NNxxxxxxx.jpg), or the cleaned variant (*_clean.csv, normalized_images/).
CSV files may be gzipped (articles.csv.gz).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from pipelines.arguments import add_max_rejected, add_output, add_photo_options, add_split_options


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
    add_photo_options(parser)
    add_output(parser)
    add_split_options(parser)
    add_max_rejected(parser)


def run(args: argparse.Namespace, *, extras: Mapping[str, Path] | None = None, source: str | None = None) -> None:
    """Prepare the dataset that the options describe (`pipelines.hm.dataset.prepare`)."""
    from pipelines.hm.dataset import prepare  # here, so that --help need not wait for pandas

    prepare(args, extras=extras or {}, source=source)
