"""How well two sides of the same items find each other, whatever the sides are."""

from __future__ import annotations

import numpy as np

from tfrec.evaluation.bootstrap import exact

TOP = (1, 5)
BLOCK = 1 << 26  # similarities that are held at once


def match_ranks(similarity: np.ndarray, first: int = 0) -> np.ndarray:
    """The place of each query's own target, from 1: float64 `[Q]`.

    Args:
        similarity: `[Q, N]`, the target of row i in column `first` + i. Equal scores share their mean place, so that a model
            that gives all the same score is no better than chance, and what is no number counts as above.
        first: column of the first row's target.
    """
    own = np.diagonal(similarity, first)[:, None]
    equal = (similarity == own).sum(1)
    above = (~(similarity <= own)).sum(1)
    return 1.0 + above + np.maximum(equal - 1, 0) / 2.0


def match_metrics(queries: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """Per-query metrics of finding `targets` `[N, D]` by `queries` `[N, D]`, matched row by row: name -> `[N]`."""
    rows = max(1, BLOCK // max(1, len(targets)))
    blocks = [match_ranks(queries[start : start + rows] @ targets.T, start) for start in range(0, len(queries), rows)]
    ranks = np.concatenate(blocks) if blocks else np.zeros(0)
    return {**{f"top@{k}": (ranks <= k).astype(float) for k in TOP}, "mrr": 1.0 / ranks}


def match_both_ways(left: np.ndarray, right: np.ndarray, sides: tuple[str, str]) -> dict[str, np.ndarray]:
    """`match_metrics` in both directions.

    Args:
        left: `[N, D]`, the first of the `sides`.
        right: `[N, D]`, the second.
        sides: what they are called.

    Returns:
        `<side that is found>_<metric>` -> `[N]`.
    """
    found = {f"{sides[0]}_{name}": values for name, values in match_metrics(right, left).items()}
    return found | {f"{sides[1]}_{name}": values for name, values in match_metrics(left, right).items()}


def chance(count: int, sides: tuple[str, str]) -> dict[str, dict[str, float]]:
    """What a random order of `count` candidates reaches on average, by the names of `match_both_ways`."""
    mrr = float((1.0 / np.arange(1, count + 1)).mean())
    values = {f"top@{k}": min(1.0, k / count) for k in TOP} | {"mrr": mrr}
    return {f"{side}_{name}": exact(value) for side in sides for name, value in values.items()}
