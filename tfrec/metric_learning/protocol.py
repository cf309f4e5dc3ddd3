"""Who is asked and who answers when an embedding is evaluated by labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipelines.prepared import Prepared
from tfrec.config import ConfigError
from tfrec.evaluation.bootstrap import Interval
from tfrec.evaluation.embedding_summary import summarize_embedding
from tfrec.evaluation.labels import can_be_evaluated, item_labels, item_splits, label_sides
from tfrec.metric_learning.config import MetricEvaluation, MetricLearningConfig


@dataclass
class LabelProtocol:
    """Held-out items, and those that vote on their labels.

    Attributes:
        split: `val` or `test`.
        queries: `[Q]` places of the held-out items among the run's vectors.
        gallery: `[G]` places of the other items; empty where they share no class with the held-out ones.
        rows: `[n]` rows of the dataset, in the order of the run's vectors.
        labels: `[n]` strings, in the same order.
        options: how to evaluate.
        seed: of samples and intervals.
    """

    split: str
    queries: np.ndarray
    gallery: np.ndarray
    rows: np.ndarray
    labels: np.ndarray
    options: MetricEvaluation
    seed: int

    @classmethod
    def build(cls, prepared: Prepared, ids: np.ndarray, config: MetricLearningConfig, split: str) -> LabelProtocol:
        """The protocol of a run's vectors.

        Args:
            prepared: the dataset.
            ids: `[n]` item ids in the order of the run's vectors.
            config: of the run.
            split: `val` (training items vote) or `test` (all others vote).

        Raises:
            ConfigError: an id is not in the dataset, or the split has fewer than 3 items or 2 classes.
        """
        rows = pd.Index(prepared.items["item_id"]).get_indexer(ids)
        unknown = ids[rows < 0]
        if len(unknown):
            raise ConfigError(
                f"{len(unknown)} items of the run are not in {prepared.path}, the first is {str(unknown[0])!r}; put the "
                "dataset that the run was trained on back to `data` of its config.yaml, or train again"
            )
        labels = item_labels(prepared.items, config.task.label, option="task.label")[rows]
        queries, gallery = label_sides(labels, item_splits(prepared.items)[rows], split)
        if not can_be_evaluated(labels[queries]):
            raise ConfigError(
                f"{prepared.path} has {len(queries)} {split} items of {len(set(labels[queries]))} classes; prepare it "
                f"with a larger --{split}-share"
            )
        return cls(split, queries, gallery, rows, labels, config.evaluation, config.seed)

    def summarize(self, vectors: np.ndarray, ks: list[int]) -> dict[str, Interval]:
        """Metrics of vectors `[n, D]` of these items; see `EmbeddingSummary.intervals`."""
        return summarize_embedding(
            vectors,
            self.labels,
            self.queries,
            self.gallery,
            ks=ks,
            neighbors=self.options.neighbors,
            max_rows=self.options.max_rows,
            seed=self.seed,
        ).intervals()

    def describe(self) -> dict[str, Any]:
        """What a reader of metrics.json must know."""
        return {
            "split": self.split,
            "items": len(self.queries),
            "classes": len(set(self.labels[self.queries])),
            "classes_seen_in_training": bool(len(self.gallery)),
            "voters": len(self.gallery) or len(self.queries) - 1,
            "neighbors": self.options.neighbors,
            "similarity": "cosine",
            "clusters": "k-means, as many as classes",
        }


def protocol_words(protocol: dict[str, Any]) -> list[str]:
    """The protocol of a metric-learning run's metrics.json as a sentence."""
    split, seen = protocol["split"], protocol["classes_seen_in_training"]
    return [
        f"{protocol['items']:,} {split} items of {protocol['classes']} classes {'' if seen else 'never '}seen in training, "
        f"loss {protocol['loss']}. k-NN accuracy asks {protocol['voters']:,} {'other' if seen else split} items "
        f"({protocol['neighbors']} votes); recall and mAP@R search among the {split} items; ARI, NMI and purity grade "
        f"{protocol['clusters']}. Cosine similarity; 95 % bootstrap intervals over items."
    ]
