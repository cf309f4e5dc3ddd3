"""The two-tower model: the bank, the corrections in the loss, and short histories read apart."""

import numpy as np
import pytest
import tensorflow as tf

from pipelines.batches import HistoryBatches, Purchases
from tfrec.encoders.attributes import AttributeEncoder
from tfrec.fusion import CrossAttentionFusion
from tfrec.models import ItemVectors, TwoTower, bought_before, by_length
from tfrec.repeats import BUCKETS
from tfrec.retrieval.assembly import clear_untrained
from tfrec.towers import HistoryTower, ItemTower, UserTower

ITEMS, DIM = 12, 8


class OneHot(tf.keras.layers.Layer):
    """A stand-in for a text encoder."""

    def call(self, ids, training=None):
        return tf.one_hot(ids, ITEMS + 1)

    def mask(self, ids):
        return ids != 0


def make_model(*, content=True, kind="history", **options):
    tf.keras.utils.set_random_seed(0)
    names = ("id_embedding", "id_dropout", "bias", "normalize", "tie")
    parts = {"id_embedding": True, "id_dropout": 0.0, "tie": kind == "user"} | {
        n: options.pop(n) for n in names if n in options
    }
    vectors = ItemVectors(ITEMS, DIM, content=content, **parts)
    tower = ItemTower(CrossAttentionFusion(DIM, 1, 2), text=OneHot()) if content else None
    positions = options.pop("positions", "learned")
    query = HistoryTower(DIM, 8, layers=1, heads=2, positions=positions) if kind == "history" else UserTower(DIM, 3)
    frequency = np.full(ITEMS, 1 / ITEMS)
    settings = {"frequency": frequency, "mean_purchases": 3.0, "mask_own": "none"} | options
    return TwoTower(vectors=vectors, query_tower=query, item_tower=tower, **settings)


def make_batch():
    history = np.full((4, 8), -1, np.int32)
    targets = np.full((4, 9), -1, np.int32)
    for row, bought in enumerate([[5], [1, 2], [3, 4, 2], [7, 1, 0, 9, 11]]):
        targets[row, 0] = bought[0]
        if len(bought) > 1:
            history[row, -len(bought) + 1 :] = bought[:-1]
            targets[row, -len(bought) + 1 :] = bought[1:]
    rows = np.arange(1, ITEMS, 2, dtype=np.int32)
    batch = {
        "history": history,
        "gaps": np.where(history >= 0, 2.0, 0.0).astype(np.float32),
        "targets": targets,
        "weights": np.ones(targets.shape, np.float32),
        "user": np.arange(4, dtype=np.int32) - 1,
        "user_fields": np.zeros((4, 0), np.int32),
        "rows": np.unique(targets[targets >= 0]).astype(np.int32),
        "encode_rows": rows,
        "items": {"tokens": (rows[:, None] + 1).astype(np.int32)},
    }
    return tf.nest.map_structure(tf.convert_to_tensor, batch)


@pytest.mark.parametrize("candidates", ["in_batch", "catalogue"])
@pytest.mark.parametrize("mask_own", ["none", "future", "all"])
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_reading_short_histories_apart_changes_nothing(candidates, mask_own, positions, monkeypatch):
    model = make_model(candidates=candidates, mask_own=mask_own, positions=positions, shortcut=True)
    batch = make_batch()
    assert len(by_length(batch)) == 2
    assert by_length(batch)[0]["history"].shape == (3, 2)
    apart = float(model.compute_loss(batch))
    monkeypatch.setattr(model, "_parts", lambda inputs: [inputs])
    assert float(model.compute_loss(batch)) == pytest.approx(apart, rel=1e-5)


