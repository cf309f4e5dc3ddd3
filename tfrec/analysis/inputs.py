"""What an analysis reads: vectors per item, perhaps those before fine-tuning, and the prepared dataset's
items.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.photos.image_store import ImageStore
from pipelines.prepared import Prepared, open_prepared
from tfrec.evaluation.labels import item_labels
from tfrec.runs.dataset import check_dataset, learned_from_items
from tfrec.runs.folder import VECTORS_FILE
from tfrec.runs.places import open_run_data


class AnalysisError(ValueError):
    """An input of the analysis is missing or broken; the message says which and what to do."""


@dataclass
class Catalogue:
    """Items with vectors.

    Attributes:
        name: what is analysed, for titles.
        vectors: float32 `[N, D]`.
        before: `[N, D']` vectors of the same items before fine-tuning, or None.
        items: `[N]` rows of the dataset's items table, in the vectors' order.
        images: the photos, or None.
        folder: where the run's further files are (history, attention), or None.
    """

    name: str
    vectors: np.ndarray
    before: np.ndarray | None
    items: pd.DataFrame
    images: ImageStore | None
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    def titles(self, rows: np.ndarray) -> list[str]:
        """One line per item: its title, or its id where it has none."""
        chosen = self.items.iloc[rows]
        return [title or item for title, item in zip(chosen["title"], chosen["item_id"])]

    def photo(self, row: int) -> bytes | None:
        """JPEG bytes of an item's first photo, or None."""
        keys = self.items["images"].iloc[row]
        return self.images.read(keys[0]) if self.images is not None and len(keys) else None


def read_run(run: str | Path, data: str | None = None) -> Catalogue:
    """Read a training run: `embeddings.npz` and the dataset that `config.yaml` names under `data`.

    Args:
        run: folder of a run. `embeddings.npz` holds `vectors [N, D]`, `item_id [N]` and optionally `before
            [N, D']`.
        data: another place of the prepared dataset.

    Raises:
        AnalysisError: a file or an array is missing, or does not fit the dataset.
        PreparedError: the dataset cannot be opened.
        ConfigError: it is not the one that the run was trained on.
    """
    run = Path(run)
    file = run / VECTORS_FILE
    if not file.is_file():
        raise AnalysisError(f"{run} has no {VECTORS_FILE}; give the folder of a finished metric-learning run")
    with np.load(file, allow_pickle=False) as arrays:
        missing = [name for name in ("vectors", "item_id") if name not in arrays]
        if missing:
            raise AnalysisError(f"{file} has no array {missing[0]!r}; it has {arrays.files}")
        vectors, ids = arrays["vectors"], arrays["item_id"].astype(str)
        before = arrays.get("before")
    prepared = open_prepared(data) if data else open_run_data(run, _data_of(run))
    # Of another split, test items may have been trained on. Where purchases are what was learned from, items have none.
    check_dataset(run, prepared, other_events=not learned_from_items(run))
    return join(run.resolve().name, prepared, ids, vectors, before=before, folder=run)


def read_features(store: str | Path, data: str | None) -> Catalogue:
    """Read what frozen encoders made of a catalogue: a feature store of `python -m tfrec.encode`, or a folder with
    `embeddings.npz`.

    Args:
        store: the folder. Of a store with both sides the photos' vectors are taken.
        data: the prepared dataset; a store does not name it.

    Raises:
        AnalysisError: the folder is neither, or no dataset is named.
        FeatureError: the store is broken, or was made of other data.
    """
    from tfrec.features.store import content_keys, stored_sides

    store = Path(store)
    if (store / VECTORS_FILE).is_file():
        return read_run(store, data)
    sides = stored_sides(store)
    if data is None:
        raise AnalysisError(f"--features {store}: name the dataset that it was made of with --data")
    prepared = open_prepared(data)
    side = "image" if "image" in sides else "text"
    keys = content_keys(side, prepared)
    has = np.array([bool(key) for key in keys])
    vectors = sides[side].features(keys, pooled=True, data=prepared.path).vectors[has]
    ids = prepared.items["item_id"].to_numpy(str)[has]
    return join(f"{store.resolve().name} ({side})", prepared, ids, vectors)


def join(
    name: str,
    prepared: Prepared,
    item_ids: np.ndarray,
    vectors: np.ndarray,
    *,
    before: np.ndarray | None = None,
    folder: Path | None = None,
) -> Catalogue:
    """Bring vectors and items together by item id.

    Args:
        name: for titles.
        prepared: the dataset.
        item_ids: `[N]` strings.
        vectors: `[N, D]`.
        before: `[N, D']`, optional.
        folder: the run's folder, optional.

    Raises:
        AnalysisError: lengths differ, a vector is not finite, or an id is not in the dataset.
    """
    for label, array in (("vectors", vectors), ("before", before)):
        if array is None:
            continue
        if array.ndim != 2 or len(array) != len(item_ids):
            raise AnalysisError(f"{label} has shape {array.shape} for {len(item_ids)} item ids; give one row per item")
        if not np.isfinite(array).all():
            raise AnalysisError(f"{label} holds NaN or infinity; the model that made it has diverged")
    if len(vectors) < 3:
        raise AnalysisError(f"{name} has {len(vectors)} items; an analysis needs at least 3")
    row_of = pd.Series(np.arange(len(prepared.items)), index=prepared.items["item_id"].astype(str))
    unknown = [item for item in item_ids if item not in row_of.index]
    if unknown:
        raise AnalysisError(
            f"{len(unknown)} items of {name} are not in {prepared.path}, the first is {str(unknown[0])!r}; "
            "give --data the dataset that the vectors were made from"
        )
    items = prepared.items.iloc[row_of[item_ids].to_numpy()].reset_index(drop=True)
    return Catalogue(
        name=name,
        vectors=np.asarray(vectors, np.float32),
        before=None if before is None else np.asarray(before, np.float32),
        items=items,
        images=prepared.images,
        folder=folder,
    )


def labels_of(catalogue: Catalogue, by: str | None) -> tuple[str | None, np.ndarray | None]:
    """The labels to evaluate by.

    Args:
        catalogue: the items.
        by: `label`, an attribute field, or any other text column; None takes `label` where there is one.

    Returns:
        `(name, [N] strings)`; the first value of an attribute with several, "" where it is missing. `(None,
        None)` when nothing was asked for and the items have no label.

    Raises:
        ConfigError: no such column.
        AnalysisError: fewer than two values.
    """
    if by is None and "label" not in catalogue.items:
        return None, None
    name = by or "label"
    values = item_labels(catalogue.items, name, option="--by")
    if len(set(values) - {""}) >= 2:
        return name, values
    if by is None:
        return None, None
    raise AnalysisError(f"--by {by} has fewer than two different values among the items; choose another one")


def _data_of(run: Path) -> str:
    """The prepared dataset that a run's configuration names."""
    import yaml

    file = run / "config.yaml"
    if not file.is_file():
        raise AnalysisError(f"{file} is missing; name the prepared dataset with --data")
    config = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    if not isinstance(config, dict) or not config.get("data"):
        raise AnalysisError(f"{file} names no dataset under `data`; name it with --data")
    return str(config["data"])
