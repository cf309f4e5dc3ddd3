"""Raw text columns as the prepared dataset keeps them: joined, as lists of values, or null where they say nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.raw.raw_table import as_mask


def joined_text(columns: Sequence[pa.Array]) -> pd.Series:
    """Join an item's texts with full stops, leaving out empty ones."""
    if len(columns) == 1:  # Arrow would leave out the empty cells, not their text
        return columns[0].to_pandas()
    absent = pa.scalar(None, pa.string())
    parts = [pc.if_else(pc.equal(column, ""), absent, column) for column in columns]
    return pc.binary_join_element_wise(*parts, ". ", null_handling="skip").to_pandas()


def value_lists(column: pa.Array, separator: str | None = None) -> pd.Series:
    """Return the values of each cell as a list, `[]` where it is empty.

    Args:
        column: strings.
        separator: what stands between the values of a cell; None: a cell is one value.
    """
    values, cell = column, np.arange(len(column))
    if separator is not None:
        lists = pc.split_pattern(column, separator)
        values, cell = pc.utf8_trim_whitespace(lists.flatten()), pc.list_parent_indices(lists).to_numpy()
    present = as_mask(pc.greater(pc.binary_length(values), 0))
    ends = np.append(0, np.cumsum(np.bincount(cell[present], minlength=len(column)))).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(ends), values.filter(pa.array(present)))
    return pd.Series(lists, dtype=pd.ArrowDtype(lists.type))


def text_or_null(column: pa.Array) -> pd.Series:
    """Trim white space; an empty cell becomes null."""
    text = pc.utf8_trim_whitespace(column).to_pandas()
    return text.where(text != "")
