"""LazyAdamW against Adam written out in NumPy, on dense kernels and on embedding tables."""

import numpy as np
import pytest
import tensorflow as tf

from tfrec.training.optimizers import LazyAdamW


def adam(value, gradients, *, rate, decay=0.0):
    """Adam with bias correction and decoupled decay, step by step in float64."""
    value, m, v = np.array(value, np.float64), 0.0, 0.0
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        value -= rate * decay * value
        value -= rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-7)
    return value


def test_dense_steps_are_adams():
    kernel = tf.Variable([[1.0, -2.0]], name="dense/kernel")
    bias = tf.Variable([0.5, 3.0], name="dense/bias")
    optimizer = LazyAdamW(0.01, decay=0.1)
    steps = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    for g in steps:
        optimizer.apply_gradients([(tf.constant(g[None]), kernel), (tf.constant(g), bias)])
    np.testing.assert_allclose(kernel, adam([[1.0, -2.0]], steps[:, None], rate=0.01, decay=0.1), rtol=1e-4)
    np.testing.assert_allclose(bias, adam([0.5, 3.0], steps, rate=0.01), rtol=1e-4)


def test_a_table_moves_only_where_it_was_read():
    table = tf.Variable(np.ones((4, 2), np.float32), name="item_ids")
    optimizer = LazyAdamW(0.1)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.gather(table, [1, 1, 3]) * [[1.0, 2.0], [1.0, 2.0], [0.5, -1.0]])
    gradient = tape.gradient(loss, table)
    assert isinstance(gradient, tf.IndexedSlices)
    optimizer.apply_gradients([(gradient, table)])
    np.testing.assert_allclose(table[0], [1, 1])
    np.testing.assert_allclose(table[2], [1, 1])
    np.testing.assert_allclose(table[1], adam([1.0, 1.0], [np.array([2.0, 4.0])], rate=0.1), rtol=1e-5)
    np.testing.assert_allclose(table[3], adam([1.0, 1.0], [np.array([0.5, -1.0])], rate=0.1), rtol=1e-5)


def test_a_step_reads_no_table_as_a_whole():
    table = tf.Variable(np.ones((40, 2), np.float32), name="item_ids")
    optimizer = LazyAdamW(0.1, decay=0.1, global_clipnorm=1.0)
    optimizer.build([table])

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.gather(table, [1, 1, 3]))
        optimizer.apply_gradients([(tape.gradient(loss, table), table)])

    operations = step.get_concrete_function().graph.get_operations()
    assert [operation.type for operation in operations].count("ResourceScatterUpdate") == 3  # the table and its moments
    whole = [op.name for op in operations if any(value.shape == (40, 2) for value in (*op.inputs, *op.outputs))]
    assert not whole


def test_rates_by_part_and_the_cut():
    cut = tf.Variable(1.0)
    names = ["item_tower/text_encoder/kernel", "item_tower/kernel", "query/kernel"]
    values = [tf.Variable([[1.0]], name=name) for name in names]
    optimizer = LazyAdamW(0.1, rates={"item_tower": 0.5, "item_tower/text_encoder": 0.1}, rate_cut=cut)
    optimizer.apply_gradients([(tf.constant([[1.0]]), v) for v in values])
    moved = [1.0 - float(v[0, 0]) for v in values]
    np.testing.assert_allclose(moved, [0.01, 0.05, 0.1], rtol=1e-4)
    cut.assign(0.0)
    optimizer.apply_gradients([(tf.constant([[1.0]]), v) for v in values])
    np.testing.assert_allclose([1.0 - float(v[0, 0]) for v in values], moved, rtol=1e-6)


def test_a_rate_of_a_variable_named_whole_is_that_variables_alone():
    kernel, head = tf.Variable([1.0], name="kernel"), tf.Variable([1.0], name="head/kernel")
    optimizer = LazyAdamW(0.1, rates={kernel.name: 0.0})
    assert (optimizer.rate_of(kernel.name), optimizer.rate_of(head.name)) == (0.0, 1.0)


def test_the_global_norm_is_bounded():
    a, b = tf.Variable([0.0]), tf.Variable([0.0])
    optimizer = LazyAdamW(1.0, global_clipnorm=1.0)
    optimizer.build([a, b])
    optimizer.apply_gradients([(tf.constant([30.0]), a), (tf.constant([40.0]), b)])
    np.testing.assert_allclose(
        [optimizer._first[0].numpy()[0], optimizer._first[1].numpy()[0]], [0.06, 0.08], rtol=1e-4
    )


def test_config_round_trip():
    optimizer = LazyAdamW(0.02, decay=0.3, rates={"x": 0.5}, beta_1=0.8)
    again = LazyAdamW.from_config(optimizer.get_config())
    assert (again.decay, again.rates, again.beta_1) == (0.3, {"x": 0.5}, 0.8)
    assert float(again.learning_rate) == pytest.approx(0.02)


def test_a_variable_without_a_gradient_does_not_shift_the_others():
    first, second = tf.Variable(tf.zeros([3])), tf.Variable(tf.zeros([2, 2]))
    optimizer = LazyAdamW(0.1)
    optimizer.build([first, second])
    optimizer.apply_gradients([(tf.ones([2, 2]), second)])
    np.testing.assert_array_equal(first, np.zeros(3))
    np.testing.assert_allclose(second, np.full((2, 2), -0.1), rtol=1e-4)
