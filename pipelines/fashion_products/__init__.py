"""Prepare Fashion Product Images (the Myntra catalogue on Kaggle), labelled with article types.

--raw is the folder with `images/<id>.jpg` (or .jpeg, .png, .webp) and `styles.csv`, whose columns are
id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,productDisplayName.
"""

from __future__ import annotations

import argparse

from pipelines.arguments import PHOTO_SIDE, SEED, SHARE, add_paths


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this reader's options."""
    add_paths(parser, "folder with styles.csv and images/")
    parser.add_argument(
        "--split",
        choices=["stratified", "class-disjoint"],
        default="stratified",
        help="every article type in train and test (default), or test types unseen in training",
    )
    parser.add_argument("--test-share", type=SHARE, default=0.2, help="of items, or of types (default 0.2)")
    parser.add_argument("--val-share", type=SHARE, default=0.0, help="the same for validation (default 0)")
    parser.add_argument(
        "--image-size", "--size", type=PHOTO_SIDE, default=256, help="longest side of a stored photo (default 256)"
    )
    parser.add_argument("--seed", type=SEED, default=0, help="of the split (default 0)")


def run(args: argparse.Namespace) -> None:
    """Read the folder `args.raw` and write the prepared dataset `args.out`.

    Raises:
        PreparedError: `styles.csv` is missing or of other columns, or no row of it can be used.
    """
    from pipelines.fashion_products.files import prepare  # here, so that --help need not wait for pandas
    from pipelines.ratio_splits import check_shares
    from pipelines.summary import print_summary

    check_shares(args.test_share, args.val_share)  # before photos are shrunk for minutes
    prepare(
        args.raw,
        args.out,
        split=args.split,
        shares={"test_share": args.test_share, "val_share": args.val_share, "seed": args.seed},
        size=args.image_size,
        overwrite=args.overwrite,
    )
    print_summary(args.out)
