"""Puts H&M's prepared dataset together: items, users, events with their split, photos."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.hm.tables import ARTICLE_DIGITS, read_articles, read_customers
from pipelines.hm.transactions import read_transactions
from pipelines.photos.item_photos import photo_folder, photos_by_name, say_photos, store_by_id
from pipelines.prepared import PreparedWriter
from pipelines.purchase_order import counting_sort
from pipelines.purchase_split import PurchaseSplit
from pipelines.raw.raw_csv import or_gzipped
from pipelines.schema import TRAIN, PreparedError
from pipelines.summary import print_summary, print_unmatched

FILES = {
    "articles": ("articles.csv", "articles_clean.csv"),
    "customers": ("customers.csv", "customers_clean.csv"),
    "transactions": ("transactions_train.csv", "transactions_train_clean.csv", "transactions_clean.csv"),
}
IMAGE_FOLDERS = ("images", "normalized_images")


def prepare(args: argparse.Namespace, *, extras: Mapping[str, Path], source: str | None = None) -> None:
    """Prepare the dataset that the options describe.

    Args:
        args: the options of `pipelines.hm.add_arguments`.
        extras: further files to keep in the dataset, by name (`PreparedWriter.extra`).
        source: where the data came from, for the manifest; the raw files where None.

    Raises:
        PreparedError: a file or column is missing, too many rows are unusable, or the split leaves nothing.
    """
    if not args.raw.is_dir():
        raise PreparedError(f"--raw {args.raw} is not a folder")
    files = {kind: _first_existing(args.raw, names) for kind, names in FILES.items()}
    folder = photo_folder(args, [args.raw / name for name in IMAGE_FOLDERS])
    names = {"raw": args.raw, **{kind: path.name for kind, path in files.items()}, "images": folder}
    options = {name: value for name, value in vars(args).items() if name not in ("raw", "out", "images", "overwrite")}
    with PreparedWriter(
        args.out, dataset="hm", source=source or names, options=options, overwrite=args.overwrite
    ) as writer:
        account = {"writer": writer, "max_rejected": args.max_rejected}
        items = read_articles(files["articles"], **account)
        users = read_customers(files["customers"], **account)
        purchases, unknown, raw = read_transactions(
            files["transactions"], item_ids=items["item_id"], user_ids=users["user_id"], **account
        )
        split, prices = PurchaseSplit(args, purchases.time), _Prices()
        writer.events(prices.seen(split.marked_frames(purchases.sorted_frames())))
        writer.split, dropped = split.entry(), split.dropped
        writer.reject_rows(
            file=raw.name,
            rows=raw.rows_of_kept(dropped["position"].to_numpy()),
            field="article_id",
            values=items["item_id"].to_numpy()[dropped["item"]],
            reason=split.reason,
        )
        with ThreadPoolExecutor(max_workers=1) as pool:
            medians = pool.submit(prices.medians, len(items))
            writer.users(pd.concat([users, pd.DataFrame({"user_id": unknown}, dtype=str)], ignore_index=True))
            items["price"] = medians.result()
        writer.notes["users_only_in_transactions"] = len(unknown)
        items["images"] = _store_images(folder, items["item_id"], args, writer)
        writer.notes["items_without_image"] = int((items["images"].str.len() == 0).sum())
        writer.items(items)
        for name, path in extras.items():
            writer.extra(name, path)
    print_summary(args.out)
    say_photos(items["images"], folder)
    told = {"kind": "customers", "here": raw.name, "table": files["customers"].name, "without": "fields"}
    print_unmatched(unknown, purchases.user, users["user_id"], **told)


class _Prices:
    """Remembers the prices of training on their way to the writer.

    Held-out purchases stay out: that an item has a price at all would tell that it is going to be sold.
    """

    def __init__(self) -> None:
        self._sold: list[tuple[np.ndarray, np.ndarray]] = []

    def seen(self, frames: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        """Yield frames of events unchanged."""
        for frame in frames:
            train = frame["split"].to_numpy() == TRAIN
            self._sold.append((frame["item"].to_numpy()[train], frame["price"].to_numpy()[train]))
            yield frame

    def medians(self, items: int) -> np.ndarray:
        """Return each item's median price in training, `[items]`; NaN where it was not sold."""
        return median_by_item(*map(np.concatenate, zip(*self._sold)), items=items)


def median_by_item(item: np.ndarray, price: np.ndarray, *, items: int) -> np.ndarray:
    """Return the median price of each item, `[items]` float32; NaN for items without one.

    Args:
        item: `[E]` row numbers of items.
        price: `[E]` float32; NaN is missing and does not count.
        items: how many items there are.
    """
    missing = np.isnan(price)
    if missing.any():
        item, price = item[~missing], price[~missing]
    by_item = counting_sort(item, price)
    prices, edges = by_item.data, by_item.indptr
    for start, stop in itertools.pairwise(edges.tolist()):  # faster than one sort by item and price
        prices[start:stop].sort()
    middle = np.full(items, np.nan, np.float32)
    first, counts = edges[:-1], np.diff(edges)
    sold = np.flatnonzero(counts)
    low, high = (prices[first[sold] + (counts[sold] - past) // 2] for past in (1, 0))
    middle[sold] = (low + high) / 2
    return middle


def _first_existing(raw: Path, names: tuple[str, ...]) -> Path:
    """Return the first of the names that exists, plain or gzipped; of none, the first, whose absence is then the error."""
    found = [or_gzipped(raw / name) for name in names]
    return next((path for path in found if path.is_file()), found[0])


def _store_images(
    folder: Path | None, item_ids: pd.Series, args: argparse.Namespace, writer: PreparedWriter
) -> list[list[str]]:
    """Store each article's photo under its id; returns the image keys of every item."""
    if folder is None:
        return [[] for _ in item_ids]
    return store_by_id(photos_by_name(folder, lambda name: name.zfill(ARTICLE_DIGITS)), item_ids, args, writer)
