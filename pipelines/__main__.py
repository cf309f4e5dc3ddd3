"""`python -m pipelines DATASET --raw DIR --out PREPARED`: turn a shop's raw files into a prepared dataset."""

from __future__ import annotations

import argparse
import importlib
import sys

from pipelines.command import run_command

DATASETS = {
    "shop": "a shop's own items, purchases, customers and photos (CSV or Parquet)",
    "hm": "H&M Personalized Fashion Recommendations: articles, customers, transactions, photos",
    "demo": "a generated small shop in H&M's raw format, prepared through `hm`",
    "sequences": "sequences of item ids, one user a line",
    "movielens": "MovieLens ratings, movies and genres",
    "kfashion": "K-Fashion: JSON labels and photos",
    "fashion_products": "Fashion Product Images: styles.csv and photos",
    "compcars": "CompCars: labelled multi-view photos of cars",
    "compcars_miniature": "drawn cars in CompCars's raw format, for `compcars` to read",
    "fashion_mnist": "Fashion-MNIST: labelled 28x28 garments",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one dataset's pipeline.

    Returns:
        0 on success, 2 when the arguments or the raw files are at fault, 1 on any other failure.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] not in DATASETS:
        _top_parser().parse_args(arguments)  # prints help, or exits with 2 and the list of datasets
        return 2
    name = arguments[0]
    module = importlib.import_module(f"pipelines.{name}")  # only the chosen one: the others' imports cost seconds
    parser = argparse.ArgumentParser(
        prog=f"python -m pipelines {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    options = parser.parse_args(arguments[1:])

    return run_command(lambda: module.run(options) or 0, interrupted="stopped; what was unfinished is removed")


def _top_parser() -> argparse.ArgumentParser:
    listing = "\n".join(f"  {name:<20}{text}" for name, text in DATASETS.items())
    parser = argparse.ArgumentParser(
        prog="python -m pipelines",
        usage="python -m pipelines DATASET [options]",
        description="Turn raw files into a prepared dataset, which training, evaluation and retrieval read.",
        epilog=f"datasets:\n{listing}\n\n`python -m pipelines DATASET --help` lists a dataset's options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", metavar="DATASET", choices=list(DATASETS), help="one of those listed below")
    return parser


if __name__ == "__main__":
    sys.exit(main())
