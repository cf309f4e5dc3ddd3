"""Prepare Fashion-MNIST (Xiao et al., 2017): labelled 28 x 28 grey photos of ten kinds of clothing.

Reads `train-images-idx3-ubyte.gz`, `train-labels-idx1-ubyte.gz` and, if present, the two `t10k-*` files as the test
split; without them, the test is a seeded, stratified share of the training photos.
"""

from __future__ import annotations

import argparse

from pipelines.arguments import SEED, SHARE, add_paths


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this reader's options."""
    add_paths(parser, "folder with the *-ubyte.gz files")
    parser.add_argument("--test-share", type=SHARE, default=0.2, help="used where t10k-* is absent (default 0.2)")
    parser.add_argument("--val-share", type=SHARE, default=0.0, help="taken from the training files (default 0)")
    parser.add_argument("--seed", type=SEED, default=0, help="of the split (default 0)")


def run(args: argparse.Namespace) -> None:
    """Read the folder `args.raw` and write the prepared dataset `args.out`.

    Raises:
        PreparedError: a file is missing or broken.
    """
    from pipelines.fashion_mnist.files import prepare  # here, so that --help need not wait for pandas
    from pipelines.summary import print_summary

    prepare(
        args.raw,
        args.out,
        test_share=args.test_share,
        val_share=args.val_share,
        seed=args.seed,
        overwrite=args.overwrite,
    )
    print_summary(args.out)
