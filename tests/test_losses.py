"""The retrieval objective against plain NumPy loops, known cases and TensorFlow Recommenders' own task."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrec.losses import (
    candidate_losses,
    hardest,
    own_items,
    sampling_log_probability,
    softmax_loss,
    softmax_losses,
    weighted_mean,
)


def oracle(logits, labels, *, weights=None, log_q=None, masked=None, smoothing=0.0):
    """The loss example by example, in float64."""
    losses = []
    for row, label in enumerate(labels):
        scores = [float(x) for x in logits[row]]
        if log_q is not None:
            scores = [s - float(q) for s, q in zip(scores, log_q)]
        kept = [c for c in range(len(scores)) if c == label or masked is None or not masked[row][c]]
        top = max(scores[c] for c in kept)
        log_sum = top + np.log(sum(np.exp(scores[c] - top) for c in kept))
        spread = np.mean([log_sum - scores[c] for c in kept])
        losses.append((1 - smoothing) * (log_sum - scores[label]) + smoothing * spread)
    weights = np.ones(len(losses)) if weights is None else weights
    return float(np.sum(losses * weights) / np.sum(weights))


def random_case(seed, examples=7, candidates=11):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(examples, candidates)).astype(np.float32) * 3,
        rng.integers(0, candidates, examples).astype(np.int32),
        rng.random(examples).astype(np.float32) + 0.1,
        np.log(rng.random(candidates) + 0.01).astype(np.float32),
        rng.random((examples, candidates)) < 0.3,
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.booleans(), st.booleans(), st.sampled_from([0.0, 0.1, 0.5]))
def test_equals_the_oracle(seed, weigh, correct, mask, smoothing):
    logits, labels, weights, log_q, masked = random_case(seed)
    options = {
        "weights": weights if weigh else None,
        "log_q": log_q if correct else None,
        "masked": masked if mask else None,
    }
    loss = softmax_loss(tf.constant(logits), labels, label_smoothing=smoothing, **options)
    assert float(loss) == pytest.approx(oracle(logits, labels, smoothing=smoothing, **options), rel=1e-4, abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000), st.booleans(), st.booleans(), st.booleans(), st.sampled_from([{}, {"hard_negatives": 3}])
)
def test_losses_and_gradients_of_candidates_are_those_of_their_logits(seed, correct, add, mask, further):
    _, labels, upstream, log_q, masked = random_case(seed)
    rng = np.random.default_rng(seed)
    queries, candidates = (tf.Variable(rng.normal(size=(n, 5)).astype(np.float32)) for n in masked.shape)
    values = tf.Variable(rng.normal(size=9).astype(np.float32))
    places = np.stack([rng.integers(0, n, 9) for n in masked.shape], 1).astype(np.int32)
    places[1], places[2, 1] = places[0], labels[places[2, 0]]  # one place twice, and a positive
    options = {"log_q": log_q if correct else None, "masked": masked if mask else None, **further}
    variables = [queries, candidates, values]
    with tf.GradientTape(persistent=True) as tape:
        logits = tf.matmul(queries, candidates, transpose_b=True)
        logits = tf.tensor_scatter_nd_add(logits, places, values) if add else logits
        plain = softmax_losses(logits, labels, **options)
        ours = candidate_losses(queries, candidates, labels, bonus=(places, values) if add else None, **options)
    np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-5)
    expected, found = (
        tape.gradient(loss, variables, upstream, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        for loss in (plain, ours)
    )
    for one, other in zip(expected, found):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 20.0])
@pytest.mark.parametrize("mask", [False, True])
def test_in_bfloat16_losses_and_gradients_are_almost_those_of_float32(scale, mask):
    rng = np.random.default_rng(0)
    queries, candidates = (rng.normal(size=(n, 32)).astype(np.float32) for n in (200, 150))
    candidates /= np.linalg.norm(candidates, axis=1, keepdims=True)
    labels = rng.integers(0, 150, 200).astype(np.int32)
    queries = candidates[labels] + 0.7 * queries / np.linalg.norm(queries, axis=1, keepdims=True)
    variables = [tf.Variable(x) for x in (queries * scale, candidates, rng.normal(size=9).astype(np.float32))]
    places = np.stack([np.arange(9), labels[:9] + np.arange(9) % 2], 1) % 150
    options = {
        "log_q": np.log(rng.random(150) ** 8 + 1e-5).astype(np.float32),
        "masked": rng.random((200, 150)) < 0.2 if mask else None,
        "bonus": (places.astype(np.int32), variables[2]),
    }
    with tf.GradientTape(persistent=True) as tape:
        exact, rounded = (
            candidate_losses(*variables[:2], labels, compute=compute, **options)
            for compute in (tf.float32, tf.bfloat16)
        )
    assert rounded.dtype == tf.float32
    np.testing.assert_allclose(rounded, exact, atol=0.08)
    assert float(tf.reduce_mean(rounded)) == pytest.approx(float(tf.reduce_mean(exact)), abs=0.004)
    for expected, found in zip(tape.gradient(exact, variables), tape.gradient(rounded, variables)):
        assert found.dtype == tf.float32
        assert np.linalg.norm(found - expected) < 0.012 * np.linalg.norm(expected)


@pytest.mark.parametrize("compute", [tf.float32, tf.bfloat16])
def test_a_vector_that_is_no_number_is_told(compute):
    queries = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    queries[1, 2] = np.nan
    losses = candidate_losses(
        tf.constant(queries), tf.constant(queries[[0, 2]]), [0, 1, 1], log_q=tf.zeros(2), compute=compute
    )
    assert np.isnan(losses).tolist() == [False, True, False]
    assert candidate_losses(tf.zeros([0, 4]), tf.constant(queries[:1]), tf.zeros([0], tf.int32)).shape == [0]


def test_equals_the_tfrs_task_on_distinct_candidates():
    """With every candidate once, in-batch softmax with logQ is TensorFlow Recommenders' Retrieval task, as a mean."""
    import tensorflow_recommenders as tfrs

    rng = np.random.default_rng(0)
    queries, items = rng.normal(size=(2, 9, 5)).astype(np.float32)
    chance = rng.random(9).astype(np.float32)
    task = tfrs.tasks.Retrieval(temperature=0.3)
    theirs = task(queries, items, candidate_sampling_probability=chance, compute_metrics=False) / 9
    ours = softmax_loss(queries @ items.T / 0.3, np.arange(9), log_q=np.log(chance))
    assert float(ours) == pytest.approx(float(theirs), rel=1e-4)


