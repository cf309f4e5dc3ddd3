"""What earlier purchases of an item add to its score, against plain loops."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrec import chunks
from tfrec.csr import Csr
from tfrec.index.search import exact_top_k
from tfrec.models import by_length
from tfrec.repeats import BUCKETS, RepeatScores, scores_of_purchases, totals, whole_scores

seeds = st.integers(0, 2**32 - 1)


def random_scores(seed: int) -> RepeatScores:
    scores = RepeatScores()
    scores.value.assign(np.random.default_rng(seed).normal(size=BUCKETS))
    return scores


def test_whole_days_fall_into_their_buckets():
    scores = RepeatScores()
    scores.value.assign(np.arange(BUCKETS, dtype=np.float32) / 10)
    days = [-1, 0, 0.9, 1, 2, 3, 6, 7, 14, 15, 510, 511, 100_000, np.inf, np.nan]
    buckets = [0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 8, 9, 9, 9, 0]
    np.testing.assert_allclose(scores(tf.constant(days, tf.float32)), buckets, rtol=1e-5)


@settings(deadline=None, max_examples=25)
@given(seeds)
def test_logits_gain_the_score_of_every_purchase_read(seed):
    rng = np.random.default_rng(seed)
    batch, length, items = 5, 8, 6
    lengths = np.sort(rng.integers(0, length + 1, batch))  # as a batch is sorted
    history = rng.integers(0, items, (batch, length)).astype(np.int32)
    history[np.arange(length)[None] < length - lengths[:, None]] = -1
    gaps = np.where(history >= 0, rng.integers(0, 40, history.shape), 0).astype(np.float32)
    targets = np.full((batch, length + 1), -1, np.int32)
    targets[:, 1:] = np.where(history >= 0, 1, -1)
    targets[:, 0] = 2
    columns, scores = rng.permutation(items).astype(np.int32), random_scores(seed)
    inputs = {"history": history, "gaps": gaps, "targets": targets, "weights": targets, "user": lengths}
    inputs = {name: tf.constant(x) for name, x in (inputs | {"user_fields": history[:, :0]}).items()}
    found = []
    for part in by_length(inputs):
        places = tf.cast(tf.where(part["targets"] >= 0), tf.int32)
        added = scores_of_purchases(scores, columns, part, places)
        found.append(tf.scatter_nd(*added, [len(places), items]).numpy())
    expected = []
    for row, place in np.argwhere(targets >= 0):
        logits = np.zeros(items)
        for t in range(place):
            if history[row, t] >= 0:
                logits[columns[history[row, t]]] += scores(gaps[row, t:place].sum()).numpy()
        expected.append(logits)
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-4)


@settings(deadline=None, max_examples=25)
@given(seeds)
def test_the_exact_search_adds_up_a_bonus(seed):
    rng = np.random.default_rng(seed)
    queries, items = rng.normal(size=(9, 4)), rng.normal(size=(50, 4))
    bought = np.sort(rng.integers(0, 9, 40))
    bonus = Csr.from_rows(bought, rng.integers(0, 50, 40), 9)
    values = rng.normal(size=40).astype(np.float32) * 5
    scores = (queries @ items.T).astype(np.float32)
    np.add.at(scores, (bonus.rows, bonus.items), values)
    ids, found = exact_top_k(queries, items, 7, bonus=(bonus, values), threads=2)
    np.testing.assert_allclose(found, -np.sort(-scores)[:, :7], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(scores, ids, 1), found, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=50)
@given(seeds)
def test_totals_add_up_the_entries_of_each_item(seed):
    rng = np.random.default_rng(seed)
    rows = rng.integers(-2, 6, (rng.integers(0, 4), rng.integers(1, 9))).astype(np.int32)
    bonus = rng.normal(size=rows.shape).astype(np.float32)
    distinct, summed = (part.numpy() for part in totals(tf.constant(rows), tf.constant(bonus)))
    for row in range(len(rows)):
        expected = {item: bonus[row][rows[row] == item].sum() for item in set(rows[row].tolist()) if item >= 0}
        found = {item: total for item, total in zip(distinct[row].tolist(), summed[row]) if item >= 0}
        assert (distinct[row] >= 0).sum() == len(found)
        assert found.keys() == expected.keys()
        np.testing.assert_allclose([found[item] for item in expected], list(expected.values()), atol=1e-5)
    assert distinct.shape[1] == max([len(set(row.tolist()) - {-1, -2}) for row in rows], default=0)


@pytest.mark.parametrize("items", [20, 200])  # all products are made, or the vectors of the rows are gathered
def test_whole_scores_are_products_and_bonus(items, monkeypatch):
    rng = np.random.default_rng(items)
    queries, vectors, bonus = rng.normal(size=(5, 4)), rng.normal(size=(items, 4)), rng.normal(size=(5, 6))
    rows = rng.integers(0, items, (5, 6))
    found = whole_scores(
        *(tf.constant(x, tf.float32) for x in (queries, vectors)), tf.constant(rows), tf.constant(bonus, tf.float32)
    )
    expected = np.take_along_axis(queries @ vectors.T, rows, 1) + bonus
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(chunks, "FLOATS_AT_ONCE", 2 * 6 * 16)  # two customers at a time
    parts = whole_scores(
        *(tf.constant(x, tf.float32) for x in (queries, vectors)), tf.constant(rows), tf.constant(bonus, tf.float32)
    )
    np.testing.assert_allclose(parts, found, rtol=1e-6)
    nothing = whole_scores(tf.zeros([2, 4]), tf.zeros([items, 4]), tf.zeros([2, 0], tf.int32), tf.zeros([2, 0]))
    assert nothing.shape == (2, 0)
