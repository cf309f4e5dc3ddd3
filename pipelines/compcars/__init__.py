"""Prepare CompCars (Yang et al., CVPR 2015): labelled photos of cars from several sides.

--raw is either the folder that holds `image/<make>/<model>/<year>/*.jpg` (or .jpeg, .png, .webp) and `label/...txt`
(viewpoint, number of boxes, box), optionally with `misc/make_model_name.mat` and `misc/attributes.txt`; or a folder
with one CSV file (or name it by --csv FILE) with the columns
image_name,image_path,released_year,viewpoint,bbox,make,model,type.

An item is one car: the n-th photo of each view (--views front rear) of one model and year, cropped to its box. If a
view has fewer photos, it is missing from the last items. Rows without a year or with a broken box are rejected and
counted.
"""

from __future__ import annotations

import argparse

from pipelines.arguments import PHOTO_SIDE, SEED, SHARE, add_paths, number

VIEWS = ("front", "rear", "side", "front_side", "rear_side")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this reader's options."""
    add_paths(parser, "CompCars's folder (image/, label/, misc/), or a folder with its CSV and photos")
    parser.add_argument("--csv", metavar="FILE", help="the CSV (default: the only *.csv in --raw, where there is one)")
    parser.add_argument(
        "--views",
        nargs="+",
        choices=VIEWS,
        default=["front", "rear"],
        help="views of an item (default: front rear)",
    )
    parser.add_argument(
        "--items",
        choices=["pairs", "years"],
        default="pairs",
        help="pairs: one photo of each view (default); years: all photos of a model and year",
    )
    parser.add_argument(
        "--split",
        choices=["stratified", "class-disjoint"],
        default="stratified",
        help="every model in train and test (default), or test models unseen in training",
    )
    parser.add_argument("--test-share", type=SHARE, default=0.2, help="of items, or of models (default 0.2)")
    parser.add_argument("--val-share", type=SHARE, default=0.0, help="the same for validation (default 0)")
    parser.add_argument(
        "--margin",
        type=number(0),
        default=0.0,
        help="keep this share of a box's sides around it, for training to crop with some play (default 0)",
    )
    parser.add_argument(
        "--image-size", "--size", type=PHOTO_SIDE, default=256, help="longest side of a stored photo (default 256)"
    )
    parser.add_argument("--seed", type=SEED, default=0, help="of the split (default 0)")


def run(args: argparse.Namespace) -> None:
    """Read the folder `args.raw` and write the prepared dataset `args.out`.

    Raises:
        PreparedError: the folder is no CompCars, or nothing usable is in it.
    """
    from pipelines.compcars.items import Options, prepare  # here, so that --help need not wait for pandas
    from pipelines.ratio_splits import check_shares
    from pipelines.summary import print_summary

    check_shares(args.test_share, args.val_share)  # before photos are cropped for minutes
    options = Options(
        views=tuple(args.views),
        items=args.items,
        split=args.split,
        test_share=args.test_share,
        val_share=args.val_share,
        size=args.image_size,
        margin=args.margin,
        seed=args.seed,
    )
    prepare(args.raw, args.out, options, csv=args.csv, overwrite=args.overwrite)
    print_summary(args.out)
