"""The indexes against NumPy, and what ScaNN is known to do silently wrong."""

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import pytest
import tensorflow as tf

from tests.serving_fakes import make_vectors
from tfrec import chunks
from tfrec.evaluation.scores import LOWEST
from tfrec.index import indexes as index_module
from tfrec.index import tuning as index_tuning
from tfrec.index.indexes import (
    MIN_SCANN_ITEMS,
    ExactIndex,
    RetrievalIndexError,
    ScannIndex,
    check_vectors,
    default_leaves,
)
from tfrec.index.tuning import build_scann, recall_against

ITEMS, DIM = 2000, 16


def oracle(queries: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :k]


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return make_vectors(ITEMS, DIM)


@pytest.fixture(scope="module")
def queries(vectors) -> np.ndarray:
    random = np.random.default_rng(1)
    return (vectors[random.integers(0, ITEMS, 300)] + 0.1 * random.normal(size=(300, DIM))).astype(np.float32)


@pytest.fixture(scope="module")
def scann(vectors):
    built = ScannIndex(vectors)
    built.tune(k=12, leaves_to_search=built.leaves, reorder=200)
    yield built
    built.release()


def run(index, queries, k):
    search = tf.function(
        index.search,
        input_signature=[tf.TensorSpec([None, DIM]), tf.TensorSpec([], tf.int32)],
        autograph=False,
    )
    scores, rows = search(tf.constant(queries), tf.constant(k))
    return scores.numpy(), rows.numpy()


