"""Puts a shop's prepared dataset together: items, users, events with their split, photos."""

from __future__ import annotations

import argparse

import pandas as pd

from pipelines.photos.item_photos import say_photos
from pipelines.prepared_writer import PreparedWriter
from pipelines.purchase_split import PurchaseSplit
from pipelines.shop.files import ShopFiles, find_files
from pipelines.shop.photos import shop_photo_folder, store_shop_photos
from pipelines.shop.purchases import read_purchases
from pipelines.shop.tables import attribute_columns, read_customers, read_items, said_once
from pipelines.summary import print_summary, print_unmatched

PLACES = ("items", "purchases", "customers", "images", "out", "overwrite")  # options that say where, not how


def prepare(args: argparse.Namespace) -> None:
    """Prepare the dataset that the options describe.

    Args:
        args: the options of `pipelines.shop.add_arguments`.

    Raises:
        PreparedError: a file or column is missing, too many rows are unusable, or the split leaves nothing.
    """
    files = find_files(args)
    attributes = attribute_columns(files.items, args.attributes)
    folder = shop_photo_folder(args, files.items)
    source = {"items": args.items, "purchases": args.purchases, "customers": args.customers, "images": folder}
    options = {name: value for name, value in vars(args).items() if name not in PLACES}
    with PreparedWriter(args.out, dataset="shop", source=source, options=options, overwrite=args.overwrite) as writer:
        account = {"writer": writer, "max_rejected": args.max_rejected}
        _tell_unused(files, attributes)
        items = read_items(files.items, attributes, **account)
        users = read_customers(files.customers, **account)
        item_ids = items.frame["item_id"]
        purchases = read_purchases(files.purchases, item_ids=item_ids, user_ids=users["user_id"], **account)
        split = PurchaseSplit(args, purchases.columns["time"])
        writer.events(split.marked_frames(purchases.sorted_frames()))
        writer.split = split.entry()
        purchases.set_aside(split.dropped, item_ids.to_numpy(), writer=writer, reason=split.reason)
        new = pd.DataFrame({"user_id": purchases.new_customers}, dtype=str)
        writer.users(pd.concat([users, new], ignore_index=True))
        images = store_shop_photos(folder, items, files.items, args, writer)
        items.frame["images"] = images
        writer.items(items.frame)
        writer.notes["users_only_in_purchases"] = len(new)
        writer.notes["items_without_image"] = sum(not keys for keys in images)
    print_summary(args.out)
    say_photos(images, folder)
    if files.customers:
        told = {"kind": "customers", "here": "purchases", "table": files.customers.name, "without": "fields"}
        print_unmatched(purchases.new_customers, purchases.columns["user"], users["user_id"], **told)


def _tell_unused(files: ShopFiles, attributes: list[str]) -> None:
    said_once(files.items.name, [name for name in files.items.others if name not in attributes])
    said_once("purchases", [name for file in files.purchases for name in file.others])
    if files.customers and "" in files.customers.header:
        said_once(files.customers.name, [""])
