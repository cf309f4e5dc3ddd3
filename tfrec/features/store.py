"""The feature store: what frozen encoders make of a catalogue's texts and photos, on disk, read by item.

A store is a folder with `text/`, `image/` or both. Each holds the `encoder/` that made it, the distinct contents' keys
(`keys.txt`) and their features as float16 arrays that are memory-mapped: `vectors.npy` `[U, P]`, and with `tokens`
`tokens.npy` `[U, T, D]` and, of texts, `mask.npy` `[U, T]`. Items of equal content share a row.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.prepared import Prepared
from pipelines.publish import put_back

FORMAT = "tfrec-features-1"
MANIFEST = "manifest.json"
SIDES = ("text", "image")
UNITS = {"text": "text", "image": "photo"}  # what a side's contents are called


class FeatureError(ValueError):
    """A feature store that is absent, broken, or not of this dataset or model."""


@dataclass
class FeatureArray:
    """Rows of a store by item; zeros for items without the content.

    Attributes:
        stored: memory-mapped array `[U, ...]`.
        row_of: row of each item int32 `[N]`, -1: none.
    """

    stored: np.ndarray
    row_of: np.ndarray

    def __getitem__(self, items: np.ndarray) -> np.ndarray:
        rows = self.row_of[items]
        values = self.stored[np.maximum(rows, 0)]
        values[rows < 0] = 0
        return values


@dataclass
class SideFeatures:
    """The features of a catalogue's texts or photos.

    Attributes:
        tokens: `[N, T, D]`, of a store of pooled vectors `[N, 1, P]`.
        mask: which tokens count, `[N, T]`; of photos whether there is one, bool `[N]`.
        vectors: pooled, float32 `[N, P]`.
    """

    tokens: FeatureArray
    mask: Any
    vectors: np.ndarray


class SideStore:
    """One side of a feature store.

    Args:
        folder: `text/` or `image/` of a store.

    Raises:
        FeatureError: the folder is absent, or not whole.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            self.manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            self.keys = (folder / "keys.txt").read_text(encoding="ascii").split()
            self.vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        except (OSError, ValueError) as error:
            raise FeatureError(
                f"{folder} is no feature store ({error}); make one with: python -m tfrec.encode"
            ) from None
        if self.manifest.get("format") != FORMAT or len(self.keys) != len(self.vectors):
            raise FeatureError(f"{folder} is of another format or cut short; delete it and run tfrec.encode again")

    @property
    def encoder(self) -> Path:
        """The folder of the encoder that made the features."""
        return self.folder / "encoder"

    @property
    def holds_tokens(self) -> bool:
        """Whether tokens are stored beside the pooled vectors."""
        return self.manifest["stored"] == "tokens"

    def array(self, name: str) -> np.ndarray:
        """A stored array, memory-mapped."""
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")

    def features(self, keys: Sequence[str], *, pooled: bool, data: Path) -> SideFeatures:
        """The features of items with the content `keys` (`""`: none).

        Args:
            keys: of each item, as `content_keys` gives them.
            pooled: the vector in place of the tokens.
            data: the dataset, for messages.

        Raises:
            FeatureError: some items' content is not in the store, or it holds no tokens.
        """
        place = {key: row for row, key in enumerate(self.keys)}
        row_of = np.array([place.get(key, -1) for key in keys], np.int32)
        present = np.array([bool(key) for key in keys])
        missing = int((present & (row_of < 0)).sum())
        if missing:
            raise FeatureError(
                f"{self.folder} lacks {missing} of the {int(present.sum())} items of {data} that have the content; "
                "run tfrec.encode again: it encodes what is new or changed"
            )
        vectors = FeatureArray(self.vectors, row_of)
        resident = vectors[np.arange(len(row_of))].astype(np.float32)
        if pooled or not self.holds_tokens:
            as_token = FeatureArray(self.vectors[:, None], row_of)
            return SideFeatures(as_token, present[:, None] if self.folder.name == "text" else present, resident)
        mask = FeatureArray(self.array("mask"), row_of) if self.folder.name == "text" else present
        return SideFeatures(FeatureArray(self.array("tokens"), row_of), mask, resident)


def stored_sides(store: Path) -> dict[str, SideStore]:
    """The sides of a store.

    Raises:
        FeatureError: the folder holds none.
    """
    for name in SIDES:
        put_back(store / name)
    found = {name: SideStore(store / name) for name in SIDES if (store / name).is_dir()}
    if not found:
        raise FeatureError(
            f"{store} holds no features (neither text/ nor image/); make some with: python -m tfrec.encode"
        )
    return found


def content_keys(kind: str, prepared: Prepared) -> list[str]:
    """A hash of each item's text or first photo; `""` where it has none.

    Raises:
        FeatureError: no item has one.
    """
    if kind == "text":
        found = [hashlib.sha256(text.encode()).hexdigest() if text else "" for text in prepared.items["text"]]
    elif prepared.images is None:
        found = []
    else:
        read = prepared.images.read
        found = [hashlib.sha256(read(keys[0])).hexdigest() if len(keys) else "" for keys in prepared.items["images"]]
    if not any(found):
        other = {"text": "image", "image": "text"}[kind]
        raise FeatureError(
            f"{prepared.path}: no item has a {UNITS[kind]} for the frozen {kind} encoder; train with "
            f"model.{kind}.enabled=false, encode with --side {other}"
        )
    return found
