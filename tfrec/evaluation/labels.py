"""The classes of a dataset's items, which part of it they are in, and which of them vote on which."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pipelines.schema import SPLIT_CODES, TRAIN
from tfrec.config import ConfigError


def item_labels(items: pd.DataFrame, field: str, *, option: str) -> np.ndarray:
    """The class of every item, strings `[N]`, "" for none; the first value of an attribute with several.

    Args:
        items: of a prepared dataset.
        field: `label`, an attribute field, or any other text column.
        option: that named the field, for the error.

    Raises:
        ConfigError: no such column.
    """
    column = next((name for name in (field, f"attr.{field}") if name in items), None)
    if column is None:
        fields = [str(name).removeprefix("attr.") for name in items if str(name).startswith("attr.")]
        known = ", ".join([name for name in ("label", "group") if name in items] + fields) or "none"
        raise ConfigError(f"{option} {field} is no label or attribute of the items; they have {known}")
    return np.array([_first(value) for value in items[column]], dtype=str)


def item_splits(items: pd.DataFrame) -> np.ndarray:
    """The split of every item, int8 `[N]` of the values of `SPLIT_CODES`; all train where the dataset is not split."""
    return items["split"].to_numpy(np.int8) if "split" in items else np.full(len(items), TRAIN, np.int8)


def label_sides(labels: np.ndarray, splits: np.ndarray, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Who is asked and who votes on their labels when vectors are evaluated.

    Args:
        labels: `[N]`, "" for none.
        splits: `[N]`.
        split: `val` (training items vote) or `test` (all others vote).

    Returns:
        Rows of the held-out items with a label, and of the voters; no voters where they share no label with those asked, as
        in class-disjoint splits: then those asked vote among themselves.
    """
    known = labels != ""
    held = splits == SPLIT_CODES[split]
    queries = np.flatnonzero(known & held)
    voters = np.flatnonzero(known & (splits == TRAIN if split == "val" else ~held))
    shared = set(labels[queries]) & set(labels[voters])
    return queries, voters if shared else voters[:0]


def can_be_evaluated(labels: np.ndarray) -> bool:
    """Whether labels tell neighbours right from wrong: there are two classes, and two items of one."""
    return 2 <= len(set(labels)) < len(labels)


def _first(value: object) -> str:
    """A cell as one string: lists give their first value, missing ones ''."""
    if isinstance(value, list | tuple | np.ndarray):
        return str(value[0]) if len(value) else ""
    return "" if value is None or value != value else str(value)
