"""What purchases add to the scores of other items: counted, in evaluation and in serving, against plain loops."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import tracemalloc
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import event, given
from hypothesis import strategies as st

from pipelines.batches import Purchases
from tests.serving_fakes import FakeTowers, make_run
from tfrec.co_occurrence import latest_items, ranges
from tfrec.index.indexes import ExactIndex
from tfrec.index.search import MAX_QUERIES, exact_top_k
from tfrec.neighbours import APART, NEARER, RIDGE, Neighbours, companions, followers, product_neighbours, variant_table
from tfrec.repeats import BUCKETS, RepeatScores
from tfrec.retrieval import ranking
from tfrec.retrieval.ranking import purchase_bonus
from tfrec.saved_model.model import ServingModel
from tfrec.saved_model.queries import NeighbourGains

ITEMS = 40
seeds = st.integers(0, 2**32 - 1)


def random_table(seed: int, *, items: int = ITEMS, width: int = 3, **options) -> Neighbours:
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.permutation(items)[:width] for _ in range(items)]).astype(np.int32)
    rows[rng.random(rows.shape) < 0.3] = -1
    return Neighbours(rows, np.where(rows >= 0, rng.random(rows.shape), 0.0).astype(np.float32), **options)


def plain_gains(table: Neighbours, history: list[int]) -> Counter:
    """What every item gains from the purchases of one customer, the most recent one last."""
    gains: Counter = Counter()
    for back, item in enumerate(reversed([item for item in history if item >= 0])):
        if table.recent is not None and back >= table.recent:
            break
        for other, score in zip(table.rows[item].tolist(), table.scores[item].tolist(), strict=True):
            if other >= 0:
                gains[other] += score * table.older**back
    return gains


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
    whole = product_neighbours(products, sales, 0.5, most=2)
    assert whole.rows[:, 0].tolist() == list(range(10))
    assert plain_gains(whole, [2, 7]) == {2: 0.5, 7: 0.5, 1: 0.5}


@given(seeds)
def test_followers_are_counted_as_by_hand(seed):
    rng = np.random.default_rng(seed)
    user = np.sort(rng.integers(0, 6, 50)).astype(np.int32)
    time = np.concatenate([np.sort(rng.integers(0, 8, count)) for count in np.bincount(user)])
    purchases = Purchases(user, rng.integers(0, 7, 50).astype(np.int32), time, 6)
    counts: Counter = Counter()
    for first in range(50):
        for then in range(first + 1, min(first + APART, 49) + 1):
            one, other = int(purchases.item[first]), int(purchases.item[then])
            if user[first] == user[then] and one != other:
                counts[one, other] += NEARER ** (then - first - 1)
                if time[first] == time[then]:
                    counts[other, one] += NEARER ** (then - first - 1)
    sales = np.bincount(purchases.item, minlength=9)
    expected = {pair: 3.0 * count / (np.sqrt(sales[pair[0]] * sales[pair[1]]) + 1) for pair, count in counts.items()}
    table = followers(purchases, 9, 3.0)
    found = {
        (item, int(other)): float(score)
        for item in range(9)
        for other, score in zip(table.rows[item], table.scores[item], strict=True)
        if other >= 0
    }
    assert found == pytest.approx(expected, rel=1e-6)
    assert (np.diff(table.scores, axis=1) <= 0).all()
    few = followers(purchases, 9, 3.0, most=2)
    np.testing.assert_array_equal(few.rows, table.rows[:, :2])


def random_log(rng, count, items):
    user = np.sort(rng.integers(0, count // 5, count)).astype(np.int32)
    time = np.sort(user * 1000 + rng.integers(0, 9, count))
    return Purchases(user, rng.integers(0, items, count).astype(np.int32), time, count // 5)


def test_followers_are_the_same_to_the_bit_however_many_items_are_counted_at_a_time(monkeypatch):
    log = random_log(np.random.default_rng(0), 2000, 50)
    whole = followers(log, 60, 1.5, most=7)
    for at_once in (1, 100, 333):
        monkeypatch.setattr("tfrec.neighbours.AT_ONCE", at_once)
        parts = followers(log, 60, 1.5, most=7)
        np.testing.assert_array_equal(parts.rows, whole.rows)
        np.testing.assert_array_equal(parts.scores, whole.scores)


def test_counting_followers_takes_no_more_memory_than_a_column_of_the_log_and_a_range(monkeypatch):
    count = 200_000
    log = random_log(np.random.default_rng(0), count, 500)
    monkeypatch.setattr("tfrec.neighbours.AT_ONCE", count // 100)
    tracemalloc.start()
    followers(log, 500, 1.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * count


def test_a_log_without_pairs_has_no_followers():
    purchases = Purchases(np.arange(3, dtype=np.int32), np.arange(3, dtype=np.int32), np.zeros(3, np.int64), 3)
    assert followers(purchases, 4, 1.0).rows.shape == (4, 0)


def entries(table: Neighbours) -> dict[tuple[int, int], float]:
    """Item and neighbour -> gain."""
    item, slot = np.nonzero(table.rows >= 0)
    return {(int(i), int(table.rows[i, s])): float(table.scores[i, s]) for i, s in zip(item, slot, strict=True)}


@given(seeds, st.integers(1, 8))
def test_companions_are_coefficients_of_a_ridge_regression_on_the_nearest_items(seed, explaining):
    rng = np.random.default_rng(seed)
    log = random_log(rng, 60, 8)
    bought = np.zeros((log.users, 9))
    bought[log.user, log.item] = 1.0
    counts = bought.T @ bought
    cosine = counts / np.sqrt(np.maximum(np.outer(counts.diagonal(), counts.diagonal()), 1))
    np.fill_diagonal(cosine, 0.0)
    expected = {}
    for item in range(9):
        near = [other for other in np.argsort(-cosine[item], kind="stable")[:explaining] if cosine[item, other] > 0]
        # The least ||x_item - X_near w||^2 + RIDGE ||w||^2, as least squares of a taller system.
        tall = np.concatenate([bought[:, near], np.sqrt(RIDGE) * np.eye(len(near))])
        share = np.linalg.lstsq(tall, np.concatenate([bought[:, item], np.zeros(len(near))]), rcond=None)[0]
        expected |= {(int(i), item): 5.0 * weight for i, weight in zip(near, share, strict=True) if 5.0 * weight > 5e-9}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tfrec.neighbours.EXPLAINING", explaining)
        patch.setattr("tfrec.neighbours.SOLVED_AT_ONCE", 4)
        table = companions(log, 9, 5.0)
    ranked = np.sort(cosine, 1)[:, ::-1]
    last, next_one = ranked[:, explaining - 1], ranked[:, explaining]
    tied = set(
        np.flatnonzero((last > 0) & np.isclose(last, next_one))
    )  # of equal cosines at the edge, either may be taken
    event(f"{len(tied)} items tied")
    found = {pair: gain for pair, gain in entries(table).items() if gain > 5e-9 and pair[1] not in tied}
    assert found == pytest.approx({pair: gain for pair, gain in expected.items() if pair[1] not in tied}, rel=1e-4)
    assert (np.diff(table.scores, axis=1) <= 0).all()
    assert (table.scores >= 0).all()
    assert all(item != other for item, other in found)


def test_what_is_bought_together_shares_what_it_explains():
    """Items 0 and 1 are always bought together and with 2: a cosine would count both in full."""
    user = np.repeat(np.arange(1000), 3)
    log = Purchases(user, np.tile(np.arange(3), 1000), np.zeros(3000, np.int64), 1000)
    gains = entries(companions(log, 4, 1.0))
    assert gains[0, 2] == pytest.approx(gains[1, 2]) == pytest.approx(1000 / (2000 + RIDGE), rel=1e-5)
    few = companions(log, 4, 1.0, most=1)
    assert few.rows.shape == (4, 1)
    assert few.rows[3, 0] == -1


def test_a_log_of_single_purchases_has_no_companions():
    purchases = Purchases(np.arange(3, dtype=np.int32), np.arange(3, dtype=np.int32), np.zeros(3, np.int64), 3)
    assert companions(purchases, 4, 1.0).rows.shape == (4, 0)


@given(seeds, st.sampled_from([None, 1, 3, 9]), st.sampled_from([1.0, 0.5]))
def test_gains_are_those_of_a_loop_in_evaluation_and_in_serving(seed, recent, older):
    table, rng = random_table(seed, recent=recent, older=older), np.random.default_rng(seed)
    history = rng.integers(0, ITEMS, (5, 6)).astype(np.int32)
    history[np.arange(6) < rng.integers(0, 7, 5)[:, None]] = -1
    expected = np.zeros((5, ITEMS))
    for customer, purchases in enumerate(history.tolist()):
        for item, gain in plain_gains(table, purchases).items():
            expected[customer, item] = gain
    counted = np.zeros((5, ITEMS))
    customers, items, gains = table.gains(history)
    np.add.at(counted, (customers, items), gains)
    np.testing.assert_allclose(counted, expected, rtol=1e-5, atol=1e-6)
    rows, gains = (part.numpy() for part in NeighbourGains(table)(tf.constant(history)))
    served = np.zeros((5, ITEMS))
    np.add.at(served, (np.nonzero(rows >= 0)[0], rows[rows >= 0]), gains[rows >= 0])
    np.testing.assert_allclose(served, expected, rtol=1e-5, atol=1e-6)


def test_new_items_have_no_neighbours():
    table = random_table(0, recent=2, older=0.5)
    grown = table.extended(ITEMS + 2)
    np.testing.assert_array_equal(grown.rows[:ITEMS], table.rows)
    assert (grown.rows[ITEMS:] == -1).all()
    assert (grown.recent, grown.older) == (2, 0.5)


class RepeatingTowers(FakeTowers):
    def repeat_scores(self, days_ago):
        return 3.0 - days_ago


PRODUCTS = [str(item // 3) if item % 7 else "" for item in range(ITEMS)]
BONUSES = {
    "repeats": {"repeats": True},
    "products": {"repeats": True, "products": PRODUCTS, "product_score": 0.75},
    "followers alone": {"counted": [random_table(1, recent=2, older=0.4)]},
    "companions": {"counted": [random_table(2, width=5)]},
    "all": {
        "repeats": True,
        "products": PRODUCTS,
        "product_score": 0.75,
        "counted": [random_table(1, recent=2, older=0.4), random_table(2, width=5)],
    },
}


def plain_scores(run, towers, history: list[int], days: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """The products with all items' vectors, and the whole scores, of one customer, by a loop."""
    query = towers.query(
        tf.constant([history]), tf.constant([days]), tf.zeros([1, 1], tf.int32), run.item_vectors
    ).numpy()
    product = (query @ run.item_vectors.T)[0]
    scores = product.copy()
    for item, ago in zip(history, days, strict=True):
        if run.repeats and item >= 0:
            scores[item] += 3.0 - ago
    for table in run.neighbours:
        for item, gain in plain_gains(table, history).items():
            scores[item] += gain
    return product, scores


