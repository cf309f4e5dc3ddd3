"""A shop's purchases as events: streamed from one file after the other, held as compact columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from pipelines.id_index import GrowingIdIndex, IdIndex
from pipelines.prepared_writer import PreparedWriter
from pipelines.purchase_order import sorted_frames
from pipelines.raw.raw_table import RawTable
from pipelines.schema import PreparedError
from pipelines.shop.files import ShopFile
from pipelines.shop.tables import improper, proper_shop_ids
from pipelines.shop.times import REASON, WRONG_UNIT, read_times
from pipelines.time_bounds import TOO_EARLY, TOO_LATE, YEAR_10000, is_too_early, is_too_late


@dataclass
class ShopPurchases:
    """The kept purchases in the order of the files.

    Attributes:
        columns: `user` and `item` (int32, rows of users and items) and `time` (int64, seconds since 1970), `[E]` each.
        files: each file with its raw table and the place of its first purchase.
        new_customers: the ids of customers that the customers file does not have; they continue its numbering.
    """

    columns: dict[str, np.ndarray]
    files: list[tuple[ShopFile, RawTable, int]]
    new_customers: list[str]

    def sorted_frames(self) -> Iterator[pd.DataFrame]:
        """Frames of whole users in the order of events; `position` is the place among the kept rows of all files."""
        return sorted_frames(self.columns)

    def set_aside(self, dropped: pd.DataFrame, item_ids: np.ndarray, *, writer: PreparedWriter, reason: str) -> None:
        """Reject purchases that are sound but left out, given their `position` and `item`, by their rows in the files."""
        position, item = dropped["position"].to_numpy(), dropped["item"].to_numpy()
        ends = [first for _, _, first in self.files[1:]] + [len(self.columns["user"])]
        for (file, raw, first), end in zip(self.files, ends):
            own = (position >= first) & (position < end)
            writer.reject_rows(
                file=raw.name,
                rows=raw.rows_of_kept(position[own] - first),
                field=file.column["item_id"],
                values=item_ids[item[own]],
                reason=reason,
            )


def read_purchases(
    files: Sequence[ShopFile],
    *,
    item_ids: pd.Series,
    user_ids: pd.Series,
    writer: PreparedWriter,
    max_rejected: float,
) -> ShopPurchases:
    """Read the purchases and replace ids by row numbers.

    Rows with an improper id or time, or of an item that the items file does not have, are rejected. Customers that the
    customers file does not have are kept.

    Args:
        files: in the order that decides between purchases of one moment.
        item_ids: `[items]`.
        user_ids: `[users]`.
        writer: where rejected rows go.
        max_rejected: largest share of a file's rows that may be rejected.
    """
    items = IdIndex(pa.array(item_ids, type=pa.string()))
    customers = GrowingIdIndex(pa.array(user_ids, type=pa.string()))
    blocks: list[dict[str, np.ndarray]] = []
    opened: list[tuple[ShopFile, RawTable, int]] = []
    kept = 0
    for file in files:
        raw = file.open(file.column.values(), writer)
        opened.append((file, raw, kept))
        for block in raw:
            blocks.append(_convert(raw, block, file.column, items, customers))
            kept += len(blocks[-1]["user"])
        raw.settle(max_rejected, may_be_empty=True, one_of_many=len(files) > 1)  # a day may have no purchases
    if not kept:
        raise PreparedError(
            f"{files[0].path}: neither it nor any further file of --purchases has a usable row; give one that has"
        )
    columns = {name: np.concatenate([block.pop(name) for block in blocks]) for name in ("user", "item", "time")}
    return ShopPurchases(columns, opened, customers.added)


def _convert(
    raw: RawTable, block: pa.RecordBatch, own: dict[str, str], items: IdIndex, customers: GrowingIdIndex
) -> dict[str, np.ndarray]:
    """Turn one block of strings into compact columns, without its rejected rows."""
    buyers, bought = block[own["customer_id"]], block[own["item_id"]]
    item = items.rows(bought)
    time, proper_time = read_times(block[own["time"]])
    kept = np.ones(len(block), bool)
    for name, proper, reason in (
        ("time", proper_time, REASON),
        ("time", ~is_too_early(time), TOO_EARLY),
        ("time", time < YEAR_10000, WRONG_UNIT),
        ("time", ~is_too_late(time), TOO_LATE),
        ("customer_id", proper_shop_ids(buyers), improper("customer_id")),
        ("item_id", proper_shop_ids(bought), improper("item_id")),
        ("item_id", item >= 0, "item_id is not in the items file"),
    ):
        raw.reject(kept & ~proper, own[name], block[own[name]], reason)
        kept &= proper
    if not kept.all():
        buyers = buyers.filter(pa.array(kept))
    return {"user": customers.rows(buyers), "item": item[kept], "time": time[kept]}
