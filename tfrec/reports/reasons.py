"""The report's word on why: which purchase each recommendation owes most of its score to, and where its text looks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tfrec.csr import Csr
from tfrec.histories import to_gaps
from tfrec.reports.attention_maps import top_patches

if TYPE_CHECKING:
    import pandas as pd

SHOWN_REGIONS = 3
STANDS_OUT = 1.5  # times the attention that a patch would have if all had the same


def histories_without(history: np.ndarray, days_ago: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A history, and the same without each of its purchases.

    Args:
        history: int32 `[L]` item rows, -1 padded on the left.
        days_ago: float32 `[L]`.

    Returns:
        Rows int32 `[1 + L, L]` and days `[1 + L, L]`: the whole history first, then without place 0, 1, ...; what is left
        is right-aligned again.
    """
    length = len(history)
    rows, days = np.tile(history, (1 + length, 1)), np.tile(days_ago, (1 + length, 1))
    rows[np.arange(1, 1 + length), np.arange(length)] = -1
    order = np.argsort(rows >= 0, axis=1, kind="stable")
    return np.take_along_axis(rows, order, 1), np.take_along_axis(days, order, 1)


def add_reasons(
    examples: list[dict[str, Any]],
    inputs: dict[str, np.ndarray],
    rows: np.ndarray,
    *,
    queries_of: Callable[[dict[str, np.ndarray]], np.ndarray],
    bonus_of: Callable[[np.ndarray, np.ndarray], tuple[Csr, np.ndarray] | None],
    vectors: np.ndarray,
    titles: pd.Series,
) -> None:
    """Name, in each example, the purchase without which a recommendation would lose most of its score.

    The score is the whole one: the product of the vectors, and what the purchases themselves add.

    Args:
        examples: as `tfrec.examples.sample_examples` makes them; gains "reasons", a line for each recommended item.
        inputs: `history`, `days_ago`, `user` and `user_fields` of all evaluated customers.
        rows: the examples' customers among them.
        queries_of: such inputs with `gaps` -> query vectors `[B, D]`.
        bonus_of: `history` and `days_ago` `[B, L]` -> what these add to items' scores, a `Csr` of `B` rows and the value of
            each entry; None: nothing.
        vectors: candidate vectors `[N, D]`.
        titles: what each item is called.
    """
    left_out = [histories_without(inputs["history"][row], inputs["days_ago"][row]) for row in rows]
    history, days = (np.concatenate(part) for part in zip(*left_out))
    alike = {name: np.repeat(inputs[name][rows], len(left_out[0][0]), 0) for name in ("user", "user_fields")}
    queries = queries_of({"history": history, "days_ago": days, "gaps": to_gaps(days), **alike})
    for example, row, own, (purchases, ago) in zip(examples, rows, np.split(queries, len(rows)), left_out):
        bought = inputs["history"][row]
        items = np.array([item for item, _ in example["recommended"]], np.int64)
        scores = own @ vectors[items].T + _bonus_of_items(bonus_of(purchases, ago), items, len(own))  # (1 + L, K)
        gains = np.where(bought[:, None] >= 0, scores[:1] - scores[1:], -np.inf)
        best = np.argmax(gains, 0)
        example["reasons"] = [
            f"like {titles[bought[place]]}" if gains[place, at] > 0 else "" for at, place in enumerate(best)
        ]


def _bonus_of_items(bonus: tuple[Csr, np.ndarray] | None, items: np.ndarray, histories: int) -> np.ndarray:
    """What each history's purchases add to the `items` `[K]`: float32 `[histories, K]`."""
    added = np.zeros((histories, len(items)), np.float32)
    if bonus is not None:
        entry, place = np.nonzero(bonus[0].items[:, None] == items)
        np.add.at(added, (bonus[0].rows[entry], place), bonus[1][entry])
    return added


def add_regions(
    examples: list[dict[str, Any]], has_photo: np.ndarray, attention_of: Callable[[np.ndarray], np.ndarray | None]
) -> None:
    """Name, in each example, the parts of each recommended item's photo that its words and attributes attend to most.

    Args:
        examples: as `add_reasons` takes them; gains "regions", for each recommended item a list of
            `[left, top, width, height]` as shares of the photo, the most attended first; none where nothing stands out.
        has_photo: bool `[N]`, by item row.
        attention_of: item rows `[n]` -> weights `[n, h, w]`, or None where the model has no such attention.
    """
    recommended = {item for example in examples for item, _ in example["recommended"]}
    rows = np.array(sorted(item for item in recommended if has_photo[item]), np.int64)
    weights = attention_of(rows)
    if weights is None:
        return
    regions = {row: regions_of(weight) for row, weight in zip(rows.tolist(), weights)}
    for example in examples:
        example["regions"] = [regions.get(item, []) for item, _ in example["recommended"]]


def regions_of(weights: np.ndarray) -> list[list[float]]:
    """The patches of `weights` `[h, w]` that stand out: `[left, top, width, height]` as shares of the whole."""
    best = [patch for patch in top_patches(weights, SHOWN_REGIONS) if patch["share"] > STANDS_OUT * weights.mean()]
    return [[round(patch[side], 4) for side in ("left", "top", "width", "height")] for patch in best]
