"""How much effort a ScaNN search needs: recall against the exact search, measured over a grid of settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import product

import numpy as np
import tensorflow as tf

from tfrec.index.indexes import (
    MIN_SCANN_ITEMS,
    ExactIndex,
    RetrievalIndexError,
    ScannIndex,
    default_leaves,
    finer_leaves,
)
from tfrec.index.search import exact_top_k

FEW_LEAVES = (1, 2, 4, 8, 16)
LEAF_SHARES = (0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.35, 0.6, 1.0)  # of all leaves
REORDER = (24, 36, 50, 75, 100, 150, 250, 400, 800)
# Exact reordering reads a whole vector from anywhere in memory; scoring a code streams half a byte a
# dimension. Measured at 105,000 x 128, one reordered candidate costs about as much as 30 scored codes.
REORDER_COST = 30
FINER_FROM = 200_000  # items: at 105,000 a search of more leaves is no cheaper
WORTH_FINER = 1.25  # times what is left where many more leaves find at once: what a search must cost to build them
JITTER = 0.1
QUERIES = 2000


@dataclass
class IndexReport:
    """What was built and how well it finds; written into the version's manifest.

    Attributes:
        kind: `exact` or `scann`.
        items, dim: of the vectors.
        note: why the exact index stands in for ScaNN, when it does.
        recall: share of the exact top `k` that is found, mean over `queries`.
        settings: leaves, leaves searched and candidates reordered of ScaNN.
        query_source: where the queries of the measurement come from.
    """

    kind: str
    items: int
    dim: int
    note: str = ""
    k: int = 12
    recall: float = 1.0
    target: float = 0.98
    queries: int = 0
    query_source: str = ""
    settings: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict:
        """The report as plain JSON types."""
        return asdict(self)


def build_scann(
    vectors: np.ndarray,
    *,
    queries: np.ndarray | None = None,
    k: int = 12,
    target: float = 0.98,
    leaves: int | None = None,
    seed: int = 0,
    progress: Callable[[str], object] = lambda text: None,
) -> tuple[ExactIndex | ScannIndex, IndexReport]:
    """Build a ScaNN index with the least effort that reaches a recall, or an exact one where ScaNN does not
    fit.

    Args:
        vectors: finite item vectors float32 `[N, D]`.
        queries: real query vectors float32 `[Q, D]`; item vectors with noise where None.
        k, target: the recall@k to reach.
        leaves: partitions; where None, by the number of items, and many more where that makes a search cheaper.
        seed: of the sample of queries.
        progress: told what happens.

    Returns:
        The index and what was measured. Where no setting reaches the target, the exact index, with a note.

    Raises:
        RetrievalIndexError: fewer than one leaf, or more than one for 16 items.
    """
    items, dim = vectors.shape
    if leaves is not None and items >= MIN_SCANN_ITEMS and not 1 <= leaves <= items // 16:
        raise RetrievalIndexError(f"--leaves {leaves} must be 1 to {items // 16}, one for 16 of the {items} items")
    if items < MIN_SCANN_ITEMS:
        note = f"{items} items are too few for ScaNN; the exact index is used, which is as fast at this size"
        progress(note)
        return ExactIndex(vectors), IndexReport("exact", items, dim, note, k, target=target)
    sample, source = _sample_queries(vectors, queries, seed)
    exact = exact_top_k(sample, vectors, k)[0]

    def built(count: int) -> _Tuned:
        progress(f"building ScaNN of {items} x {dim} in {count} leaves")
        return _tuned(ScannIndex(vectors, leaves=count), sample, exact, k, target)

    best = built(leaves or default_leaves(items))
    finer = finer_leaves(items)
    if leaves is None and items >= FINER_FROM and best.cost > WORTH_FINER * (finer + best.reorder * REORDER_COST):
        best = _better(best, built(finer), target)
    report = IndexReport("scann", items, dim, "", k, best.recall, target, len(sample), source)
    if best.recall < target:
        best.index.release()
        report.kind, report.recall = "exact", 1.0
        report.note = f"ScaNN reached recall@{k} {best.recall:.4f} of {target} at its best; the exact index is used"
        progress(report.note)
        return ExactIndex(vectors), report
    index = best.index
    index.tune(k=k, leaves_to_search=best.leaves_to_search, reorder=best.reorder)
    report.settings = {"leaves": index.leaves, "leaves_to_search": best.leaves_to_search, "reorder": best.reorder}
    progress(f"ScaNN: recall@{k} {best.recall:.4f} against exact with {best.leaves_to_search} of {index.leaves} leaves")
    return index, report


def leaf_counts(leaves: int) -> list[int]:
    """How many of an index's leaves a search may look into: what is tried, rising."""
    shares = {max(1, round(share * leaves)) for share in LEAF_SHARES}
    return sorted(shares | {count for count in FEW_LEAVES if count < min(shares)})


