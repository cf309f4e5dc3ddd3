"""What earlier purchases add to scores: in training, in evaluation and in serving, against plain loops."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serving_fakes import FakeTowers, make_run
from tfrec.csr import Csr
from tfrec.index import ExactIndex
from tfrec.models import by_length
from tfrec.repeats import BUCKETS, RepeatScores, add_to_logits, totals
from tfrec.retrieval import purchase_bonus
from tfrec.search import exact_top_k
from tfrec.serving_model import ServingModel
from tfrec.variants import variant_table

seeds = st.integers(0, 2**32 - 1)


def random_scores(seed: int) -> RepeatScores:
    scores = RepeatScores()
    scores.value.assign(np.random.default_rng(seed).normal(size=BUCKETS))
    return scores


def test_whole_days_fall_into_their_buckets():
    scores = RepeatScores()
    scores.value.assign(np.arange(BUCKETS, dtype=np.float32) / 10)
    days = [-1, 0, 0.9, 1, 2, 3, 6, 7, 14, 15, 510, 511, 100_000]
    buckets = [0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 8, 9, 9]
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
        found.append(add_to_logits(tf.zeros([len(places), items]), scores, columns, part, places).numpy())
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
        assert list(distinct[row]).count(-1) == rows.shape[1] - len(found)
        assert found.keys() == expected.keys()
        np.testing.assert_allclose([found[item] for item in expected], list(expected.values()), atol=1e-5)


def test_variants_are_the_other_items_of_a_product_best_selling_first():
    products = pd.Series(["a", "b", "", "a", "c", "a", None, "b", "", "a"])
    sales = np.array([1, 5, 9, 7, 2, 3, 9, 5, 9, 0])
    table = variant_table(products, sales, most=2)
    expected = {0: [3, 5], 1: [7], 3: [5, 0], 5: [3, 0], 7: [1], 9: [3, 5]}
    assert table.shape == (10, 2)
    assert {
        row: [x for x in found if x >= 0] for row, found in enumerate(table.tolist()) if max(found) >= 0
    } == expected
    assert variant_table(pd.Series(["a", "b", ""]), np.zeros(3)).shape == (3, 0)


class RepeatingTowers(FakeTowers):
    def repeat_scores(self, days_ago):
        return 3.0 - days_ago


PRODUCTS = [str(item // 3) if item % 7 else "" for item in range(40)]


@pytest.mark.parametrize("products", [None, PRODUCTS])
def test_served_answers_count_the_customers_own_purchases(products):
    run = make_run(40, repeats=True, products=products, product_score=0.75, query_kind="history")
    run.towers = towers = RepeatingTowers(run.item_vectors)
    model = ServingModel(run, ExactIndex(run.item_vectors))
    history = np.array([[3, 5, 3], [7, 8, 9]])
    days = np.array([[5.0, 1.0, 0.0], [4.0, 6.0, 2.0]], np.float32)
    query = towers.query(tf.constant(history), tf.constant(days), tf.zeros([2, 1], tf.int32)).numpy()
    scores = query @ run.item_vectors.T
    for row in range(2):
        for item, ago in zip(history[row], days[row], strict=True):
            scores[row, item] += 3.0 - ago
            if products:
                same = [other for other in range(40) if products[item] and products[other] == products[item]]
                scores[row, same or [item]] += 0.75
    ids = [[run.item_ids[item] for item in row] for row in history]
    answer = model.signatures()["recommend"](history=tf.constant(ids), days_ago=tf.constant(days), k=tf.constant(6))
    order = np.argsort(-scores, axis=1)[:, :6]
    assert answer["item_id"].numpy().astype(str).tolist() == [[run.item_ids[i] for i in row] for row in order]
    np.testing.assert_allclose(answer["score"], np.take_along_axis(scores, order, 1), rtol=1e-4, atol=1e-5)
    shirts = model.signatures()["recommend"](
        history=tf.constant(ids),
        days_ago=tf.constant(days),
        k=tf.constant(3),
        allow=tf.constant([["kind=shirt"]]),
        exclude=tf.constant([[run.item_ids[8]]]),
    )
    scores[:, 1::2] = -np.inf
    scores[:, 8] = -np.inf
    order = np.argsort(-scores, axis=1)[:, :3]
    assert shirts["item_id"].numpy().astype(str).tolist() == [[run.item_ids[i] for i in row] for row in order]
    explained = model.signatures()["explain_rows"](
        tf.constant(history, tf.int32), tf.constant(days), tf.zeros([2, 1], tf.int32), tf.constant([[4, 3], [9, 6]])
    )
    scores = query @ run.item_vectors.T
    gains = explained["score"].numpy() - explained["product"].numpy()
    np.testing.assert_allclose(
        explained["product"], np.take_along_axis(scores, np.array([[4, 3], [9, 6]]), 1), rtol=1e-4
    )
    variants = 0.0 if products is None else np.array([[3 * 0.75, 3 * 0.75], [0.75, 0.75]])
    own = np.array([[0.0, -2.0 + 3.0], [1.0, 0.0]])
    np.testing.assert_allclose(gains, own + variants, atol=1e-4)


def test_the_bonus_of_purchases_counts_them_and_their_variants():
    scores, history = random_scores(0), np.array([[-1, 2], [0, 4], [-1, -1]], np.int32)
    days = np.array([[0.0, 3.0], [9.0, 0.0], [0.0, 0.0]], np.float32)
    variants = np.array([[1, 2], [0, 2], [0, 1], [-1, -1], [5, -1], [4, -1]], np.int32)
    query = SimpleNamespace(variants=2.0)
    assembly = SimpleNamespace(
        model=SimpleNamespace(repeats=scores),
        variants=variants,
        config=SimpleNamespace(model=SimpleNamespace(query=query)),
    )
    items, values = purchase_bonus(assembly, history, days)
    found = np.zeros((3, 6))
    np.add.at(found, (items.rows, items.items), values)
    of = {ago: float(scores(tf.constant(ago))) for ago in (0.0, 3.0, 9.0)}
    np.testing.assert_allclose(found[0], [2, 2, 2 + of[3.0], 0, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(found[1], [2 + of[9.0], 2, 2, 0, 2 + of[0.0], 2], rtol=1e-5)
    assert len(items[2]) == 0
