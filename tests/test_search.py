"""Exact search against a full sort of the score matrix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrec.csr import Csr
from tfrec.search import exact_top_k


def sorted_top_k(queries, items, k, banned=None):
    """The oracle: every score by itself, sorted by (falling score, rising index)."""
    rows = []
    for row, query in enumerate(queries):
        scored = [(-float(np.dot(query, item)), index) for index, item in enumerate(items)]
        left = sorted(pair for pair in scored if not banned or pair[1] not in banned[row])
        rows.append(([index for _, index in left] + [-1] * k)[:k])
    return np.array(rows)


def whole_numbers(rng, *shape):
    """Vectors of small whole numbers: their inner products are exact, so ties are real ties."""
    return rng.integers(-2, 3, shape).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    n_queries=st.integers(1, 9),
    n_items=st.integers(1, 90),
    dim=st.integers(1, 4),
    k=st.integers(1, 30),
    threads=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_equals_a_full_sort_ties_and_exclusions_included(n_queries, n_items, dim, k, threads, seed):
    rng = np.random.default_rng(seed)
    queries, items = whole_numbers(rng, n_queries, dim), whole_numbers(rng, n_items, dim)
    banned = [set(rng.integers(0, n_items, rng.integers(0, 12)).tolist()) for _ in range(n_queries)]
    flat = [(row, item) for row, items_ in enumerate(banned) for item in items_]
    exclude = Csr.from_rows(*np.array(flat, int).reshape(-1, 2).T, n_queries)

    ids, scores = exact_top_k(queries, items, k, exclude=exclude, threads=threads)

    np.testing.assert_array_equal(ids, sorted_top_k(queries, items, k, banned))
    found = ids >= 0
    inner = np.einsum("uc,ukc->uk", queries, items[ids])
    np.testing.assert_array_equal(scores[found], inner[found])
    assert np.all(scores[~found] == -np.inf)


def test_many_chunks_and_tiles_of_real_vectors():
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((1300, 16)).astype(np.float32)
    items = rng.standard_normal((3001, 16)).astype(np.float32)
    ids, scores = exact_top_k(queries, items, 50)
    expected = queries.astype(np.float64) @ items.T  # compared by score: near-ties round either way
    best = -np.sort(-expected, axis=1)[:, :50]
    np.testing.assert_allclose(np.take_along_axis(expected, ids, 1), best, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scores, best, rtol=1e-5, atol=1e-5)
    assert all(len(set(row)) == 50 for row in ids.tolist())


def test_equal_items_come_in_order_of_their_index():
    ids, _ = exact_top_k(np.ones((3, 2)), np.ones((5000, 2)), 40)
    np.testing.assert_array_equal(ids, np.tile(np.arange(40), (3, 1)))


def test_exclusion_never_shortens_an_answer_that_could_be_full():
    items = np.arange(100, dtype=np.float32)[:, None]
    exclude = Csr.from_rows(np.zeros(90, int), np.arange(10, 100), 1)
    ids, _ = exact_top_k(np.ones((1, 1)), items, 10, exclude=exclude)
    assert ids[0].tolist() == list(range(9, -1, -1))


def test_progress_counts_every_query_once():
    done = []
    exact_top_k(np.ones((1100, 2)), np.ones((7, 2)), 3, progress=done.append)
    assert sum(done) == 1100


def test_no_queries_and_no_items():
    assert exact_top_k(np.ones((0, 2)), np.ones((7, 2)), 3)[0].shape == (0, 3)
    assert exact_top_k(np.ones((2, 2)), np.ones((0, 2)), 3)[0].tolist() == [[-1] * 3] * 2


@pytest.mark.parametrize(
    ("queries", "items", "k", "message"),
    [
        (np.ones((2, 3)), np.ones((4, 2)), 1, "of one D"),
        (np.ones((2, 3)), np.ones((4, 3)), 0, "k=0"),
        (
            np.ones((2, 3)),
            np.array([[1, 2, 3], [1, np.nan, 3]]),
            1,
            "items holds NaN or infinity, first in row 1",
        ),
    ],
)
def test_errors_name_the_argument(queries, items, k, message):
    with pytest.raises(ValueError, match=message):
        exact_top_k(queries, items, k)


def test_exclude_needs_a_row_for_each_query():
    with pytest.raises(ValueError, match="exclude has 1 rows for 2 queries"):
        exact_top_k(np.ones((2, 1)), np.ones((3, 1)), 1, exclude=Csr.from_rows(np.array([0]), np.array([0]), 1))