def test_hard_negatives_keep_the_highest():
    logits = tf.constant([[0.0, 5.0, 1.0, 4.0], [9.0, 8.0, 7.0, 6.0]])
    kept = np.sort(hardest(logits, [2, 0], 2).numpy()[:, 1:], axis=1)
    np.testing.assert_array_equal(kept, [[4.0, 5.0], [7.0, 8.0]])
    few = softmax_loss(logits, [2, 0], hard_negatives=2)
    assert float(few) == pytest.approx(oracle([[1, 5, 4], [9, 8, 7]], [0, 0]), rel=1e-5)
    assert float(softmax_loss(logits, [2, 0], hard_negatives=99)) == pytest.approx(oracle(logits, [2, 0]), rel=1e-5)


def test_a_masked_positive_still_counts():
    masked = np.array([[True, True, False]])
    loss = softmax_loss(tf.constant([[1.0, 2.0, 3.0]]), [0], masked=masked)
    assert float(loss) == pytest.approx(np.log(1 + np.exp(2.0)), rel=1e-5)


def test_finite_where_it_is_extreme():
    logits = tf.Variable([[1e4, -1e4], [0.0, 0.0]])
    with tf.GradientTape() as tape:
        loss = softmax_loss(logits, [1, 0])
    assert np.isfinite(float(loss))
    assert np.isfinite(tape.gradient(loss, logits).numpy()).all()
    assert float(softmax_loss(tf.zeros([0, 3]), tf.zeros([0], tf.int32))) == 0.0
    assert float(weighted_mean(tf.constant([1.0, 2.0]), tf.constant([0.0, 0.0]))) == 0.0


@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize("column", [0, 1, 40])
def test_broken_logits_are_no_number(broken, column):
    logits = np.random.default_rng(0).normal(size=(3, 50)).astype(np.float32)
    logits[1, column] = broken
    losses = softmax_losses(tf.constant(logits), tf.constant([0, 1, 2])).numpy()
    assert np.isnan(losses).tolist() == [False, True, False]


def test_a_loss_beyond_the_range_of_chances_is_exact():
    logits = tf.Variable([[0.0, 200.0, 1.0], [0.0, 1.0, 2.0]])
    with tf.GradientTape() as tape:
        losses = softmax_losses(logits, tf.constant([0, 2]))
    assert losses.numpy() == pytest.approx([200.0, np.log(1 + np.exp(-1) + np.exp(-2))], rel=1e-6)
    assert tape.gradient(losses, logits).numpy()[0] == pytest.approx([-1.0, 1.0, 0.0])


def test_half_precision_logits_are_computed_in_float32():
    logits, labels, *_ = random_case(3)
    loss = softmax_loss(tf.cast(logits, tf.bfloat16), labels)
    assert loss.dtype == tf.float32
    assert float(loss) == pytest.approx(oracle(tf.cast(tf.cast(logits, tf.bfloat16), tf.float32), labels), rel=1e-4)


def test_sampling_probability_is_the_share_of_batches_that_hold_the_item():
    rng = np.random.default_rng(1)
    frequency = np.array([0.7, 0.2, 0.1, 0.0])
    batches = 20_000
    seen = np.zeros(4)
    for _ in range(batches):
        drawn = np.concatenate([rng.choice(4, 3, p=frequency), rng.integers(0, 4, 2)])
        seen[np.unique(drawn)] += 1
    q = np.exp(sampling_log_probability(frequency, targets=3, negatives=2, catalogue=4))
    np.testing.assert_allclose(q, seen / batches, atol=0.02)
    unsampled = sampling_log_probability([0.0, 1.0], targets=3, negatives=0, catalogue=2)
    assert np.isfinite(unsampled).all()


def test_own_items_marks_what_each_customer_bought():
    slots = tf.constant([2, -1, 0, 1, -1])  # item -> candidate column
    windows = tf.constant([[-1, 0, 1], [2, 3, 2], [-1, -1, -1]])
    expected = [[False, False, True], [True, True, False], [False, False, False]]
    np.testing.assert_array_equal(own_items(windows, slots, 3), expected)
