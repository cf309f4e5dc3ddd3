"""Customers' lists by a trained model: query vectors, what purchases add to scores, and the search over all items."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfrec.csr import Csr
from tfrec.evaluation.baselines import filled_up, sales
from tfrec.evaluation.protocol import Protocol
from tfrec.evaluation.scores import LOWEST
from tfrec.histories import last_purchases, to_gaps, unpadded
from tfrec.index.search import exact_top_k
from tfrec.models import TwoTower
from tfrec.popularity import best_sellers
from tfrec.retrieval.assembly import RetrievalAssembly

QUERY_BATCH = 512


def candidate_vectors(assembly: RetrievalAssembly) -> np.ndarray:
    """The vectors of all candidates, float32 `[N, D]`, from the bank as it is."""
    model = assembly.model
    return model.vectors.finish(model.all_vectors(), tf.range(model.vectors.items)).numpy()


def protocol_histories(protocol: Protocol, length: int, user_fields: np.ndarray) -> dict[str, np.ndarray]:
    """What the query tower reads of the protocol's customers: their last `length` purchases before the query time."""
    history = protocol.read
    assert history.times is not None  # a protocol's histories always have them
    rows, days = last_purchases(history.items, history.times, history.offsets, length=length, now=protocol.query_time)
    return {
        "history": rows,
        "gaps": to_gaps(days),
        "days_ago": days,
        "user": protocol.users.astype(np.int32),
        "user_fields": user_fields[protocol.users],
    }


def query_vectors(model: TwoTower, inputs: dict[str, np.ndarray], candidates: np.ndarray) -> np.ndarray:
    """Query vectors float32 `[U, D]` in batches of customers with histories of like length, without their padding.

    Args:
        model: the two towers.
        inputs: what the query tower reads of the customers (`protocol_histories`).
        candidates: vectors of all items `[N, D]` (`candidate_vectors`), which histories are read from as when served.
    """
    vectors, history = tf.constant(candidates), inputs["history"]
    order = np.argsort((history >= 0).sum(1), kind="stable")
    parts = []
    for start in range(0, len(order), QUERY_BATCH):
        batch = {name: x[order[start : start + QUERY_BATCH]] for name, x in inputs.items()}
        read = unpadded(batch["history"])
        batch |= {name: batch[name][:, read] for name in ("history", "gaps")}
        batch = {name: tf.convert_to_tensor(x) for name, x in batch.items()}
        parts.append(model.last_query_graph(batch, vectors).numpy())
    queries = np.concatenate(parts)
    queries[order] = queries.copy()
    return queries


def protocol_queries(
    assembly: RetrievalAssembly, protocol: Protocol, candidates: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Query vectors float32 `[U, D]` of a protocol's customers, and what the query tower read of them."""
    inputs = protocol_histories(protocol, assembly.config.model.query.length, assembly.user_fields)
    return query_vectors(assembly.model, inputs, candidates), inputs


class Ranking(NamedTuple):
    """The lists of a protocol's customers, and what they were made from.

    Attributes:
        rows: items, best first, int32 `[U, k]`.
        scores: float32 `[U, k]`.
        candidates: vectors of all items, float32 `[N, D]`.
        inputs: what the query tower read of the customers, name -> `[U, ...]`.
    """

    rows: np.ndarray
    scores: np.ndarray
    candidates: np.ndarray
    inputs: dict[str, np.ndarray]


def rank(assembly: RetrievalAssembly, protocol: Protocol, k: int) -> Ranking:
    """The model's lists for a protocol's customers, `k` items each; as when served, those without any purchase that a
    history tower could read get what sells best (of a split that is not by time: of all that was sold).
    """
    candidates = candidate_vectors(assembly)
    queries, inputs = protocol_queries(assembly, protocol, candidates)

    def bonus(start: int, stop: int) -> tuple[Csr, np.ndarray] | None:
        # Of a chunk of customers: of all, it would be 10 KB each.
        return purchase_bonus(assembly, inputs["history"][start:stop], inputs["days_ago"][start:stop])

    excluded = protocol.excluded()
    rows, scores = exact_top_k(queries, candidates, k, exclude=excluded, bonus=bonus)
    nothing = np.flatnonzero(protocol.read.lengths == 0)
    if assembly.config.model.query.kind == "history" and len(nothing):
        sold, none = sales(protocol), np.empty((len(nothing), 0), np.int32)
        popular = filled_up(none, best_sellers(sold), None if excluded is None else excluded.take(nothing), k)
        rows[nothing], scores[nothing] = popular, np.where(popular >= 0, sold[popular], LOWEST)
    return Ranking(rows, scores, candidates, inputs)


def purchase_bonus(
    assembly: RetrievalAssembly, history: np.ndarray, days_ago: np.ndarray
) -> tuple[Csr, np.ndarray] | None:
    """What the purchases `history` int32 `[U, T]` (-1 = none), made `days_ago` `[U, T]`, add to items' scores."""
    gains = [table.gains(history) for table in assembly.neighbours]
    if assembly.model.repeats is not None:
        own = history >= 0
        gains.append((np.nonzero(own)[0], history[own], assembly.model.repeats(days_ago[own]).numpy()))
    if not gains:
        return None
    customers, items, values = (np.concatenate(part) for part in zip(*gains))
    order = np.argsort(customers, kind="stable")
    return Csr.from_rows(customers[order], items[order], len(history)), values[order]
