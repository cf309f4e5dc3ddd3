"""The metrics of an embedding with 95 % bootstrap intervals, as metrics.json holds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfrec.evaluation.bootstrap import LEVEL, Interval, bootstrap_means
from tfrec.evaluation.embedding_metrics import Labels, clustering_metrics, knn_hits, retrieval_values, unit_rows
from tfrec.sampling import sample_rows

CLUSTERING = ("ari", "nmi", "purity")
RESAMPLES = 200  # of the clustering metrics; each is a table of counts


def summarize_embedding(
    vectors: np.ndarray,
    labels: Labels,
    *,
    gallery: np.ndarray | None = None,
    gallery_labels: Labels | None = None,
    ks: Sequence[int] = (1, 5, 10),
    neighbors: int = 5,
    max_rows: int = 10_000,
    seed: int = 0,
) -> dict[str, Interval]:
    """k-NN accuracy, recall@k, mAP@R, and ARI, NMI and purity of k-means, each with an interval over items.

    The protocol is that of `embedding_metrics.embedding_metrics`. The clusters are found once: the intervals say how much
    the figures would move with another sample of items, not with another start of k-means.

    Args:
        vectors: `[N, D]`, N >= 2.
        labels: `[N]`.
        gallery: `[G, D]` rows that vote for the k-NN accuracy; the other rows of `vectors` where None.
        gallery_labels: `[G]`.
        ks: cut-offs of recall.
        neighbors: voters.
        max_rows: queries and clustered rows at most.
        seed: of samples, of k-means and of the bootstrap.

    Returns:
        Name -> `{"value", "low", "high"}`.
    """
    unit, labels = unit_rows(vectors), np.asarray(labels)
    sides: dict[str, Any] = {"gallery": gallery, "gallery_labels": gallery_labels}
    hits = knn_hits(unit, labels, **sides, k=neighbors, max_queries=max_rows, seed=seed)
    values, _ = retrieval_values(unit, labels, ks=ks, max_queries=max_rows, seed=seed)
    values.pop("r_precision")
    summary = bootstrap_means({"knn_accuracy": hits.astype(float)}, seed=seed)
    if len(values["map@r"]):
        summary |= bootstrap_means(values, seed=seed)
    return summary | _clustering(unit, labels, max_rows, seed)


def _clustering(unit: np.ndarray, labels: np.ndarray, max_rows: int, seed: int) -> dict[str, Interval]:
    """ARI, NMI and purity of k-means with as many clusters as labels."""
    from sklearn.cluster import KMeans

    rng = np.random.default_rng(seed)
    rows = sample_rows(len(unit), max_rows, rng)
    names, codes = np.unique(labels[rows], return_inverse=True)
    clusters = KMeans(n_clusters=len(names), n_init=5, random_state=seed).fit_predict(unit[rows])
    point = clustering_metrics(codes, clusters)
    draws = [rng.integers(0, len(rows), len(rows)) for _ in range(RESAMPLES)]
    drawn = [clustering_metrics(codes[draw], clusters[draw]) for draw in draws]
    tail = 100 * (1 - LEVEL) / 2
    summary = {}
    for name in CLUSTERING:
        # An item drawn twice agrees with itself, which raises these metrics: only the spread of the draws is used.
        values = np.array([one[name] for one in drawn])
        low, high = point[name] + np.percentile(values - values.mean(), [tail, 100 - tail])
        summary[name] = {"value": point[name], "low": float(low), "high": min(1.0, float(high))}
    return summary
