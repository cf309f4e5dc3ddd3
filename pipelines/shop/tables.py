"""A shop's items and customers, as items and users of the prepared dataset."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.id_index import LONGEST_ID, proper_ids
from pipelines.prepared_writer import PreparedWriter
from pipelines.raw.raw_parquet import LIST_SEPARATOR
from pipelines.raw.raw_table import RawTable, as_mask
from pipelines.raw.raw_text import joined_text, text_or_null, value_lists
from pipelines.schema import ATTRIBUTE_PREFIX, PreparedError
from pipelines.shop.files import ShopFile

ROW_NUMBERS = re.compile(r"Unnamed: \d+|__index_level_\d+__")  # columns that pandas makes of an index


@dataclass(frozen=True)
class ShopItems:
    """The shop's items.

    Attributes:
        frame: for `PreparedWriter.items`; it still lacks photos.
        rows: each item's 1-based row in the file, `[items]`.
        photos: the names of each item's photos, `[items]` lists; None where the file names none.
    """

    frame: pd.DataFrame
    rows: np.ndarray
    photos: pd.Series | None


def proper_shop_ids(ids: pa.Array) -> np.ndarray:
    """Return which strings can be ids, `[n]` bool; they are never changed, so white space alone would be a trap."""
    return proper_ids(ids) & as_mask(pc.not_equal(pc.utf8_trim_whitespace(ids), ""))


def improper(name: str) -> str:
    """Why an id is rejected that `proper_shop_ids` refuses."""
    return f"{name} is empty or longer than {LONGEST_ID} bytes"


def attribute_columns(file: ShopFile, chosen: list[str] | None) -> list[str]:
    """The columns of the items file that are attributes: those chosen, else all that stand for nothing else.

    Raises:
        PreparedError: a chosen one is not there.
    """
    if chosen is None:
        return _informative(file.others)
    for name in chosen:
        if name not in file.header:
            raise PreparedError(f"--attributes {name}: {file.path} has no such column; it has {', '.join(file.header)}")
    return list(dict.fromkeys(chosen))


def _informative(columns: Iterable[str]) -> list[str]:
    """Columns, each once, but row numbers as spreadsheets (no name) and pandas write them."""
    return [name for name in dict.fromkeys(columns) if name and not ROW_NUMBERS.fullmatch(name)]


def read_items(file: ShopFile, attributes: list[str], *, writer: PreparedWriter, max_rejected: float) -> ShopItems:
    """Read the items; rows with an improper or a repeated id are rejected (the first of each id stays).

    Their text is the title and the text, as models read the text alone.
    """
    own = file.column
    raw = file.open([*own.values(), *attributes], writer, quoted_newlines=True)
    table = raw.read()
    keep = _distinct(raw, table[own["item_id"]], "item_id", own["item_id"], max_rejected)
    kept = table.filter(pa.array(keep))
    cells = {name: pc.utf8_trim_whitespace(kept[column]) for name, column in own.items()}
    frame = pd.DataFrame({"item_id": kept[own["item_id"]].to_pandas()})
    if "title" in cells:
        frame["title"] = cells["title"].to_pandas()
    texts = [cells[name] for name in ("title", "text") if name in cells]
    if texts:
        frame["text"] = joined_text(texts)
    if "group" in cells and pc.any(pc.not_equal(cells["group"], "")).as_py():
        frame["group"] = cells["group"].to_pandas()
    for name in attributes:
        frame[ATTRIBUTE_PREFIX + name] = value_lists(kept[name], LIST_SEPARATOR)
    photos = value_lists(kept[own["photo"]], LIST_SEPARATOR) if "photo" in own else None
    return ShopItems(frame, raw.rows_of_kept(np.arange(len(frame))), photos)


def read_customers(file: ShopFile | None, *, writer: PreparedWriter, max_rejected: float) -> pd.DataFrame:
    """Read the customers, all of them: those who bought nothing also get recommendations.

    Returns:
        A frame for `PreparedWriter.users`; empty cells are null.
    """
    if file is None:
        return pd.DataFrame({"user_id": pd.Series([], dtype=str)})
    column, fields = file.column["customer_id"], _informative(file.others)
    raw = file.open([column, *fields], writer, quoted_newlines=True)
    table = raw.read()
    keep = _distinct(raw, table[column], "customer_id", column, max_rejected)
    kept = table.filter(pa.array(keep))
    values = {ATTRIBUTE_PREFIX + name: text_or_null(kept[name]) for name in fields}
    return pd.DataFrame({"user_id": kept[column].to_pandas(), **values})


def said_once(label: str, columns: Iterable[str]) -> None:
    """Tell which columns are not used, lest someone count on them."""
    names = [name or "(without a name)" for name in dict.fromkeys(columns)]
    if names:
        print(f"{label}: not used: {', '.join(names)}")


def _distinct(raw: RawTable, ids: pa.Array, name: str, column: str, max_rejected: float) -> np.ndarray:
    """Which rows of a table stay, `[n]` bool: those with a proper id that no earlier row has."""
    told = {"name": name, "why": improper(name)}
    return raw.settle_ids(ids, proper_shop_ids(ids), column, ids, **told, max_rejected=max_rejected)
