"""The classes of a dataset's items, and which part of it they are in."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pipelines.prepared import Prepared
from pipelines.schema import TRAIN
from tfrec.config import ConfigError


def item_labels(prepared: Prepared, label: str) -> np.ndarray:
    """The class of every item, strings `[N]`, "" for none; the first value of an attribute with several.

    Args:
        prepared: the dataset.
        label: `label`, or an attribute field.

    Raises:
        ConfigError: no such column.
    """
    items = prepared.items
    if label == "label" and label in items:
        return items["label"].fillna("").to_numpy(str)
    if f"attr.{label}" not in items:
        known = [name for name in ("label",) if name in items] + prepared.fields
        raise ConfigError(f"task.label {label}: the items of {prepared.path} have {', '.join(known) or 'no labels'}")
    return np.array([values[0] if len(values) else "" for values in items[f"attr.{label}"]], dtype=str)


def item_splits(items: pd.DataFrame) -> np.ndarray:
    """The split of every item, int8 `[N]` of the values of `SPLIT_CODES`; all train where the dataset is not split."""
    return items["split"].to_numpy(np.int8) if "split" in items else np.full(len(items), TRAIN, np.int8)
