"""The analysis of one embedding: metrics, projections, clusterings, confusions and neighbours, before and
after.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from tfrec.analysis.clustering import Clustering, best_of, search
from tfrec.analysis.inputs import Catalogue
from tfrec.analysis.projection import Projection, project, umap_available
from tfrec.evaluation.embedding_metrics import nearest, silhouette, unit_rows
from tfrec.evaluation.embedding_summary import summarize_embedding
from tfrec.evaluation.labels import can_be_evaluated, item_splits, label_sides
from tfrec.sampling import sample_rows

log = logging.getLogger("tfrec")


@dataclass(frozen=True)
class Limits:
    """How many rows each part may use; a seeded sample is taken where there are more.

    Attributes:
        metrics: queries and clustered rows of the metrics (they still search all rows).
        projection: rows of PCA, t-SNE and UMAP.
        neighbours: queries of the confusion matrix and of the label ranking.
    """

    metrics: int = 10_000
    projection: int = 3_000
    neighbours: int = 5_000


@dataclass
class Study:
    """Everything that a report shows, as data.

    Attributes:
        by: name of the labels, or None.
        labels: `[N]`, or None.
        metrics: stage (`before`, `after`) -> metric -> value; empty without labels.
        projections: stage -> projections.
        clusterings: of the `after` vectors, every setting tried.
        best: the best of them.
        queries: `[Q]` rows whose neighbours were looked up: where there are labels, of the items that metrics are of.
        neighbours: `[Q, k]` the nearest to each among these.
        predicted: `[Q]` label of the nearest row, or None.
        per_label: label -> recall@1 and count, worst first, or None.
        confused: the commonest wrong pairs, or None.
        notes: what was sampled or left out, as sentences.
    """

    by: str | None
    labels: np.ndarray | None
    metrics: dict[str, dict[str, float]]
    projections: dict[str, list[Projection]]
    clusterings: list[Clustering]
    best: Clustering | None
    queries: np.ndarray
    neighbours: np.ndarray
    predicted: np.ndarray | None = None
    per_label: pd.DataFrame | None = None
    confused: pd.DataFrame | None = None
    notes: list[str] = field(default_factory=list)


def analyse(
    catalogue: Catalogue,
    by: str | None,
    labels: np.ndarray | None,
    *,
    methods: tuple[str, ...] | None = None,
    clusterings: tuple[str, ...] | None = None,
    limits: Limits | None = None,
    seed: int = 0,
) -> Study:
    """Compute a study.

    Args:
        catalogue: items and vectors.
        by: name of the labels.
        labels: `[N]` strings, "" for none; or None.
        methods: projections; by default all that are installed.
        clusterings: clustering algorithms; by default all.
        limits: rows that each part may use.
        seed: of every sample and method.

    Returns:
        The study.
    """
    limits = limits or Limits()
    notes = _notes(catalogue, labels, limits)
    if methods is None:
        methods = ("pca", "tsne", "umap") if umap_available() else ("pca", "tsne")
        if "umap" not in methods:
            notes.append("UMAP was left out: umap-learn is not installed.")
    stages = {"after": catalogue.vectors}
    if catalogue.before is not None:
        stages = {"before": catalogue.before, **stages}
    tried = search(catalogue.vectors, labels, methods=clusterings, seed=seed)
    notes += [
        f"{method} used {rows:,} of {len(catalogue):,} items."
        for method, rows in {one.method: len(one.rows) for one in tried}.items()
        if rows < len(catalogue)
    ]
    rows = np.arange(len(catalogue)) if labels is None else _asked(catalogue, labels)[0]
    queries, neighbours = _neighbours(catalogue.vectors, rows, limits.neighbours, seed)
    study = Study(
        by=by,
        labels=labels,
        metrics={stage: _metrics(catalogue, vectors, labels, limits, seed) for stage, vectors in stages.items()},
        projections={
            stage: [project(vectors, method, limit=limits.projection, seed=seed) for method in methods]
            for stage, vectors in stages.items()
        },
        clusterings=tried,
        best=best_of(tried),
        queries=queries,
        neighbours=neighbours,
        notes=notes,
    )
    if labels is not None:
        _measure_neighbours(study, labels)
    return study


def _metrics(
    catalogue: Catalogue, vectors: np.ndarray, labels: np.ndarray | None, limits: Limits, seed: int
) -> dict[str, float]:
    """Label metrics of one stage: on the test items with the others as gallery, where the dataset has a
    split.
    """
    if labels is None:
        return {}
    log.info("measuring neighbours and clusters of %d items", len(labels))
    rows, voters, _ = _asked(catalogue, labels)
    evaluated = summarize_embedding(vectors, labels, rows, voters, max_rows=limits.metrics, seed=seed)
    return evaluated.means() | {"silhouette": silhouette(vectors[rows], labels[rows], seed=seed)}


def _asked(catalogue: Catalogue, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Rows whose labels are asked for, those that vote, and whether the former are the test items: without enough of these,
    all labelled items are asked, and vote among themselves.
    """
    rows, voters = label_sides(labels, item_splits(catalogue.items), "test")
    if can_be_evaluated(labels[rows]):
        return rows, voters, True
    return np.flatnonzero(labels != ""), voters[:0], False


def _neighbours(
    vectors: np.ndarray, rows: np.ndarray, limit: int, seed: int, k: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """A sample of `rows` of vectors `[N, D]`, and the k nearest of each by cosine among all `rows`."""
    unit = unit_rows(vectors[rows])
    queries = sample_rows(len(unit), limit, seed)
    found = [block for _, block, _ in nearest(unit[queries], unit, k, itself=queries)]
    return rows[queries], rows[np.concatenate(found)]


def _measure_neighbours(study: Study, labels: np.ndarray) -> None:
    """Fill in what the nearest neighbour's label says: predictions, recall@1 by label, the commonest
    confusions.
    """
    study.predicted = labels[study.neighbours[:, 0]]
    frame = pd.DataFrame({"label": labels[study.queries], "predicted": study.predicted})
    frame["right"] = frame["label"] == frame["predicted"]
    grouped = (
        frame.groupby("label")["right"].agg(["mean", "size"]).rename(columns={"mean": "recall@1", "size": "items"})
    )
    study.per_label = grouped.sort_values(["recall@1", "items"], ascending=[True, False])
    wrong = frame[~frame["right"]].groupby(["label", "predicted"]).size().sort_values(ascending=False)
    study.confused = wrong.head(15).rename("items").reset_index()


def _notes(catalogue: Catalogue, labels: np.ndarray | None, limits: Limits) -> list[str]:
    """What the reader must know about samples."""
    total, notes = len(catalogue), []
    labelled = total if labels is None else int((labels != "").sum())
    asked, _, of_test = (np.arange(total), None, False) if labels is None else _asked(catalogue, labels)
    if total > limits.projection:
        notes.append(f"Projections show a seeded sample of {limits.projection:,} of {total:,} items.")
    if len(asked) > limits.neighbours:
        notes.append(
            f"Confusions and neighbours come from {limits.neighbours:,} queries, searching all {len(asked):,} items."
        )
    if labelled < total:
        notes.append(f"{total - labelled:,} items have no label and are left out where labels count.")
    if of_test:
        notes.append(
            "Label metrics, confusions and neighbours are those of the test items; k-NN accuracy asks the other items, where"
            " they share labels. Clusterings are of all items, and so is what they are graded by."
        )
    return notes
