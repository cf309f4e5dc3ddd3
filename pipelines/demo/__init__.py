"""Generate a small fashion shop in H&M's raw format and prepare it through `pipelines hm`.

Photos are drawn, texts are written, and customers have hidden tastes. Of what decides purchases, one property is
visible only in the photos (where a garment has its block of accent colour) and one is named only in the descriptions
(its material). Since the generator knows the probabilities from which it draws purchases, it also knows the best recall
that any model can reach.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipelines.arguments import SEED, whole_number
from pipelines.demo.catalog import Catalog, make_catalog
from pipelines.demo.customers import Customers, make_customers
from pipelines.demo.drawing import JPEG_QUALITY, Look, draw_photo
from pipelines.demo.oracle import ORACLE_FILE, write_oracle
from pipelines.demo.shop import simulate
from pipelines.processor import cores
from pipelines.progress import Progress
from pipelines.publish import HiddenFolder, filled_whole, is_free
from pipelines.remote import local_path
from pipelines.schema import PreparedError

SIZES = {  # items, customers
    "tiny": (60, 80),
    "small": (400, 1_000),
    "demo": (2_000, 3_500),
    "large": (100_000, 150_000),
}
FEWEST, MOST_ITEMS, MOST_CUSTOMERS = 10, 500_000, 10_000_000
_PHOTOS_A_TASK = 50
_PHOTOS_WORTH_PROCESSES = 2_000  # starting them costs about as much as drawing this many photos


class Generated(NamedTuple):
    """How much `generate` wrote."""

    items: int
    photos: int
    customers: int
    transactions: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add = parser.add_argument
    sizes = ", ".join(f"{name} = {i:,} items and {c:,} customers" for name, (i, c) in SIZES.items())
    add("--out", type=local_path, required=True, metavar="PREPARED", help="folder to make")
    add("--raw", type=Path, metavar="DIR", help="keep the raw files here (default: they are removed)")
    add("--size", choices=list(SIZES), default="demo", help=f"{sizes} (default: demo)")
    add("--items", type=whole_number(FEWEST, MOST_ITEMS), metavar="N", help="number of articles, instead of the size's")
    add(
        "--customers",
        type=whole_number(FEWEST, MOST_CUSTOMERS),
        metavar="N",
        help="number of customers, instead of the size's",
    )
    add("--seed", type=SEED, default=0, help="same seed, same bytes (default: 0)")
    add(
        "--split",
        choices=["temporal", "leave-last-out"],
        default="temporal",
        help="as in `pipelines hm` (default: temporal, the last week is the test)",
    )
    add("--overwrite", action="store_true", help="replace --out and --raw where they stand")


def run(args: argparse.Namespace) -> None:
    """Generate the shop that the options describe, and prepare it.

    Raises:
        PreparedError: a number is out of range, or a folder stands in the way.
    """
    if args.out.exists() and not args.overwrite and any(args.out.iterdir()):
        raise PreparedError(f"{args.out} exists; choose another --out or pass --overwrite to replace it")
    items, customers = SIZES[args.size]
    items = items if args.items is None else args.items
    customers = customers if args.customers is None else args.customers
    if args.raw is not None:
        generate(args.raw, items=items, customers=customers, seed=args.seed, overwrite=args.overwrite)
        _prepare(args.raw, args)
        return
    out = args.out.absolute()
    folder = HiddenFolder(out.with_name(f"{out.name}-raw"))  # the next run clears what a killed one left
    try:
        # Writers lock the parent of what they write, and this process has that of `shop`.
        raw = folder.path / "shop" / "raw"
        generate(raw, items=items, customers=customers, seed=args.seed)
        _prepare(raw, args, source=f"generated: {items} items, {customers} customers, seed {args.seed}")
    finally:
        folder.close()


def _prepare(raw: Path, args: argparse.Namespace, *, source: str | None = None) -> None:
    """Run `pipelines hm` on the raw files, the oracle being kept beside the tables."""
    from pipelines import hm

    parser = argparse.ArgumentParser()
    hm.add_arguments(parser)
    options = ["--raw", str(raw), "--out", str(args.out), "--split", args.split]
    hm.run(
        parser.parse_args(options + ["--overwrite"] * args.overwrite),
        extras={ORACLE_FILE: raw / ORACLE_FILE},
        source=source,
    )


def generate(raw: str | Path, *, items: int, customers: int, seed: int = 0, overwrite: bool = False) -> Generated:
    """Write a shop's raw files as Kaggle's H&M competition has them; equal arguments give equal bytes.

    Args:
        raw: folder to make: `articles.csv`, `customers.csv`, `transactions_train.csv`, `images/0NN/0NNxxxxxxx.jpg`, and
            `oracle.npz` (`pipelines.demo.oracle`). It appears whole or not at all.
        items: number of articles.
        customers: number of customers.
        seed: of everything random.
        overwrite: replace an earlier shop at `raw`.

    Returns:
        What was written.

    Raises:
        PreparedError: `items` or `customers` is out of range, or `raw` may not be replaced.
    """
    _check(Path(raw), items, customers, overwrite)
    with filled_whole(Path(raw).absolute()) as folder:
        catalog = make_catalog(items, seed=seed)
        people = make_customers(customers, seed=seed)
        catalog.frame.to_csv(folder / "articles.csv", index=False)
        people.frame.to_csv(folder / "customers.csv", index=False)
        transactions = _write_transactions(folder / "transactions_train.csv", catalog, people, seed)
        photos = _write_photos(folder / "images", catalog, seed)
        write_oracle(folder / ORACLE_FILE, catalog, people)
    return Generated(items, photos, customers, transactions)


def _check(raw: Path, items: int, customers: int, overwrite: bool) -> None:
    for name, value, most in (("items", items, MOST_ITEMS), ("customers", customers, MOST_CUSTOMERS)):
        if not FEWEST <= value <= most:
            raise PreparedError(f"--{name} is {value}; give {FEWEST} to {most:,}")
    if is_free(raw):
        return
    if not overwrite:
        raise PreparedError(f"{raw} exists; choose another --raw or pass --overwrite to replace it")
    if not (raw / ORACLE_FILE).is_file():
        raise PreparedError(f"{raw} is not a generated shop (it has no {ORACLE_FILE}), so --overwrite leaves it alone")


def _write_transactions(path: Path, catalog: Catalog, customers: Customers, seed: int) -> int:
    """Simulate the shop week by week into `transactions_train.csv`; returns the number of rows."""
    price, rows = catalog.price(), 0
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write("t_dat,customer_id,article_id,price,sales_channel_id\n")
        for week, purchases in enumerate(simulate(catalog, customers, seed=seed)):
            article = purchases["article"].to_numpy()
            marked_down = week - catalog.release[article] > 20
            table = {
                "t_dat": purchases["day"].to_numpy().astype("datetime64[D]").astype(str),
                "customer_id": customers.customer_ids[purchases["customer"]],
                "article_id": catalog.article_ids[article],
                "price": np.char.mod("%.9f", price[article] * np.where(marked_down, 0.8, 1.0)),
                "sales_channel_id": purchases["channel"].to_numpy().astype(str),
            }
            file.writelines(",".join(row) + "\n" for row in zip(*table.values()))
            rows += len(purchases)
    return rows


def _write_photos(folder: Path, catalog: Catalog, seed: int) -> int:
    """Draw the articles' photos on all cores; returns how many."""
    folder.mkdir()
    numbers = np.flatnonzero(catalog.has_photo)
    for prefix in sorted({article_id[:3] for article_id in catalog.article_ids[numbers]}):
        (folder / prefix).mkdir()
    looks = np.concatenate([catalog.levels[:, 1:5], catalog.cuts], axis=1)
    tasks = [
        (folder, catalog.article_ids[part].tolist(), looks[part].tolist(), part.tolist(), seed)
        for part in np.split(numbers, range(_PHOTOS_A_TASK, len(numbers), _PHOTOS_A_TASK))
    ]
    with Progress("draw photos", len(numbers), unit=" photos") as progress:
        for done in _in_processes(tasks, worthwhile=len(numbers) >= _PHOTOS_WORTH_PROCESSES):
            progress.update(done)
    return len(numbers)


def _in_processes(tasks: Iterable[tuple], *, worthwhile: bool) -> Iterator[int]:
    """Yield `_draw_task` of each task. Drawing holds the interpreter lock, so threads would not help."""
    if not worthwhile:
        yield from map(_draw_task, tasks)
        return
    spawn = multiprocessing.get_context("spawn")  # a forked TensorFlow may hang
    with ProcessPoolExecutor(cores(), mp_context=spawn) as pool:
        yield from pool.map(_draw_task, tasks)


def _draw_task(task: tuple[Path, list[str], list[list[int]], list[int], int]) -> int:
    """Draw and store some photos; each depends on the seed and its article's number alone."""
    folder, article_ids, looks, numbers, seed = task
    for article_id, look, number in zip(article_ids, looks, numbers):
        photo = draw_photo(Look(*look), np.random.default_rng([seed, 6, number]))
        photo.save(folder / article_id[:3] / f"{article_id}.jpg", quality=JPEG_QUALITY)
    return len(article_ids)
