"""Exact search against a full sort of the score matrix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrec.csr import Csr
from tfrec.index import search
from tfrec.index.screen import Screen
from tfrec.index.search import exact_top_k


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
    screen=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_equals_a_full_sort_ties_and_exclusions_included(n_queries, n_items, dim, k, threads, screen, seed):
    rng = np.random.default_rng(seed)
    queries, items = whole_numbers(rng, n_queries, dim), whole_numbers(rng, n_items, dim)
    banned = [set(rng.integers(0, n_items, rng.integers(0, 12)).tolist()) for _ in range(n_queries)]
    flat = [(row, item) for row, items_ in enumerate(banned) for item in items_]
    exclude = Csr.from_rows(*np.array(flat, int).reshape(-1, 2).T, n_queries)

    ids, scores = exact_top_k(queries, items, k, exclude=exclude, threads=threads, screen=screen)

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


def drawn(rng, n_queries, n_items, dim, *, spread=0.0, shift=0.0):
    """Vectors of lengths that differ by e**`spread`; with a `shift`, all products are of one sign."""
    queries, items = rng.standard_normal((n_queries, dim)), rng.standard_normal((n_items, dim))
    lengths = np.exp(spread * rng.standard_normal((n_items, 1)))
    return (queries + abs(shift)).astype(np.float32), ((items + shift) * lengths).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(
    dim=st.sampled_from([3, 16, 128]),
    k=st.sampled_from([1, 7, 20]),
    spread=st.sampled_from([0.0, 0.3, 2.0]),
    shift=st.sampled_from([0.0, 2.0, -2.0]),
    n_items=st.sampled_from([6_000, 8_192, 11_231]),
    seed=st.integers(0, 1000),
)
def test_a_screen_in_bfloat16_loses_none_of_the_best(dim, k, spread, shift, n_items, seed):
    rng = np.random.default_rng(seed)
    queries, items = drawn(rng, 20, n_items, dim, spread=spread, shift=shift)
    hidden = rng.integers(0, 20, 50), rng.integers(0, n_items, 50)

    found = Screen(items).scores(32).candidates(queries, k, hidden)

    if found is None:  # all products are nearly one: nothing can be ruled out
        return
    exact = queries.astype(np.float64) @ items.T.astype(np.float64)
    exact[hidden] = -np.inf
    best = np.argsort(-exact, axis=1)[:, :k]
    left = set(zip(*(rows.tolist() for rows in found), strict=True))
    assert left.issuperset((row, item) for row in range(20) for item in best[row].tolist())
    assert left.isdisjoint(zip(*(rows.tolist() for rows in hidden), strict=True))


@pytest.mark.parametrize("spread", [0.0, 0.3])
@pytest.mark.parametrize("shift", [0.0, -0.3])
def test_a_screen_rules_out_nearly_everything(spread, shift):
    rng = np.random.default_rng(0)
    queries, items = drawn(rng, 64, 20_000, 128, spread=spread, shift=shift)
    found = Screen(items).scores(64).candidates(queries, 10, (np.empty(0, int), np.empty(0, int)))
    assert found is not None
    assert len(found[0]) < 64 * 10 * 4


@pytest.mark.parametrize(
    ("rows", "query", "k", "excluded"),
    [
        ({0: (3e19, 0), 64: (1, 0)}, (1, 1), 2, []),  # the length overflows float32
        ({0: (3e19, 0), 64: (1, 0)}, (1.001, 1), 1, [0]),
        (
            {0: (2.0**-70 * (1 + 0.9 * 2**-8), -(2.0**-70)), 64: (2.0**-70 * (2**-9 + 2**-10), 0)},
            (1, 1),
            1,
            [],
        ),  # vanishes
    ],
)
def test_numbers_at_the_ends_of_float32_are_searched_exactly(rows, query, k, excluded):
    items = np.zeros((1024, 2), np.float32)
    for row, vector in rows.items():
        items[row] = vector
    queries = np.array([query], np.float32)
    exclude = Csr.from_rows(np.zeros(len(excluded), int), np.array(excluded, int), 1)
    found = exact_top_k(queries, items, k, exclude=exclude, screen=True)[0]
    np.testing.assert_array_equal(found, exact_top_k(queries, items, k, exclude=exclude, screen=False)[0])


def test_fewer_threads_search_where_memory_is_short(monkeypatch):
    monkeypatch.setattr(search, "SCORE_BYTES", 4 * 500 * 16)
    rng = np.random.default_rng(0)
    queries, items = rng.standard_normal((50, 4)), rng.standard_normal((500, 4))
    ids, _ = exact_top_k(queries, items, 3, threads=4)
    np.testing.assert_array_equal(ids, np.argsort(-(queries @ items.T), axis=1)[:, :3])


@pytest.mark.parametrize("entries", [9_000, 150_000])  # more than a quarter of the groups: all maxima are made anew
def test_a_screened_search_answers_as_any_other(entries):
    rng = np.random.default_rng(0)
    queries, items = drawn(rng, 700, 20_000, 64)
    exclude = Csr.from_rows(np.sort(rng.integers(0, 700, entries)), rng.integers(0, 20_000, entries), 700)
    lifted = Csr.from_rows(np.sort(rng.integers(0, 700, entries)), rng.integers(0, 20_000, entries), 700)
    values = rng.normal(size=entries).astype(np.float32) * 20
    options = {"exclude": exclude, "bonus": (lifted, values), "threads": 2}

    ids, scores = exact_top_k(queries, items, 10, screen=True, **options)
    expected_ids, expected_scores = exact_top_k(queries, items, 10, screen=False, **options)

    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-4)
    assert np.mean(ids == expected_ids) > 0.999  # near-ties may change places


def test_vectors_that_a_screen_cannot_tell_apart_are_searched_without_it():
    rng = np.random.default_rng(0)
    items = 100 + rng.standard_normal((9_000, 4)).astype(np.float32)
    queries = np.ones((5, 4), np.float32)
    assert Screen(items).scores(5).candidates(queries, 3, (np.empty(0, int), np.empty(0, int))) is None
    ids, _ = exact_top_k(queries, items, 3, screen=True)
    np.testing.assert_array_equal(ids, np.tile(np.argsort(-items.sum(1))[:3], (5, 1)))


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
