"""Everything at once, for one evaluation of an embedding by labels: as means, or with 95 % bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfrec.evaluation.bootstrap import LEVEL, Interval, bootstrap_means, interval
from tfrec.evaluation.embedding_metrics import clustering_metrics, knn_hits, retrieval_values, unit_rows
from tfrec.sampling import sample_rows

RESAMPLES = 200  # of the clustering metrics; each is a table of counts


@dataclass(frozen=True)
class EmbeddingSummary:
    """What neighbours and clusters say of each row.

    Attributes:
        hits: bool `[Q]`: the vote of the neighbours names the label.
        retrieval: `recall@k`, `map@r` and `r_precision` of the queries that had something to find, float64 `[R]` each.
        without_match: how many queries had not.
        codes: `[C]` labels of the clustered rows, as numbers.
        clusters: `[C]` theirs, found by k-means with as many clusters as labels.
        seed: of the bootstrap.
    """

    hits: np.ndarray
    retrieval: dict[str, np.ndarray]
    without_match: int
    codes: np.ndarray
    clusters: np.ndarray
    seed: int

    def means(self) -> dict[str, float]:
        """`knn_accuracy`, `recall@k`, `map@r`, `r_precision`, `ari`, `nmi`, `purity`, `pure_clusters`, `clusters`, and how
        many rows each used.
        """
        queries = len(self.retrieval["map@r"])
        clustering = clustering_metrics(self.codes, self.clusters)
        clustering.pop("noise")  # k-means leaves none out
        return {
            "knn_accuracy": float(self.hits.mean()),
            **{name: float(value.mean()) if queries else 0.0 for name, value in self.retrieval.items()},
            "queries": queries,
            "queries_without_match": self.without_match,
            **clustering,
            "clustered_rows": len(self.codes),
        }

    def intervals(self) -> dict[str, Interval]:
        """`knn_accuracy`, `recall@k`, `map@r`, `ari`, `nmi` and `purity`, each with an interval over items.

        The clusters are found once: the intervals say how much the figures would move with another sample of items, not
        with another start of k-means.
        """
        summary = bootstrap_means({"knn_accuracy": self.hits.astype(float)}, seed=self.seed)
        if len(self.retrieval["map@r"]):
            shown = {name: value for name, value in self.retrieval.items() if name != "r_precision"}
            summary |= bootstrap_means(shown, seed=self.seed)
        return summary | self._clustering_intervals()

    def _clustering_intervals(self) -> dict[str, Interval]:
        rng, rows = np.random.default_rng(self.seed), len(self.codes)
        point = clustering_metrics(self.codes, self.clusters)
        draws = [rng.integers(0, rows, rows) for _ in range(RESAMPLES)]
        drawn = [clustering_metrics(self.codes[draw], self.clusters[draw]) for draw in draws]
        tail = 100 * (1 - LEVEL) / 2
        summary = {}
        for name in ("ari", "nmi", "purity"):
            # An item drawn twice agrees with itself, which raises these metrics: only the spread of the draws is used.
            values = np.array([one[name] for one in drawn])
            low, high = point[name] + np.percentile(values - values.mean(), [tail, 100 - tail])
            summary[name] = interval(point[name], low, min(1.0, high))
        return summary


def summarize_embedding(
    vectors: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    voters: np.ndarray,
    *,
    ks: Sequence[int] = (1, 5, 10),
    neighbors: int = 5,
    max_rows: int = 10_000,
    seed: int = 0,
) -> EmbeddingSummary:
    """Evaluate vectors by labels; see `label_sides` for who is asked and who votes.

    k-NN accuracy asks the voters (the training rows) where there are some and the other queries otherwise. Recall@k and
    mAP@R search among the queries, so that they mean the same for class-disjoint splits.

    Args:
        vectors: `[N, D]`.
        labels: `[N]`.
        queries: `[Q]` rows to evaluate, Q >= 2.
        voters: `[G]` rows, perhaps none.
        ks: cut-offs of recall.
        neighbors: votes of k-NN accuracy.
        max_rows: queries and clustered rows at most.
        seed: of the samples, of k-means and of the bootstrap.
    """
    from sklearn.cluster import KMeans

    unit, asked = unit_rows(vectors[queries]), labels[queries]
    sides: dict[str, Any] = {"gallery": vectors[voters], "gallery_labels": labels[voters]} if len(voters) else {}
    hits = knn_hits(unit, asked, **sides, k=neighbors, max_queries=max_rows, seed=seed)
    retrieval, lost = retrieval_values(unit, asked, ks=ks, max_queries=max_rows, seed=seed)
    rows = sample_rows(len(unit), max_rows, seed)
    names, codes = np.unique(asked[rows], return_inverse=True)
    clusters = KMeans(n_clusters=len(names), n_init=5, random_state=seed).fit_predict(unit[rows])
    return EmbeddingSummary(hits, retrieval, lost, codes, clusters, seed)
