"""Ranking metrics over the whole catalogue: pure functions of ranked lists and targets.

With `hit_i` = 1 where the i-th recommended item (from 1) is one of a user's `T` distinct targets:

* precision@k = hits in the first k / k (a list shorter than k is not forgiven)
* recall@k = hits in the first k / T
* hit_rate@k = 1 if there is any hit in the first k
* ndcg@k = sum of hit_i / log2(i + 1), divided by that of the best list, which has min(T, k) hits in front
* map@k = sum of precision@i * hit_i over i <= k, divided by min(T, k), as Kaggle's MAP@12 is computed
* mrr = 1 / position of the first hit in the list as given, 0 without one

Each is averaged over users. Two describe the lists, not their hits: coverage@k is the share of the catalogue
found in any list's first k, diversity@k the mean of 1 - cosine over the pairs of items in a list's first k.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.processor import cores
from pipelines.publish import write_whole, written_whole
from tfrec.csr import Csr
from tfrec.evaluation.bootstrap import Interval, bootstrap_means, jackknife_distinct
from tfrec.evaluation.protocol import Protocol

KS = (5, 10, 12, 20, 50)
CHUNK_USERS = 16_384
CHUNK_CELLS = 16_000_000  # floats of item vectors gathered at once by all threads: 64 MB

Summary = dict[str, Interval]


def per_user(ranked: np.ndarray, targets: Csr, ks: Sequence[int] = KS) -> dict[str, np.ndarray]:
    """Compute every hit metric of every user.

    Args:
        ranked: int `[U, K]`, distinct item indices, best first, -1 = no item.
        targets: `U` rows of distinct items, at least one each.
        ks: cut-offs, each at most `K`.

    Returns:
        Name (`recall@20`, ..., `mrr`) -> float64 `[U]`.

    Raises:
        ValueError: shapes that don't fit, an item twice in a list, or a user without targets.
    """
    _check(ranked, targets, ks)
    parts = []
    for start in range(0, len(ranked), CHUNK_USERS):
        part = targets.slice(start, start + CHUNK_USERS)
        hits = part.contains(ranked[start : start + CHUNK_USERS])
        parts.append(_from_hits(hits, part.lengths, ks))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _from_hits(hits: np.ndarray, n_targets: np.ndarray, ks: Sequence[int]) -> dict[str, np.ndarray]:
    """The metrics of a chunk of users from `hits` bool `[U, K]` and their numbers of targets `[U]`."""
    position = np.arange(1, hits.shape[1] + 1)
    found = np.cumsum(hits, axis=1)  # [U, K], hits up to each position
    gain = np.cumsum(hits / np.log2(position + 1), axis=1)
    best_gain = np.cumsum(1 / np.log2(position + 1))  # of 1, 2, ... hits in front
    precision_sum = np.cumsum(hits * (found / position), axis=1)
    values = {}
    for k in ks:
        reachable = np.minimum(n_targets, k)
        values[f"precision@{k}"] = found[:, k - 1] / k
        values[f"recall@{k}"] = found[:, k - 1] / n_targets
        values[f"hit_rate@{k}"] = (found[:, k - 1] > 0).astype(np.float64)
        values[f"ndcg@{k}"] = gain[:, k - 1] / best_gain[reachable - 1]
        values[f"map@{k}"] = precision_sum[:, k - 1] / reachable
    values["mrr"] = np.where(hits.any(axis=1), 1 / (1 + hits.argmax(axis=1)), 0.0)
    return values


def recall_of(ranked: np.ndarray, targets: Csr, chosen: np.ndarray, ks: Sequence[int] = KS) -> dict[str, np.ndarray]:
    """Recall counted over some of the targets only, for the users who have any of them.

    Args:
        ranked: int `[U, K]`.
        targets: `U` rows, `T` targets in all.
        chosen: bool `[T]`, the targets that count.

    Returns:
        `recall@k` -> float64 `[users with a chosen target]`.
    """
    part = targets.where(chosen)
    users = part.lengths > 0
    values = per_user(ranked[users], part.take(users), ks)
    return {name: value for name, value in values.items() if name.startswith("recall@")}


def diversity(ranked: np.ndarray, vectors: np.ndarray, ks: Sequence[int] = KS) -> dict[str, np.ndarray]:
    """Intra-list diversity of every user's list: mean of 1 - cosine over the pairs in its first k items.

    Args:
        ranked: int `[U, K]`, -1 = no item.
        vectors: float `[N, D]`, one vector an item, of any length.

    Returns:
        `diversity@k` -> float64 `[U]`; NaN for a list with fewer than two items.
    """
    vectors = np.asarray(vectors, np.float32)
    # One more row of zeros for -1, "no item": its cosine with everything is 0, as that of a zero vector.
    vectors = np.concatenate([vectors, np.zeros((1, vectors.shape[1]), np.float32)])
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(norm > 0, norm, 1)
    square = norm[:, 0] > 0  # squared length of the unit vectors: 1 or 0
    values = {f"diversity@{k}": np.full(len(ranked), np.nan) for k in ks}
    step = max(1, CHUNK_CELLS // (max(ks) * vectors.shape[1] * cores()))

    def measure(start: int) -> None:
        rows = slice(start, start + step)
        listed = unit[ranked[rows, : max(ks)]]  # [u, K, D]
        squares = np.cumsum(square[ranked[rows, : max(ks)]], axis=1)
        present = np.cumsum(ranked[rows, : max(ks)] >= 0, axis=1)
        total, done = np.zeros((len(listed), vectors.shape[1])), 0
        for k in sorted(ks):
            total += listed[:, done:k].sum(axis=1)
            done = k
            # The cosines of all pairs add up to (|sum of the unit vectors|^2 - sum of their squares) / 2.
            both = np.square(total).sum(axis=1) - squares[:, k - 1]
            pairs = present[:, k - 1] * (present[:, k - 1] - 1.0)
            enough = pairs > 0
            values[f"diversity@{k}"][rows][enough] = 1 - both[enough] / pairs[enough]

    with ThreadPoolExecutor(cores()) as pool:  # gathering and adding up, NumPy lets other threads run
        list(pool.map(measure, range(0, len(ranked), step)))
    return values


def coverage(ranked: np.ndarray, n_items: int, k: int) -> Interval:
    """Share of the catalogue that occurs in any list's first k (interval: jackknife over users)."""
    return jackknife_distinct(ranked[:, :k], n_items)