@pytest.mark.parametrize("mask_own", ["none", "future", "all"])
def test_what_histories_leave_out_is_predicted_as_from_a_history_of_its_own(mask_own, monkeypatch):
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(4), [2, 4, 9, 9]).astype(np.int32)
    purchases = Purchases(user, rng.integers(0, ITEMS, 24).astype(np.int32), np.zeros(24, np.int64), 4)
    read = rng.random(24) < 0.5
    fields = np.zeros((4, 0), np.int32)
    batch = HistoryBatches(purchases, 8, 4, 0, ITEMS, fields, in_history=read).whole(0)
    options = {"candidates": "catalogue", "mask_own": mask_own, "positions": "none", "shortcut": True, "repeats": True}
    model = make_model(content=False, **options)
    model.compute_loss(tf.nest.map_structure(tf.convert_to_tensor, batch))
    model.repeats.value.assign_add(np.linspace(0.1, 1, BUCKETS))
    assert [len(part["history"]) for part in by_length(batch)] == [3, 1]
    together = float(model.compute_loss(tf.nest.map_structure(tf.convert_to_tensor, batch)))

    histories, targets = np.full((24, 8), -1, np.int32), np.full((24, 9), -1, np.int32)
    weights = np.zeros((24, 9), np.float32)
    for row, item in enumerate(purchases.item):
        others = purchases.item[(user == user[row]) & (np.arange(24) != row)]
        before = purchases.item[(user == user[row]) & (np.arange(24) < row) & read]
        histories[row, 8 - len(before) :] = before
        place = 8 if len(before) else 0
        targets[row, np.setdiff1d(np.arange(9), place)[: len(others)]] = others  # which mask_own leaves out
        targets[row, place], weights[row, place] = item, 1
    apart = {"history": histories, "targets": targets, "weights": weights, "gaps": np.zeros((24, 8), np.float32)}
    apart |= {"user": user, "user_fields": fields[user], "rows": batch["rows"]}
    monkeypatch.setattr(model, "_parts", lambda inputs: [inputs])
    assert float(model.compute_loss(tf.nest.map_structure(tf.convert_to_tensor, apart))) == pytest.approx(
        together, rel=1e-5
    )


def test_all_vectors_are_made_in_parts(monkeypatch):
    model = make_model()
    whole = model.all_vectors().numpy()
    monkeypatch.setattr("tfrec.models.CATALOGUE_PART", 5)
    np.testing.assert_array_equal(model.all_vectors(), whole)


def test_the_first_purchase_of_a_window_that_goes_on_is_the_customers_own():
    model = make_model(candidates="catalogue", mask_own="all")
    inputs = {"history": tf.constant([[3, 4, 5]]), "targets": tf.constant([[-1, 4, 5, 6]])}
    inputs["weights"] = tf.ones([1, 4])
    masked = model._examples(inputs, tf.zeros([1, 4, DIM]), ITEMS, tf.range(ITEMS)).masked
    assert all(np.flatnonzero(row).tolist() == [3, 4, 5, 6] for row in masked.numpy())


def test_rows_that_nothing_trains_say_nothing():
    tower = UserTower(DIM, 3, user_fields=(5,))
    tower(tf.constant([0]), tf.constant([[1]]))
    purchases = Purchases(*(np.array(column) for column in ([0, 0, 2], [1, 2, 3], [1, 2, 3])), 3)
    clear_untrained(tower, purchases.user, np.array([[0], [2], [3]], np.int32))  # the second customer has no purchase
    assert np.any(tower.table.numpy() != 0, axis=1).tolist() == [True, False, True, False]
    assert np.any(tower.field_tables[0].numpy() != 0, axis=1).tolist() == [False, False, False, True, False]


def test_attribute_values_that_no_item_has_say_nothing():
    encoder = AttributeEncoder([4, 3], DIM)
    values = np.array([[[2, 3], [0, 0]], [[3, 0], [2, 0]]], np.int32)
    encoder(tf.constant(values))
    encoder.clear_absent(values)
    told = np.any(encoder.table.embeddings.numpy() != 0, axis=1).reshape(-1).tolist()
    assert told == [False, False, True, True, True, False, True]  # the second field is missing once


def test_fresh_vectors_stand_in_for_the_bank():
    model, batch = make_model(), make_batch()
    vectors = model.vectors
    vectors.bank.assign(tf.random.normal([ITEMS, DIM]))
    fresh = model.encode(batch)
    slots = vectors.slots(batch["encode_rows"])
    ids = vectors.item_ids.numpy()
    vectors.item_ids.assign(ids * 0.0)
    both = vectors.vectors(tf.constant([0, 1, 2, 3]), fresh, slots)
    np.testing.assert_allclose(both[0], vectors.bank[0])
    np.testing.assert_allclose(both[1], fresh[0])
    np.testing.assert_allclose(both[3], fresh[1])
    model.remember(batch, fresh)
    np.testing.assert_allclose(vectors.vectors(tf.constant([1, 3])), fresh[:2])


