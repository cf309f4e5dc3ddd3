"""Continuations of histories: against plain loops over a small chain of known probabilities."""

import itertools

import numpy as np
import pytest

from tfrec.pretraining.generation import Generation, GenerationError, log_softmax

ITEMS = 6


@pytest.fixture(scope="module")
def chain():
    """Logits of the next item given the last one, `[ITEMS, ITEMS]`."""
    return np.random.default_rng(0).normal(size=(ITEMS, ITEMS)).astype(np.float32) * 2


def search_of(chain):
    """A model that knows the most recent item alone."""

    def search(history, days_ago, excluded, customers, k):
        scores = chain[history[:, -1]].copy()
        for row, out in enumerate(excluded):
            scores[row, out[out >= 0]] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        found = np.take_along_axis(scores, order, 1)
        return np.where(np.isfinite(found), order, -1).astype(np.int32), found

    return search


def go(chain, generation, starts, excluded=None):
    history = np.stack([np.full(len(starts), -1), starts], 1).astype(np.int32)
    excluded = np.full((len(starts), 1), -1, np.int32) if excluded is None else excluded
    numbers = np.arange(len(starts))
    return generation(search_of(chain), history, np.zeros(history.shape, np.float32), excluded, numbers)


def log_probability(chain, start, path):
    """Of a continuation, each item once."""
    total, left, last = 0.0, list(range(ITEMS)), start
    for item in path:
        total += chain[last][item] - np.log(np.exp(chain[last][left].astype(np.float64)).sum())
        left.remove(item)
        last = item
    return total


def test_greedy_takes_the_best_item_of_every_step(chain):
    rows, logs = go(chain, Generation(3), [2, 5])
    for start, path, log in zip([2, 5], rows, logs):
        left, last = set(range(ITEMS)), start
        for item in path:
            assert item == max(left, key=lambda i: chain[last][i])
            left.remove(item)
            last = item
        assert log.sum() == pytest.approx(log_probability(chain, start, path), abs=1e-4)


def test_enough_beams_find_the_most_probable_continuation(chain):
    rows, logs = go(chain, Generation(3, strategy="beam", beams=ITEMS * ITEMS, candidates=50), [0, 1, 4])
    for start, path, log in zip([0, 1, 4], rows, logs):
        best = max(itertools.permutations(range(ITEMS), 3), key=lambda p: log_probability(chain, start, p))
        assert tuple(path) == best
        assert log.sum() == pytest.approx(log_probability(chain, start, best), abs=1e-4)


def test_one_beam_is_greedy(chain):
    greedy, beam = (go(chain, Generation(4, strategy=how, beams=1), [0, 3])[0] for how in ("greedy", "beam"))
    np.testing.assert_array_equal(greedy, beam)


def test_samples_follow_the_probabilities(chain):
    customers = 4000
    rows, _ = go(chain, Generation(1, strategy="sample", temperature=2.0, top_k=3), [2] * customers)
    logits = np.sort(chain[2])[::-1][:3] / 2
    expected = np.exp(logits) / np.exp(logits).sum()
    shares = np.bincount(rows[:, 0], minlength=ITEMS)[np.argsort(-chain[2])] / customers
    np.testing.assert_allclose(shares, [*expected, 0, 0, 0], atol=0.03)
    again, _ = go(chain, Generation(1, strategy="sample", temperature=2.0, top_k=3), [2] * customers)
    np.testing.assert_array_equal(rows, again)


@pytest.mark.parametrize("strategy", ["greedy", "beam", "sample"])
def test_nothing_twice_nothing_excluded_and_gaps_where_nothing_is_left(chain, strategy):
    rows, _ = go(chain, Generation(ITEMS, strategy=strategy), [1], excluded=np.array([[0, 3]], np.int32))
    assert sorted(rows[0][:4]) == [1, 2, 4, 5]
    assert (rows[0][4:] == -1).all()


def test_log_softmax_of_nothing_is_nothing():
    np.testing.assert_array_equal(log_softmax(np.full((1, 3), -np.inf)), [[-np.inf] * 3])


@pytest.mark.parametrize(
    "options", [{"length": 0}, {"temperature": 0.0}, {"beams": 0}, {"strategy": "beam", "beams": 9, "candidates": 5}]
)
def test_senseless_options_are_refused(options):
    with pytest.raises(GenerationError):
        Generation(**({"length": 2} | options))