@pytest.mark.parametrize("k", [1, 12, ITEMS])
def test_exact_search_equals_sorting_all_scores(vectors, queries, k):
    scores, rows = run(ExactIndex(vectors), queries[:20], k)
    expected = oracle(queries[:20], vectors, k)
    np.testing.assert_allclose(scores, np.take_along_axis(queries[:20] @ vectors.T, expected, 1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(queries[:20] @ vectors.T, rows, 1), scores, rtol=1e-4, atol=1e-5)
    assert all(len(set(row)) == k for row in rows.tolist())


def test_exact_search_is_the_same_in_chunks(vectors, queries, monkeypatch):
    whole = run(ExactIndex(vectors), queries, 12)
    monkeypatch.setattr(chunks, "FLOATS_AT_ONCE", 7 * ITEMS)  # chunks of 7 queries, the last one not full
    chunked = run(ExactIndex(vectors), queries, 12)
    np.testing.assert_array_equal(chunked[1], whole[1])
    np.testing.assert_allclose(chunked[0], whole[0], rtol=1e-5)


def test_equal_scores_are_ordered_by_row():
    vectors = np.ones((30, DIM), np.float32)
    _, rows = run(ExactIndex(vectors), vectors[:2], 5)
    np.testing.assert_array_equal(rows, [[0, 1, 2, 3, 4]] * 2)


def test_the_best_by_other_scores_are_found_and_the_rest_scores_lowest(vectors, queries):
    index = ExactIndex(vectors)
    masks = np.zeros((2, ITEMS), bool)
    masks[0, ::3], masks[1, 5:8] = True, True
    mask_of = np.arange(20) % 2

    def allowed(part):
        part = slice(int(part.start), int(part.stop))
        return tf.where(masks[mask_of[part]], index.scores(queries[part]), LOWEST)

    scores, rows = index.top_k(allowed, 20, 12)
    for query in range(20):
        allowed = np.flatnonzero(masks[mask_of[query]])
        expected = allowed[oracle(queries[query : query + 1], vectors[allowed], 12)[0]]
        np.testing.assert_array_equal(rows[query][: len(expected)], expected)
        assert (scores[query].numpy()[len(expected) :] == LOWEST).all()


@pytest.mark.parametrize("batch", [0, 1, 40, 300])
@pytest.mark.parametrize("k", [1, 12, 60])
def test_scann_finds_nearly_what_exact_search_finds(scann, vectors, queries, batch, k):
    scores, rows = run(scann, queries[:batch], k)
    assert rows.shape == scores.shape == (batch, k)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert recall_against(rows, oracle(queries[:batch], vectors, k)) >= 0.97


@pytest.mark.parametrize("large", [10_000, 120, 60])
def test_a_batch_in_more_pieces_is_answered_alike(scann, queries, monkeypatch, large):
    """The batch of 300 goes in one or two pieces a core, or to ScaNN's own threads; the index has two cores."""
    expected = run(scann, queries, 12)
    monkeypatch.setattr(index_module, "LARGE_PIECE", large)
    monkeypatch.setattr(scann, "pieces", 2)
    for found, known in zip(run(scann, queries, 12), expected):
        np.testing.assert_array_equal(found, known)


def test_rows_that_scann_would_leave_short_are_completed(vectors, queries):
    """One leaf of 200 holds fewer than 60 items: ScaNN fills up with item 0 and NaN."""
    index = ScannIndex(vectors, leaves=100)
    index.tune(k=12, leaves_to_search=1, reorder=60)
    short, _ = index.search_with(tf.constant(queries[:50]), 60, 1, 60)
    assert np.isnan(short.numpy()).any()
    index._effort = lambda k: (tf.constant(1), tf.constant(60))
    scores, rows = run(index, queries[:50], 60)
    assert np.isfinite(scores).all()
    assert all(len(set(row)) == 60 for row in rows.tolist())
    np.testing.assert_allclose(np.take_along_axis(queries[:50] @ vectors.T, rows, 1), scores, rtol=1e-3, atol=1e-4)
    index.release()


def test_fewer_reordered_than_asked_for_does_not_shorten_the_answer(scann, queries):
    scann.tune(k=12, leaves_to_search=scann.leaves, reorder=5)
    scores, rows = run(scann, queries[:40], 50)
    scann.tune(k=12, leaves_to_search=scann.leaves, reorder=200)
    assert rows.shape == (40, 50)
    assert np.isfinite(scores).all()


def test_zero_and_duplicate_vectors_are_fine(vectors, queries):
    changed = vectors.copy()
    changed[:200] = 0.0
    changed[200:500] = vectors[200]
    index = ScannIndex(changed)
    scores, rows = run(index, queries[:40], 12)
    index.release()
    assert np.isfinite(scores).all()
    assert all(len(set(row)) == 12 for row in rows.tolist())


def test_more_leaves_are_searched_for_more_items(scann):
    small, large = (tuple(map(int, scann._effort(tf.constant(k)))) for k in (12, 400))
    assert small == (scann.leaves_to_search, scann.reorder)
    assert large[1] >= 400 * 2


@pytest.mark.parametrize(
    ("items", "leaves"), [(15, None), (MIN_SCANN_ITEMS - 1, None), (ITEMS, ITEMS // 15), (ITEMS, 0)]
)
def test_what_scann_cannot_build_is_an_error_that_says_so(vectors, items, leaves):
    with pytest.raises(RetrievalIndexError, match="use the exact index"):
        ScannIndex(vectors[:items], leaves=leaves)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_broken_vectors_are_named_before_scann_sees_them(vectors, value):
    broken = vectors.copy()
    broken[3, 2] = broken[1700, 0] = value
    with pytest.raises(RetrievalIndexError, match=r"2 of 2000 .*items a3, a1700"):
        check_vectors(broken, [f"a{row}" for row in range(ITEMS)])


@pytest.mark.parametrize("shape", [(0, DIM), (5,), (4, DIM)])
def test_vectors_must_fit_the_items(shape):
    with pytest.raises(RetrievalIndexError, match="one vector an item"):
        check_vectors(np.zeros(shape), ["a"] * 5 if shape != (0, DIM) else [])


@pytest.mark.parametrize(("items", "low", "high"), [(1000, 8, 12), (105_000, 800, 1100), (1_000_000, 3500, 4500)])
def test_leaves_grow_with_the_catalogue(items, low, high):
    assert low <= default_leaves(items) <= high


def test_tuning_reaches_its_target_on_other_queries_too(vectors, queries):
    index, report = build_scann(vectors, queries=queries[:150], target=0.95)
    assert report.kind == "scann"
    assert report.recall >= 0.95
    assert report.settings["leaves_to_search"] <= index.leaves
    _, rows = run(index, queries[150:], 12)
    index.release()
    assert recall_against(rows, oracle(queries[150:], vectors, 12)) >= 0.93


@pytest.mark.parametrize(
    ("items", "worth", "counts"), [(ITEMS, 0.0, [20, 50]), (ITEMS, 1e9, [20]), (ITEMS + 1, 0.0, [20])]
)
def test_finer_partitions_are_built_where_a_search_costs_much(vectors, queries, monkeypatch, items, worth, counts):
    monkeypatch.setattr(index_tuning, "FINER_FROM", items)
    monkeypatch.setattr(index_tuning, "WORTH_FINER", worth)
    told: list[str] = []
    index, report = build_scann(vectors, queries=queries, target=0.95, progress=told.append)
    assert [int(text.split()[-2]) for text in told if text.startswith("building")] == counts
    assert report.recall >= 0.95
    assert index.leaves == report.settings["leaves"]
    assert index.leaves in counts
    _, rows = run(index, queries, 12)
    index.release()
    assert recall_against(rows, oracle(queries, vectors, 12)) >= 0.93


@pytest.mark.parametrize(("items", "target", "note"), [(200, 0.98, "too few for ScaNN"), (ITEMS, 1.01, "at its best")])
def test_exact_search_stands_in_where_scann_does_not_fit(vectors, items, target, note):
    index, report = build_scann(vectors[:items], target=target)
    assert isinstance(index, ExactIndex)
    assert report.kind == "exact"
    assert note in report.note


@pytest.mark.parametrize("leaves", [0, ITEMS // 16 + 1])
def test_leaves_that_cannot_be_are_refused(vectors, leaves):
    with pytest.raises(RetrievalIndexError, match=f"--leaves {leaves} must be 1 to {ITEMS // 16}"):
        build_scann(vectors, leaves=leaves)


def test_recall_counts_what_is_found_at_any_rank():
    assert recall_against(np.array([[3, 1], [7, 8]]), np.array([[1, 2], [8, 7]])) == 0.75