@pytest.mark.parametrize("name", BONUSES)
def test_served_answers_count_what_purchases_add(name):
    run = make_run(ITEMS, query_kind="history", **BONUSES[name])
    run.towers = towers = RepeatingTowers(run.item_vectors)
    model = ServingModel(run, ExactIndex(run.item_vectors))
    history, days = [[3, 5, 3], [7, 8, 9]], [[5.0, 1.0, 0.0], [4.0, 6.0, 2.0]]
    scores = np.stack([plain_scores(run, towers, *one)[1] for one in zip(history, days, strict=True)])
    ids = tf.constant([[run.item_ids[item] for item in row] for row in history])
    answer = model.signatures()["recommend"](history=ids, days_ago=tf.constant(days), k=tf.constant(6))
    order = np.argsort(-scores, axis=1)[:, :6]
    assert answer["item_id"].numpy().astype(str).tolist() == [[run.item_ids[i] for i in row] for row in order]
    np.testing.assert_allclose(answer["score"], np.take_along_axis(scores, order, 1), rtol=1e-4, atol=1e-5)
    shirts = model.signatures()["recommend"](
        history=ids,
        days_ago=tf.constant(days),
        k=tf.constant(3),
        allow=tf.constant([["kind=shirt"]]),
        exclude=tf.constant([[run.item_ids[8]]]),
    )
    scores[:, 1::2] = -np.inf
    scores[:, 8] = -np.inf
    order = np.argsort(-scores, axis=1)[:, :3]
    assert shirts["item_id"].numpy().astype(str).tolist() == [[run.item_ids[i] for i in row] for row in order]


