"""How well vectors separate labels: by neighbours (k-NN, recall@k, mAP@R) and by clusters (ARI, NMI, purity).

Pure NumPy and scikit-learn, cosine similarity throughout. Work is done in row blocks, so memory stays
bounded; what is too large to do on every row is done on a seeded sample whose size is part of the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tfrec.sampling import sample_rows

Labels = Sequence | np.ndarray  # any hashable kind, one per row

BLOCK_CELLS = 32_000_000  # similarities held at once: 128 MB
NOISE = -1  # the cluster that DBSCAN, HDBSCAN and OPTICS give to outliers


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Return float32 rows of length 1; a zero row stays zero.

    Raises:
        ValueError: not a matrix, or it holds NaN or infinities.
    """
    vectors = np.asarray(vectors, np.float32)
    if vectors.ndim != 2:
        raise ValueError(f"vectors has shape {vectors.shape}; give one row per item, [N, D]")
    if not np.isfinite(vectors).all():
        row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
        raise ValueError(f"vectors holds NaN or infinity, first in row {row}; the model that made it has diverged")
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0.0)
    vectors = vectors / np.where(largest > 0.0, largest, 1.0)  # squares of large values would overflow
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0.0, length, 1.0)


def nearest(
    queries: np.ndarray, gallery: np.ndarray, k: int, *, itself: np.ndarray | None = None
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Find each query's k most similar gallery rows, block by block.

    Args:
        queries: unit rows `[Q, D]`.
        gallery: unit rows `[G, D]`.
        k: neighbours per query, cut to what the gallery holds.
        itself: `[Q]` gallery row of each query, to be left out; None when queries are not in the gallery.

    Yields:
        `(rows, neighbours [block, k], similarities [block, k])`, best first.
    """
    k = min(k, len(gallery) - (itself is not None))
    if k < 1:
        raise ValueError(f"the gallery has {len(gallery)} rows; at least one other row per query is needed")
    block = max(1, BLOCK_CELLS // len(gallery))
    for start in range(0, len(queries), block):
        rows = slice(start, min(start + block, len(queries)))
        similar = queries[rows] @ gallery.T
        here = np.arange(len(similar))[:, None]
        if itself is not None:
            similar[here[:, 0], itself[rows]] = -np.inf
        best = (
            np.argpartition(similar, -k, axis=1)[:, -k:]
            if k < len(gallery)
            else np.tile(np.arange(k), (len(similar), 1))
        )
        best = best[here, np.argsort(-similar[here, best], axis=1, kind="stable")]
        yield rows, best, similar[here, best]


def knn_hits(
    vectors: np.ndarray,
    labels: Labels,
    *,
    gallery: np.ndarray | None = None,
    gallery_labels: Labels | None = None,
    k: int = 5,
    max_queries: int | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Which rows' labels win the vote of their k nearest neighbours; ties go to the nearer neighbour.

    Args:
        vectors: `[N, D]`.
        labels: `[N]`.
        gallery: `[G, D]` labelled rows that vote; the other rows of `vectors` (leave-one-out) when None.
        gallery_labels: `[G]`.
        k: voters.
        max_queries: ask for a seeded sample of this many rows when there are more; None asks for all.
        seed: of that sample.

    Returns:
        bool `[Q]`; their mean is the k-NN accuracy.
    """
    queries, codes, gallery, gallery_codes, itself = _sides(vectors, labels, gallery, gallery_labels)
    chosen = sample_rows(len(queries), max_queries, seed)
    if len(chosen) < len(queries):
        queries, codes, itself = queries[chosen], codes[chosen], None if itself is None else itself[chosen]
    right = np.empty(len(queries), bool)
    for rows, neighbours, _ in nearest(queries, gallery, k, itself=itself):
        right[rows] = _vote(gallery_codes[neighbours]) == codes[rows]
    return right


def retrieval_metrics(
    vectors: np.ndarray,
    labels: Labels,
    *,
    gallery: np.ndarray | None = None,
    gallery_labels: Labels | None = None,
    ks: Sequence[int] = (1, 5, 10),
    max_queries: int = 10_000,
    seed: int = 0,
) -> dict[str, float]:
    """Recall@k and mAP@R of label retrieval.

    recall@k is the share of queries with a row of their own label among the first k. mAP@R is Musgrave et
    al., A Metric Learning Reality Check, ECCV 2020: mean over queries of `1/R * sum of precision@i at each
    correct i <= R`, R being how many rows of its label a query could find. Queries that have none to find are
    left out and counted.

    Args:
        vectors: `[N, D]` queries, and the gallery too (each without itself) when `gallery` is None.
        labels: `[N]`.
        gallery: `[G, D]` rows to find.
        gallery_labels: `[G]`.
        ks: cut-offs of recall.
        max_queries: a seeded sample of this many queries is used when there are more; they search the whole
            gallery.
        seed: of that sample.

    Returns:
        `recall@k` for each k, `map@r`, `r_precision`, `queries` (used) and `queries_without_match`.
    """
    sides: dict[str, Any] = {"gallery": gallery, "gallery_labels": gallery_labels}
    values, lost = retrieval_values(vectors, labels, **sides, ks=ks, max_queries=max_queries, seed=seed)
    queries = len(values["map@r"])
    means = {name: float(value.mean()) if queries else 0.0 for name, value in values.items()}
    return {**means, "queries": queries, "queries_without_match": lost}


def retrieval_values(
    vectors: np.ndarray,
    labels: Labels,
    *,
    gallery: np.ndarray | None = None,
    gallery_labels: Labels | None = None,
    ks: Sequence[int] = (1, 5, 10),
    max_queries: int = 10_000,
    seed: int = 0,
) -> tuple[dict[str, np.ndarray], int]:
    """What `retrieval_metrics` averages: `recall@k`, `map@r` and `r_precision` of each query float64 `[Q]`, and how many
    rows were left out because nothing of their label is to be found.
    """
    queries, codes, gallery, gallery_codes, itself = _sides(vectors, labels, gallery, gallery_labels)
    sizes = np.bincount(gallery_codes, minlength=int(codes.max()) + 1)[codes] - (itself is not None)
    chosen = np.flatnonzero(sizes > 0)
    lost = len(queries) - len(chosen)
    chosen = sample_rows(chosen, max_queries, seed)
    names = [*(f"recall@{k}" for k in ks), "map@r", "r_precision"]
    values = {name: np.empty(len(chosen)) for name in names}
    if not len(chosen):
        return values, lost
    sizes, codes = sizes[chosen], codes[chosen]
    itself = None if itself is None else itself[chosen]
    for rows, neighbours, _ in nearest(queries[chosen], gallery, max(*ks, int(sizes.max())), itself=itself):
        correct = gallery_codes[neighbours] == codes[rows, None]  # (block, k)
        for k in ks:
            values[f"recall@{k}"][rows] = correct[:, :k].any(axis=1)
        rank = np.arange(1, correct.shape[1] + 1)
        correct &= rank <= sizes[rows, None]
        values["map@r"][rows] = (correct.cumsum(axis=1) / rank * correct).sum(axis=1) / sizes[rows]
        values["r_precision"][rows] = correct.sum(axis=1) / sizes[rows]
    return values, lost


def clustering_metrics(labels: Labels, clusters: Labels, *, pure_from: float = 1.0) -> dict[str, float]:
    """Compare clusters with labels.

    Args:
        labels: `[N]` true labels.
        clusters: `[N]` cluster numbers; -1 is noise.
        pure_from: a cluster is pure when its commonest label has at least this share of it.

    Returns:
        `ari` and `nmi` (noise counts as one more cluster), `purity` (share of clustered rows that carry their
        cluster's commonest label), `pure_clusters` (share of clusters that are pure), `clusters`, and `noise`
        (share of rows in none).
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    codes, numbers = _codes(labels), np.asarray(clusters)
    clustered: np.ndarray = numbers != NOISE
    result = {
        "ari": float(adjusted_rand_score(codes, numbers)),
        "nmi": float(normalized_mutual_info_score(codes, numbers)),
        "purity": 0.0,
        "pure_clusters": 0.0,
        "clusters": len(np.unique(numbers[clustered])),
        "noise": float(1.0 - clustered.mean()),
    }
    if clustered.any():
        table = contingency_matrix(codes[clustered], numbers[clustered])  # (labels, clusters)
        result["purity"] = float(table.max(axis=0).sum() / table.sum())
        result["pure_clusters"] = float((table.max(axis=0) >= pure_from * table.sum(axis=0)).mean())
    return result


def silhouette(vectors: np.ndarray, groups: Labels, *, max_rows: int = 5_000, seed: int = 0) -> float:
    """Mean silhouette coefficient by cosine distance, on a seeded sample of at most `max_rows`; noise is left
    out.

    Returns:
        -1..1; NaN where the sample has fewer than two groups, or as many groups as rows.
    """
    from sklearn.metrics import silhouette_score

    codes = _codes(groups)
    rows = sample_rows(np.flatnonzero(np.asarray(groups) != NOISE), max_rows, seed)
    if not 2 <= len(np.unique(codes[rows])) < len(rows):
        return float("nan")
    return float(silhouette_score(unit_rows(np.asarray(vectors)[rows]), codes[rows], metric="cosine"))


def _codes(labels: Labels) -> np.ndarray:
    """Labels of any type as 0..C-1."""
    return np.unique(np.asarray(labels), return_inverse=True)[1]


def _sides(
    vectors: np.ndarray, labels: Labels, gallery: np.ndarray | None, gallery_labels: Labels | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Unit rows and shared label codes of queries and gallery, and each query's own gallery row (None if not
    in it).
    """
    queries = unit_rows(vectors)
    _same_length("vectors", queries, "labels", labels)
    if gallery is None:
        codes = _codes(labels)
        return queries, codes, queries, codes, np.arange(len(queries))
    gallery = unit_rows(gallery)
    _same_length("gallery", gallery, "gallery_labels", gallery_labels)
    codes = _codes(np.concatenate([np.asarray(labels), np.asarray(gallery_labels)]))
    return queries, codes[: len(queries)], gallery, codes[len(queries) :], None


def _same_length(name: str, rows: Labels, other: str, values: Labels | None) -> None:
    if values is None or len(rows) != len(values):
        count = "is missing" if values is None else f"has {len(values)} values"
        raise ValueError(f"{name} has {len(rows)} rows but {other} {count}; give one label per row")


def _vote(neighbours: np.ndarray) -> np.ndarray:
    """Commonest label of each row `[B, k]` -> `[B]`; of equally common ones, that of the nearest
    neighbour.
    """
    votes = (neighbours[:, :, None] == neighbours[:, None, :]).sum(axis=2)  # (B, k): votes of each neighbour's label
    return neighbours[np.arange(len(neighbours)), votes.argmax(axis=1)]