def recall_against(found: np.ndarray, exact: np.ndarray) -> float:
    """Mean share of the exact rows `[Q, k]` that stand in the found rows `[Q, k]`."""
    return float((exact[:, :, None] == found[:, None, :]).any(axis=2).mean()) if exact.size else 1.0


def _sample_queries(vectors: np.ndarray, queries: np.ndarray | None, seed: int) -> tuple[np.ndarray, str]:
    random = np.random.default_rng(seed)
    if queries is not None and len(queries):
        chosen = random.choice(len(queries), min(QUERIES, len(queries)), replace=False)
        return np.ascontiguousarray(queries[np.sort(chosen)], np.float32), "query tower"
    chosen = vectors[random.integers(0, len(vectors), min(QUERIES, len(vectors)))]
    noise = random.normal(size=chosen.shape) * JITTER * chosen.std()
    return (chosen + noise).astype(np.float32), "item vectors with noise"


@dataclass(frozen=True)
class _Tuned:
    """An index with its cheapest settings, and what a search then costs: codes scored, or as much work."""

    index: ScannIndex
    leaves_to_search: int
    reorder: int
    recall: float

    @property
    def cost(self) -> float:
        """Of finding the leaves, scoring what is in them, and reordering the best."""
        return self.index.leaves + _search_cost(self.index, self.leaves_to_search, self.reorder)


def _search_cost(index: ScannIndex, leaves_to_search: int, reorder: int) -> float:
    return leaves_to_search * index.items / index.leaves + reorder * REORDER_COST


def _better(coarse: _Tuned, fine: _Tuned, target: float) -> _Tuned:
    """The cheaper index of those with `target` recall, or the one with more; the other is freed."""
    coarse_first = (coarse.recall < target, coarse.cost) <= (fine.recall < target, fine.cost)
    best, other = (coarse, fine) if coarse_first else (fine, coarse)
    other.index.release()
    return best


def _tuned(index: ScannIndex, queries: np.ndarray, exact: np.ndarray, k: int, target: float) -> _Tuned:
    """The cheapest settings with `target` recall, tried in order of rising cost; the best recall where none has it.

    Cost is counted in codes scored, not in seconds, so that two exports of a model choose alike. Settings
    that cannot succeed, because another with at least the same of both has failed, are skipped.
    """

    @tf.function(
        input_signature=[
            tf.TensorSpec(queries.shape),
            tf.TensorSpec([], tf.int32),
            tf.TensorSpec([], tf.int32),
        ]
    )
    def search(batch: tf.Tensor, leaves_to_search: tf.Tensor, reorder: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return index.search_with(batch, k, leaves_to_search, reorder)

    reorders = [min(count, index.items) for count in REORDER if count >= 2 * k] or [min(2 * k, index.items)]
    grid = sorted(product(leaf_counts(index.leaves), reorders), key=lambda pair: _search_cost(index, *pair))
    best, best_recall = grid[-1], -1.0
    failed: list = []
    for pair in grid:
        if any(pair[0] <= other[0] and pair[1] <= other[1] for other in failed):
            continue
        scores, rows = search(queries, *map(tf.constant, pair))
        found = np.where(np.isnan(scores), -1, rows)  # short rows are filled with item 0 and NaN
        recall = recall_against(found, exact)
        if recall >= target:
            return _Tuned(index, *pair, recall)
        failed.append(pair)
        if recall > best_recall:
            best, best_recall = pair, recall
    return _Tuned(index, *best, best_recall)
