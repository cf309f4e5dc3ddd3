"""Why an item was recommended to a customer: what the score loses when one thing is taken away.

* Purchases: the score without each of them in the history.
* Modalities: the score of the item's content without its photo, its text or its attributes; the rest of the score is what
  the item's own id vector knows.
* Words: the score of the content without each word of the text.
* Photo regions: how much attention the item's words and attributes pay to each part of its photo.

All but the last are exact differences of the score that ranks (occlusion, Zeiler and Fergus 2014,
https://arxiv.org/abs/1311.2901), so they hold for every tower; attention says where the model looked, not what for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tfrec.reports.attention_maps import top_patches

if TYPE_CHECKING:
    import pandas as pd

    from pipelines.prepared import Prepared
    from tfrec.saved_model.loading import LoadedModel

MODALITIES = ("photo", "text", "attributes")
MOST_WORDS = 32  # distinct words of a text that are tried
SHOWN = 5  # purchases, words and regions named


@dataclass(frozen=True)
class ItemInputs:
    """What a served model reads of an item.

    Attributes:
        photo: image file bytes, empty where there is none.
        text: the text, empty where there is none.
        attributes: terms "field=value".
    """

    photo: bytes
    text: str
    attributes: list[str]


class Explainer:
    """Explains the recommendations of a published model.

    Args:
        model: the loaded version, with the signature `explain_rows`.
        prepared: the dataset with the items' photos, texts and attributes.
    """

    def __init__(self, model: LoadedModel, prepared: Prepared):
        self.model, self.prepared = model, prepared
        self.item_ids = [name.decode() for name in model.module.item_ids.numpy()]
        self._items: pd.DataFrame = prepared.items.set_index("item_id", drop=False)

    def __call__(self, history: np.ndarray, days_ago: np.ndarray, fields: np.ndarray, items: np.ndarray) -> list[dict]:
        """Explain one customer's recommendations.

        Args:
            history: int32 `[L]` item rows of the model, -1 = none.
            days_ago: float32 `[L]`.
            fields: int32 `[G]`.
            items: int32 `[K]` recommended rows.

        Returns:
            For each item `because` (bought items and what the score owes them), and where the model reads content
            `modalities`, `words` and, where it has photos and text, `photo_regions` (top, left, height and width as shares
            of the photo, and their share of the attention).
        """
        query = {"history": history[None], "days_ago": days_ago[None], "user_fields": fields[None]}
        told = {name: x.numpy()[0] for name, x in self.model("explain_rows", **query, items=items[None]).items()}
        reasons = []
        for place, row in enumerate(items.tolist()):
            owed = told["score"][place] - told["without"][place]
            because = [(self.item_ids[bought], owed[at]) for at, bought in enumerate(history.tolist()) if bought >= 0]
            item = {"item_id": self.item_ids[row], "score": float(told["score"][place]), "because": _first(because)}
            reasons.append(item | self._content(row, told["query"], float(told["product"][place])))
        return reasons

    def _content(self, row: int, query: np.ndarray, product: float) -> dict[str, Any]:
        """What of the item's own speaks for it, given the query vector `[D]` and its product with the item's vector."""
        if "embed_item" not in self.model.signatures or self.item_ids[row] not in self._items.index:
            return {}
        inputs, read = self._inputs(self.item_ids[row]), self.model.manifest["modalities"]
        words = list(dict.fromkeys(re.findall(r"\w+", inputs.text)))[:MOST_WORDS] if "text" in read else []
        tried = [inputs, *(without(inputs, name) for name in MODALITIES if name in read)]
        tried += [ItemInputs(inputs.photo, without_word(inputs.text, word), inputs.attributes) for word in words]
        scores = self._embed(tried) @ query
        whole, rest = float(scores[0]), scores[0] - scores[1:]
        parts = dict(zip([name for name in MODALITIES if name in read], rest.tolist()))
        told: dict[str, Any] = {"modalities": parts | {"id": product - whole}}
        if words:
            told["words"] = _first(zip(words, rest[len(parts) :]))
        if "attend_item" in self.model.signatures and inputs.photo:
            told["photo_regions"] = self._regions(inputs)
        return told

    def _inputs(self, item_id: str) -> ItemInputs:
        item = self._items.loc[item_id]
        keys = item["images"]
        photo = self.prepared.images.read(keys[0]) if len(keys) and self.prepared.images is not None else b""
        terms = [f"{name}={value}" for name in self.prepared.fields for value in item[f"attr.{name}"]]
        if isinstance(item.get("group"), str):  # read as a field of its own, by models that do
            terms.append(f"group={item['group']}")
        return ItemInputs(photo, str(item["text"]), terms)

    def _embed(self, items: list[ItemInputs]) -> np.ndarray:
        """Content vectors `[n, D]`."""
        return self.model("embed_item", **_batch(items))["embedding"].numpy()

    def _regions(self, inputs: ItemInputs) -> list[dict[str, float]]:
        return top_patches(self.model("attend_item", **_batch([inputs]))["attention"].numpy()[0], SHOWN)


def without(item: ItemInputs, modality: str) -> ItemInputs:
    """The item without one of its modalities."""
    return ItemInputs(
        b"" if modality == "photo" else item.photo,
        "" if modality == "text" else item.text,
        [] if modality == "attributes" else item.attributes,
    )


def without_word(text: str, word: str) -> str:
    """The text without every occurrence of a word."""
    return re.sub(rf"\b{re.escape(word)}\b", " ", text)


def _first(named: Iterable[tuple[str, float]]) -> list[dict[str, Any]]:
    """The entries (name, gain) of largest gain, best first."""
    ordered = sorted(named, key=lambda entry: -float(entry[1]))[:SHOWN]
    return [{"name": name, "gain": float(gain)} for name, gain in ordered]


def _batch(items: list[ItemInputs]) -> dict[str, Any]:
    widest = max(1, *(len(item.attributes) for item in items))
    return {
        "photo": [item.photo for item in items],
        "text": [item.text for item in items],
        "attributes": [item.attributes + [""] * (widest - len(item.attributes)) for item in items],
    }