def test_gradient_reaches_the_item_tower_through_targets_and_histories():
    model, batch = make_model(id_embedding=False), make_batch()
    with tf.GradientTape() as tape:
        fresh = model.encode(batch)
        tape.watch(fresh)
        loss = model.compute_loss(batch, fresh=fresh)
    gradient = tape.gradient(loss, fresh)
    touched = np.abs(tf.convert_to_tensor(gradient).numpy()).sum(1) > 0
    np.testing.assert_array_equal(touched, np.isin(batch["encode_rows"], batch["rows"]))


def test_unsold_items_have_no_id_vector():
    model = make_model(content=False)
    model.vectors.warm.assign([0.0] * 3 + [1.0] * (ITEMS - 3))
    out = model.all_vectors().numpy()
    assert (out[:3] == 0).all()
    assert (np.abs(out[3:]).sum(1) > 0).all()


def test_the_bias_is_a_dimension_that_the_query_reads_with_one():
    model, batch = make_model(bias=True), make_batch()
    model.compute_loss(batch)
    model.vectors.bias.assign(tf.range(ITEMS, dtype=tf.float32))
    queries = model.last_query(batch, model.all_vectors())
    assert queries.shape == (4, DIM + 1)
    np.testing.assert_array_equal(queries[:, -1], 1.0)
    with_bias = model.vectors.finish(model.all_vectors(), tf.range(ITEMS))
    np.testing.assert_array_equal(with_bias[:, -1], np.arange(ITEMS))


def test_an_empty_history_is_read_at_the_start_token():
    model, batch = make_model(), make_batch()
    vectors = model.all_vectors()
    np.testing.assert_allclose(model.last_query(batch, vectors)[0], model.queries(batch, vectors)[0, 0], rtol=1e-5)
    assert np.isfinite(model.last_query(batch, vectors)).all()


@pytest.mark.long
@pytest.mark.parametrize("options", [{"tie": True, "content": False, "normalize": False}, {"kind": "user"}])
def test_other_compositions_learn_a_batch_by_heart(options):
    model, batch = make_model(**options), make_batch()
    if options.get("kind") == "user":
        batch = {k: v for k, v in batch.items() if k not in ("history", "gaps")}
        batch |= {"targets": batch["targets"][:, :1], "weights": batch["weights"][:, :1]}
    optimizer = tf.keras.optimizers.Adam(0.05)
    losses = []
    for _ in range(40):
        with tf.GradientTape() as tape:
            loss = model.compute_loss(batch, training=True)
        optimizer.minimize(loss, model.trainable_variables, tape=tape)
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]


def test_items_that_no_history_holds_say_nothing_in_one():
    vectors = make_model(content=False).vectors
    before = vectors.history_ids.numpy()
    vectors.clear_unread(np.array([3, 5, 3]))
    expected = np.where(np.isin(np.arange(ITEMS), [3, 5])[:, None], before, 0)
    np.testing.assert_array_equal(vectors.history_ids.numpy(), expected)


def test_id_dropout_takes_whole_id_vectors_and_no_rescaling():
    model = make_model(id_dropout=0.5, normalize=False)
    rows = tf.zeros([2000], tf.int32)
    dropped = model.vectors.vectors(rows, training=True).numpy()
    kept = np.abs(dropped).sum(1) > 0
    assert 0.4 < kept.mean() < 0.6
    np.testing.assert_allclose(dropped[kept], np.broadcast_to(model.vectors.item_ids[0], (kept.sum(), DIM)), rtol=1e-6)
    assert (np.abs(model.vectors.vectors(rows).numpy()).sum(1) > 0).all()


def test_bought_before_reads_up_to_the_place():
    history = tf.constant([[-1, 4, 6]])
    columns = tf.tensor_scatter_nd_update(tf.fill([8], -1), [[4], [6]], [0, 1])
    rows, places = tf.constant([0, 0, 0]), tf.constant([0, 2, 3])
    np.testing.assert_array_equal(
        bought_before(history, columns, 2, rows, places), [[False, False], [True, False], [True, True]]
    )


def test_nothing_to_tell_items_by_is_an_error():
    with pytest.raises(ValueError, match="content .* or an id embedding"):
        ItemVectors(3, 2, content=False, id_embedding=False)
