"""Clusterings with a parameter search: k-means, agglomerative, DBSCAN, HDBSCAN and OPTICS.

The search never looks at labels: the setting with the best silhouette wins, rows left as noise counting 0.
Labels, where there are any, only grade the result. Each algorithm has a limit of rows, because most of them
need time or memory that grows with the square.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfrec.analysis.projection import reduce
from tfrec.evaluation.embedding_metrics import NOISE, Labels, clustering_metrics, silhouette
from tfrec.sampling import sample_rows

log = logging.getLogger("tfrec")

Settings = Iterator[tuple[dict[str, Any], np.ndarray]]


@dataclass
class Clustering:
    """One algorithm with one setting.

    Attributes:
        method: name of the algorithm.
        params: the setting.
        rows: `[n]` rows of the vectors that were clustered, ascending.
        clusters: `[n]` cluster of each; -1 is noise.
        metrics: `silhouette` (of the clustered rows), `score` (the same with noise as 0), `clusters`,
            `noise`, `seconds`, and where rows have labels, of those rows, `ari`, `nmi`, `purity`, `pure_clusters`.
        chosen: whether it is its algorithm's best by silhouette.
    """

    method: str
    params: dict[str, Any]
    rows: np.ndarray
    clusters: np.ndarray
    metrics: dict[str, float] = field(default_factory=dict)
    chosen: bool = False


def search(
    vectors: np.ndarray,
    labels: Labels | None = None,
    *,
    methods: tuple[str, ...] | None = None,
    limits: dict[str, int] | None = None,
    seed: int = 0,
) -> list[Clustering]:
    """Try every algorithm's settings and mark each one's best.

    Args:
        vectors: `[N, D]`.
        labels: `[N]`, "" for none, or None; used to evaluate, not to choose.
        methods: names of `ALGORITHMS`; all when None.
        limits: rows an algorithm may use, over `LIMITS`.
        seed: of samples and random starts.

    Returns:
        All settings tried, in order.

    Raises:
        ValueError: an unknown method.
    """
    found: list[Clustering] = []
    for method in methods or tuple(ALGORITHMS):
        if method not in ALGORITHMS:
            raise ValueError(f"clustering {method!r} is unknown; use one of {list(ALGORITHMS)}")
        log.info("clustering by %s", method)
        rows = sample_rows(len(vectors), (limits or {}).get(method, LIMITS[method]), seed)
        reduced = reduce(vectors[rows])
        known = None if labels is None else np.asarray(labels)[rows]
        tried = []
        start = time.perf_counter()
        for params, clusters in ALGORITHMS[method](reduced, seed):
            metrics = _grade(reduced, clusters, known, seed)
            metrics["seconds"] = time.perf_counter() - start
            tried.append(Clustering(method, params, rows, clusters, metrics))
            start = time.perf_counter()
        best = max(tried, key=_rank, default=None)
        if best is not None and best.metrics["score"] > -1.0:
            best.chosen = True
        found += tried
    return found


def best_of(clusterings: list[Clustering]) -> Clustering | None:
    """The best of the chosen ones by score."""
    return max((one for one in clusterings if one.chosen), key=_rank, default=None)


def _rank(one: Clustering) -> float:
    return one.metrics["score"]


def _grade(reduced: np.ndarray, clusters: np.ndarray, labels: np.ndarray | None, seed: int) -> dict[str, float]:
    clustered = clusters != NOISE
    score = silhouette(reduced, clusters, max_rows=SILHOUETTE_ROWS, seed=seed)
    metrics = {
        "silhouette": score,
        "score": -1.0 if np.isnan(score) else score * float(clustered.mean()),
        "clusters": len(np.unique(clusters[clustered])),
        "noise": float(1 - clustered.mean()),
    }
    if labels is not None and (known := labels.astype(str) != "").any():
        evaluated = clustering_metrics(labels[known], clusters[known])
        metrics |= {name: evaluated[name] for name in ("ari", "nmi", "purity", "pure_clusters")}
    return metrics


def _counts(reduced: np.ndarray) -> list[int]:
    """Numbers of clusters to try: small ones, up to a fifth of the rows, never more than there are different rows."""
    most = min(max(2, len(reduced) // 5), len(np.unique(reduced.round(6), axis=0)))
    return [k for k in (2, 5, 10, 15, 20, 30, 50, 100, 200) if k <= most] or [1]


def _kmeans(reduced: np.ndarray, seed: int) -> Settings:
    from sklearn.cluster import KMeans, MiniBatchKMeans

    for k in _counts(reduced):
        if len(reduced) > 10_000:
            model = MiniBatchKMeans(k, n_init=3, batch_size=4096, random_state=seed)
        else:
            model = KMeans(k, n_init=3, random_state=seed)
        yield {"clusters": k}, model.fit_predict(reduced)


def _agglomerative(reduced: np.ndarray, seed: int) -> Settings:
    from scipy.cluster.hierarchy import cut_tree, linkage

    for method in ("ward", "average"):
        tree = linkage(reduced, method)  # once; every number of clusters is a cut through it
        for k in _counts(reduced):
            yield {"linkage": method, "clusters": k}, cut_tree(tree, k)[:, 0]


def _dbscan(reduced: np.ndarray, seed: int) -> Settings:
    from sklearn.cluster import DBSCAN
    from sklearn.neighbors import NearestNeighbors

    for least in (5, 15):
        neighbours = min(least, len(reduced) - 1)
        reach = NearestNeighbors(n_neighbors=neighbours).fit(reduced).kneighbors()[0][:, -1]
        for quantile in (0.2, 0.4, 0.6, 0.8, 0.95):  # the knee of the k-distance curve lies among them
            eps = float(max(np.quantile(reach, quantile), 1e-6))
            params = {"min_samples": least, "eps": round(eps, 4), "quantile": quantile}
            yield params, DBSCAN(eps=eps, min_samples=least).fit_predict(reduced)


def _hdbscan(reduced: np.ndarray, seed: int) -> Settings:
    from sklearn.cluster import HDBSCAN

    for size in (5, 15, 50):
        if size <= len(reduced) // 2:
            model = HDBSCAN(min_cluster_size=size, min_samples=min(5, size), copy=True)
            yield {"min_cluster_size": size}, model.fit_predict(reduced)


def _optics(reduced: np.ndarray, seed: int) -> Settings:
    from sklearn.cluster import OPTICS, cluster_optics_xi
    from threadpoolctl import threadpool_limits

    for least in (5, 15):
        if least >= len(reduced):
            continue
        with threadpool_limits(1):  # one small query a row: waking threads costs more than they bring
            model = OPTICS(min_samples=least).fit(reduced)
        for xi in (0.02, 0.05, 0.1):  # the ordering is the dear part and serves every xi
            clusters, _ = cluster_optics_xi(
                reachability=model.reachability_,
                predecessor=model.predecessor_,
                ordering=model.ordering_,
                min_samples=least,
                xi=xi,
            )
            yield {"min_samples": least, "xi": xi}, clusters


ALGORITHMS: dict[str, Callable[[np.ndarray, int], Settings]] = {
    "kmeans": _kmeans,
    "agglomerative": _agglomerative,
    "dbscan": _dbscan,
    "hdbscan": _hdbscan,
    "optics": _optics,
}
SILHOUETTE_ROWS = 2_000  # it is computed for every setting
LIMITS = {"kmeans": 20_000, "agglomerative": 4_000, "dbscan": 4_000, "hdbscan": 4_000, "optics": 2_000}
