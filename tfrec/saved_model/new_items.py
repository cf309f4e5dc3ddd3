"""New items without training: encode what a run does not know from content alone, with its towers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf

from pipelines.prepared import Prepared, open_prepared
from pipelines.progress import Progress
from tfrec.neighbours import products_of
from tfrec.retrieval.assets import with_group
from tfrec.runs.run import Run, RunError
from tfrec.saved_model.content import encode_content

BATCH = 64


def with_new_items(run: Run, data: str | Path) -> Run:
    """Add the items of a prepared dataset that a run does not know.

    They can be recommended, found and filtered at once. The query tower reads them in histories after the
    next training only: until then it passes over them.

    Args:
        run: the trained run.
        data: a prepared dataset with the new items, with or without the old ones.

    Returns:
        The run with the new items after its own, which have sold nothing.

    Raises:
        RunError: the run's items have no content to encode.
        PreparedError: the dataset is broken.
    """
    if not run.modalities:
        raise RunError(f"run {run.name} knows items by their ids alone; new ones need training")
    prepared = open_prepared(data)
    known = set(run.item_ids)
    new = prepared.items[~prepared.items["item_id"].isin(known)].reset_index(drop=True)
    if new.empty:
        return run
    vectors = encode_items(run, prepared, new)
    attributes = {field: [*values, *_values(new, field)] for field, values in run.item_attributes.items()}
    return replace(
        run,
        item_ids=[*run.item_ids, *new["item_id"]],
        item_vectors=np.concatenate([run.item_vectors, vectors]),
        popularity=_and_none(run.popularity, len(new)),
        frequency=None if run.frequency is None else _and_none(run.frequency, len(new)),
        item_attributes=attributes,
        products=[*run.products, *products_of(new)],
        readable_items=len(run.item_ids) if run.readable_items is None else run.readable_items,
    )


def encode_items(run: Run, prepared: Prepared, items: pd.DataFrame) -> np.ndarray:
    """Candidate vectors of items from their first photo, text and attributes: float32 `[N, D]`.

    Args:
        run: the trained run.
        prepared: the dataset that holds the photos.
        items: rows of its items table.
    """
    encode = tf.function(
        lambda photo, text, attributes: encode_content(run, photo, text, attributes, tf.shape(photo)[0]),
        autograph=False,
    )
    encoded = _attributes(run, items)
    vectors = []
    with Progress("encode new items", len(items), unit=" items") as bar:
        for start in range(0, len(items), BATCH):
            part = items[start : start + BATCH]
            photos = [_photo(prepared, keys) for keys in part["images"]]
            texts = tf.constant(part["text"].tolist(), tf.string)
            vectors.append(encode(tf.constant(photos, tf.string), texts, encoded[start : start + BATCH]).numpy())
            bar.update(len(part))
    return np.concatenate(vectors)


def _and_none(sales: np.ndarray, new: int) -> np.ndarray:
    """Sales `[N]` and those of `new` items, which have none."""
    return np.concatenate([sales, np.zeros(new, sales.dtype)])


def _photo(prepared: Prepared, keys: list[str]) -> bytes:
    return prepared.images.read(keys[0]) if len(keys) and prepared.images is not None else b""


def _attributes(run: Run, items: pd.DataFrame) -> np.ndarray:
    if run.attributes is None:
        return np.zeros((len(items), 0, 1), np.int32)
    return run.attributes.encode(with_group(items))


def _values(items: pd.DataFrame, field: str) -> list[list[str]]:
    column = f"attr.{field}"
    return [list(values) for values in items[column]] if column in items else [[] for _ in range(len(items))]