def summarize(
    ranked: np.ndarray,
    targets: Csr,
    *,
    n_items: int,
    vectors: np.ndarray | None = None,
    ks: Sequence[int] = KS,
    resamples: int = 1000,
    seed: int = 0,
) -> Summary:
    """All metrics, averaged over users, with 95 % bootstrap intervals over users.

    Args:
        ranked: int `[U, K]`, distinct item indices, best first, -1 = no item.
        targets: `U` rows of distinct items, at least one each.
        n_items: size of the catalogue, for coverage.
        vectors: float `[N, D]` to measure diversity with; None leaves diversity out.
        ks: cut-offs.
        resamples: bootstrap samples.
        seed: of the bootstrap.

    Returns:
        Name -> `{"value", "low", "high"}`.
    """
    options = {"resamples": resamples, "seed": seed}
    result = bootstrap_means(per_user(ranked, targets, ks), **options)
    result |= {f"coverage@{k}": coverage(ranked, n_items, k) for k in ks}
    if vectors is not None:  # apart: hardly two users share their diversity, which would slow the others down
        result |= bootstrap_means(diversity(ranked, vectors, ks), **options)
    return result


def summarize_protocol(
    protocol: Protocol,
    ranked: np.ndarray,
    *,
    vectors: np.ndarray | None = None,
    ks: Sequence[int] = KS,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[Summary, dict[str, dict[str, Any]]]:
    """Make the `metrics` and `cohorts` entries of metrics.json for the lists of one model or baseline.

    Args:
        protocol: who is evaluated on what.
        ranked: int `[U, K]`, a list for each of the protocol's users, cold ones included.
        vectors, ks, resamples, seed: as in `summarize`.

    Returns:
        The summary over warm users (over all, where nobody is warm), and for each cohort its `users`,
        `targets` and `recall@k`; a user cohort counts all their targets, a target cohort only its own.
    """
    options: dict[str, Any] = {"resamples": resamples, "seed": seed}
    main = protocol.warm if protocol.warm.any() else np.ones(len(ranked), bool)
    metrics = summarize(
        ranked[main], protocol.targets.take(main), n_items=protocol.n_items, vectors=vectors, ks=ks, **options
    )
    rows = protocol.targets.rows
    masks = {name: mask[rows] for name, mask in protocol.user_cohorts().items()} | protocol.target_cohorts()
    cohorts = {}
    for name, chosen in masks.items():
        recall = bootstrap_means(recall_of(ranked, protocol.targets, chosen, ks), **options)
        counts = {"users": len(np.unique(rows[chosen])), "targets": int(chosen.sum())}
        cohorts[name] = counts | recall
    return metrics, cohorts


def write_per_user(
    path: Path, protocol: Protocol, ranked: np.ndarray, user_ids: Sequence[str], ks: Sequence[int] = KS
) -> None:
    """Write every hit metric of every user as parquet, whole or not at all: what two models are compared by in pairs.

    Args:
        path: the file; columns `user_id`, `history` (known events) and the metrics' names.
        protocol: who is evaluated on what.
        ranked: int `[U, K]`, the model's lists.
        user_ids: ids of all users of the dataset, by user index.
        ks: cut-offs.
    """
    import pandas as pd

    columns = {"user_id": [user_ids[user] for user in protocol.users], "history": protocol.history.lengths}
    with written_whole(path, shared=True) as stream:
        pd.DataFrame(columns | per_user(ranked, protocol.targets, ks)).to_parquet(stream, index=False)


def write_metrics(
    path: str | Path,
    *,
    protocol: dict[str, Any],
    metrics: Summary,
    baselines: dict[str, Summary],
    cohorts: dict[str, Any],
    **more: Any,
) -> dict[str, Any]:
    """Write metrics.json, whole or not at all.

    Args:
        path: the file.
        protocol: who was evaluated on what (`Protocol.describe()` and whatever else the run knows).
        metrics: the model's summary.
        baselines: name -> summary with the same keys.
        cohorts: name -> counts and recall of the model.
        **more: further top-level entries, e.g. `oracle` (the best reachable values of generated data).

    Returns:
        The content, as a reader of the file gets it.
    """
    path = Path(path)
    content = {"protocol": protocol, "metrics": metrics, "baselines": baselines, "cohorts": cohorts, **more}
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text, shared=True)
    return json.loads(text)


def _check(ranked: np.ndarray, targets: Csr, ks: Sequence[int]) -> None:
    if ranked.ndim != 2 or len(ranked) != len(targets) or len(ranked) == 0:
        raise ValueError(f"ranked {ranked.shape} must have a row for each of the {len(targets)} users, at least one")
    if not ks or min(ks) < 1 or max(ks) > ranked.shape[1]:
        raise ValueError(f"ks={tuple(ks)} must lie between 1 and the {ranked.shape[1]} items of a list")
    if (targets.lengths == 0).any():
        raise ValueError(f"user row {int(np.argmin(targets.lengths))} has no targets; leave such users out")
    for start in range(0, len(ranked), CHUNK_USERS):
        listed = np.sort(ranked[start : start + CHUNK_USERS], axis=1)
        twice = ((listed[:, 1:] == listed[:, :-1]) & (listed[:, 1:] >= 0)).any(axis=1)
        if twice.any():
            raise ValueError(f"ranked row {start + int(np.argmax(twice))} holds an item twice; lists must be distinct")