@pytest.mark.parametrize("name", BONUSES)
def test_explanations_are_differences_of_whole_scores(name):
    run = make_run(ITEMS, query_kind="history", **BONUSES[name])
    run.towers = towers = RepeatingTowers(run.item_vectors)
    model = ServingModel(run, ExactIndex(run.item_vectors))
    history, days, items = [[3, 5, 3], [-1, 8, 9]], [[5.0, 1.0, 0.0], [0.0, 6.0, 2.0]], [[4, 3], [9, 6]]
    explained = model.signatures()["explain_rows"](
        tf.constant(history), tf.constant(days), tf.zeros([2, 1], tf.int32), tf.constant(items)
    )
    for row in range(2):
        product, scores = plain_scores(run, towers, history[row], days[row])
        np.testing.assert_allclose(explained["product"][row], product[items[row]], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(explained["score"][row], scores[items[row]], rtol=1e-4, atol=1e-5)
        for place in range(3):
            others = [other for other in range(3) if other != place]
            less = [-1, *(history[row][other] for other in others)], [0.0, *(days[row][other] for other in others)]
            without = plain_scores(run, towers, *less)[1][items[row]]
            np.testing.assert_allclose(explained["without"][row, :, place], without, rtol=1e-4, atol=1e-5)


def test_explanations_of_long_histories_are_those_of_what_is_read():
    run = make_run(ITEMS, query_kind="history", **BONUSES["all"])  # which reads four purchases
    run.towers = RepeatingTowers(run.item_vectors)
    explain = ServingModel(run, ExactIndex(run.item_vectors)).signatures()["explain_rows"]
    history, days = np.array([[3, 5, -1, 7, 8, 3, 2]]), np.array([[9.0, 8.0, 0.0, 5.0, 4.0, 2.0, 1.0]], np.float32)
    fields, items = tf.zeros([1, 1], tf.int32), tf.constant([[4, 3, 8]])
    explained = explain(tf.constant(history, tf.int32), tf.constant(days), fields, items)
    for column in range(history.shape[1]):
        less = np.where(np.arange(history.shape[1]) == column, -1, history)
        without = explain(tf.constant(less, tf.int32), tf.constant(days), fields, items)["score"]
        np.testing.assert_allclose(explained["without"][:, :, column], without, rtol=1e-4, atol=1e-5)


def test_an_explanation_that_would_take_the_memory_is_refused():
    run = make_run(ITEMS, query_kind="history")
    explain = ServingModel(run, ExactIndex(run.item_vectors)).signatures()["explain_rows"]
    for customers, purchases, items in ((1, 30_000, 12), (1200, 4, 1)):
        history = tf.zeros([customers, purchases], tf.int32)
        given = (
            history,
            tf.zeros(history.shape),
            tf.zeros([customers, 1], tf.int32),
            tf.zeros([customers, items], tf.int32),
        )
        with pytest.raises(tf.errors.InvalidArgumentError, match="fewer customers, purchases or items"):
            explain(*given)


def test_the_bonus_in_evaluation_adds_up_purchases_and_neighbours():
    scores = RepeatScores()
    scores.value.assign(np.random.default_rng(0).normal(size=BUCKETS))
    history = np.array([[-1, 2], [0, 4], [-1, -1]], np.int32)
    days = np.array([[0.0, 3.0], [9.0, 0.0], [0.0, 0.0]], np.float32)
    table = random_table(3, items=6)
    assembly = SimpleNamespace(model=SimpleNamespace(repeats=scores), neighbours=[table, table])
    items, values = purchase_bonus(assembly, history, days)
    found = np.zeros((3, 6))
    np.add.at(found, (items.rows, items.items), values)
    expected = np.zeros((3, 6))
    for customer in range(3):
        for item, ago in zip(history[customer], days[customer], strict=True):
            if item >= 0:
                expected[customer, item] += float(scores(tf.constant(ago)))
        for item, gain in plain_gains(table, history[customer].tolist()).items():
            expected[customer, item] += 2 * gain
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    nothing = SimpleNamespace(model=SimpleNamespace(repeats=None), neighbours=[])
    assert purchase_bonus(nothing, history, days) is None


def test_evaluation_holds_the_bonus_of_one_chunk_of_customers(monkeypatch):
    """And the lists are those of the whole bonus at once, to the bit."""
    customers, rng = 1300, np.random.default_rng(0)
    scores = RepeatScores()
    scores.value.assign(rng.normal(size=BUCKETS))
    history = rng.integers(-1, ITEMS, (customers, 6)).astype(np.int32)
    inputs = {"history": history, "days_ago": rng.integers(0, 90, history.shape).astype(np.float32)}
    queries, candidates = (rng.normal(size=(rows, 8)).astype(np.float32) for rows in (customers, ITEMS))
    assembly = SimpleNamespace(
        config=SimpleNamespace(model=SimpleNamespace(query=SimpleNamespace(kind="history"))),
        model=SimpleNamespace(repeats=scores),
        neighbours=[random_table(3, recent=5, older=0.5)],
    )
    whole = purchase_bonus(assembly, history, inputs["days_ago"])
    expected = exact_top_k(queries, candidates, 5, bonus=whole)
    blocks = []

    def counted(assembly, history, days_ago):
        blocks.append(len(history))
        return purchase_bonus(assembly, history, days_ago)

    monkeypatch.setattr(ranking, "purchase_bonus", counted)
    monkeypatch.setattr(ranking, "protocol_queries", lambda *_: (queries, inputs))
    monkeypatch.setattr(ranking, "candidate_vectors", lambda _: candidates)
    read = SimpleNamespace(lengths=np.ones(customers, np.int64))
    found = ranking.rank(assembly, SimpleNamespace(excluded=lambda: None, read=read), 5)
    np.testing.assert_array_equal(found.rows, expected[0])
    np.testing.assert_array_equal(found.scores, expected[1])
    assert max(blocks) <= MAX_QUERIES
    assert sum(blocks) == customers


def test_the_latest_items_are_those_bought_last_whenever_they_were_bought_first():
    user, item = np.array([0, 0, 0, 0, 1, 1]), np.array([5, 3, 4, 5, 2, 2])
    assert [list(row) for row in map(latest_items(user, item, 3, 2).__getitem__, range(3))] == [[4, 5], [2], []]
    assert list(latest_items(user, item, 3, 9)[0]) == [3, 4, 5]


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 20))
def test_ranges_hold_no_more_than_asked_for(sizes, most):
    found = list(ranges(np.array(sizes, float), most))
    assert [row for start, stop in found for row in range(start, stop)] == list(range(len(sizes)))
    assert all(sum(sizes[start:stop]) <= most or stop == start + 1 for start, stop in found)


def test_an_empty_catalogue_has_no_neighbours():
    nobody = Purchases(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int64), 0)
    for count in (followers, companions):
        assert count(nobody, 0, 1.0).rows.shape == (0, 0)
