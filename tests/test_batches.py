"""Histories and windows against plain Python; nothing of the future in a history; one integer is the whole state."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.batches import DAY, HistoryBatches, Purchases, cut_windows, drop_modalities, make_dataset
from pipelines.content import ItemContent, photo_arrays
from pipelines.epochs import ShuffledRows
from pipelines.prefetching import made_ahead


def purchases_of(lists, *, days=None):
    """Purchases of one list of items a customer, a day apart each (or on the given days)."""
    user = np.repeat(np.arange(len(lists)), [len(x) for x in lists])
    item = np.array([i for x in lists for i in x], np.int32)
    day = np.array([d for x in (days or [range(len(y)) for y in lists]) for d in x], float)
    return Purchases(user.astype(np.int32), item, (day * DAY).astype(np.int64), len(lists))


def batches_of(purchases, **options):
    options = {"length": 3, "batch_size": 2, "seed": 0, "items": 50} | options
    return HistoryBatches(purchases, user_fields=np.zeros((purchases.users, 0), np.int32), **options)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 40), max_size=12), min_size=1, max_size=8), st.integers(1, 5))
def test_every_purchase_is_predicted_once_from_what_came_before(lists, length):
    if not any(lists):
        return
    purchases = purchases_of(lists)
    maker = batches_of(purchases, length=length, batch_size=1)
    predicted = []
    for window in range(len(maker.windows)):
        batch = maker.histories(np.array([window]), np.random.default_rng(0))
        user, history, targets = int(batch["user"][0]), batch["history"][0], batch["targets"][0]
        for place, target in enumerate(targets):
            if target < 0:
                continue
            read = [int(i) for i in history[:place] if i >= 0]
            bought = lists[user]
            matches = [
                n for n in range(len(bought)) if bought[n] == target and bought[max(0, n - len(read)) : n] == read
            ]
            assert matches, (bought, read, target)
            predicted.append((user, int(target)))
    assert sorted(predicted) == sorted((u, i) for u, x in enumerate(lists) for i in x)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=12), min_size=1, max_size=8),
    st.integers(1, 5),
)
def test_what_histories_leave_out_is_predicted_from_those_before_it(lists, length):
    if not any(lists):
        return
    purchases = purchases_of([[item for item, _ in bought] for bought in lists])
    held = np.array([held for bought in lists for _, held in bought], bool)
    maker = batches_of(purchases, length=length, batch_size=1, in_history=held)
    predicted = []
    for window in range(len(maker.windows)):
        batch = maker.histories(np.array([window]), np.random.default_rng(0))
        user, history, places, targets = (batch[name][0] for name in ("user", "history", "target_places", "targets"))
        bought = lists[user]
        start, stop = (edge[window] - purchases.offsets[user] for edge in (maker.windows.start, maker.windows.end))
        kept = [place for place in range(stop - 1) if bought[place][1]][-length:]  # also from before the window
        assert history.tolist() == [-1] * (length - len(kept)) + [bought[place][0] for place in kept]
        for column in np.flatnonzero(targets >= 0):
            place = stop - (length + 1 - column) if column else start
            assert bought[place][0] == targets[column]
            read = history[: places[column]]
            assert read[read >= 0].tolist() == [bought[before][0] for before in kept if before < place]
            predicted.append((user, int(targets[column])))
        assert (
            batch["gaps"][0].tolist()
            == [0.0] * (length - len(kept)) + np.diff([*kept, stop - 1][-len(kept) - 1 :]).tolist()
        )
    assert sorted(predicted) == sorted((u, i) for u, x in enumerate(lists) for i, _ in x)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 40), max_size=12), min_size=1, max_size=8),
    st.integers(0, 5),
    st.lists(st.booleans(), min_size=96, max_size=96),
)
def test_purchases_that_are_only_read_are_no_targets(lists, length, draws):
    purchases = purchases_of(lists)
    predicted = np.array(draws[: len(purchases)], bool)
    if not predicted.any():
        return
    every = batches_of(purchases, length=length, batch_size=1)
    some = batches_of(purchases, length=length, batch_size=1, predicted=predicted)
    spans = {(start, end): n for n, (start, end) in enumerate(zip(every.windows.start, every.windows.end))}
    named = np.zeros(len(purchases), bool)
    for window, (start, end) in enumerate(zip(some.windows.start, some.windows.end)):
        got = some.histories(np.array([window]), np.random.default_rng(0))
        like = every.histories(np.array([spans.pop((start, end))]), np.random.default_rng(0))
        np.testing.assert_array_equal(got["history"], like["history"])
        wanted = [n for n in range(start if some.windows.first[window] else start + 1, end) if predicted[n]]
        assert got["targets"][got["targets"] >= 0].tolist() == purchases.item[wanted].tolist() != []
        assert ((got["targets"] == like["targets"]) | (got["targets"] == -1)).all()
        assert (got["weights"] > 0).tolist() == (got["targets"] >= 0).tolist()
        named[start:end] = True
    for window in spans.values():  # those left out had no target to offer
        start = every.windows.start[window] + (not every.windows.first[window])
        assert not predicted[start : every.windows.end[window]].any()
    np.testing.assert_array_equal(some.named, named)
    assert some.mean_purchases == named.sum() / len(some.windows)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 4), max_size=6), min_size=1, max_size=5),
    st.integers(1, 4),
    st.sampled_from(["none", "ties", "days"]),
    st.sampled_from([None, "predicted", "in_history"]),
    st.lists(st.booleans(), min_size=30, max_size=30),
)
def test_what_is_read_for_a_prediction_is_known_before(days, length, shuffle, option, draws):
    days = [sorted(of_one) for of_one in days]
    if not any(days):
        return
    items = iter(range(50))
    purchases = purchases_of([[next(items) for _ in of_one] for of_one in days], days=days)  # item = place
    options = {option: np.array(draws[: len(purchases)], bool)} if option else {}
    if option == "predicted" and not options[option].any():
        return
    maker = batches_of(purchases, length=length, batch_size=1, shuffle=shuffle, **options)
    read = set()
    for seed, window in enumerate(np.repeat(np.arange(len(maker.windows)), 40 if shuffle != "none" else 1)):
        batch = maker.histories(np.array([window]), np.random.default_rng(seed))
        asked = np.flatnonzero(batch["targets"][0] >= 0)
        places = batch["target_places"][0][asked] if "target_places" in batch else asked
        read.update(batch["history"][0][: max(places, default=0)].tolist())
    found = set(np.flatnonzero(maker.read).tolist())
    assert found >= read - {-1}
    if option != "predicted":  # whose last target may be in another window
        assert found <= read


def test_a_batch_stands_in_order_of_what_its_histories_hold():
    lists = [[1, 2, 3, 4], [5, 6], [7, 8, 9]]
    purchases = purchases_of(lists)
    batch = batches_of(purchases, batch_size=3, in_history=np.isin(purchases.item, [1, 5, 7, 8]))(0)
    assert batch["history"].tolist() == [[-1, -1, 5], [-1, -1, 1], [-1, 7, 8]]
    assert [row[row >= 0].tolist() for row in batch["targets"]] == [[5, 6], [1, 2, 3, 4], [7, 8, 9]]
    assert batch["target_places"].tolist() == [[0, 0, 0, 3], [0, 3, 3, 3], [0, 0, 2, 3]]


def test_workers_share_what_histories_leave_out():
    purchases = purchases_of([[1, 2, 3, 4], [5, 6], [7, 8, 9], [10, 11]])
    options = {"batch_size": 4, "in_history": np.arange(11) % 3 > 0}
    whole = batches_of(purchases, **options)(0)
    for worker in (0, 1):
        share = batches_of(purchases, **options, worker=worker, workers=2)(0)
        for name in ("history", "targets", "target_places", "weights", "user"):
            np.testing.assert_array_equal(share[name], whole[name][worker::2])


def test_a_pass_reads_rows_once_and_depends_on_step_and_seed_alone():
    rows = np.arange(100, 107)
    order = ShuffledRows(rows, 3, 5, 0)
    assert order.steps_per_epoch == 2
    for epoch in (4, 0, 3):
        expected = np.random.default_rng([5, 0, epoch]).permutation(rows)[:6].reshape(2, 3)
        np.testing.assert_array_equal([order(2 * epoch), order(2 * epoch + 1)], expected)
    counted = ShuffledRows(len(rows), 3, 5, 0)
    np.testing.assert_array_equal(rows[counted(9)], order(9))
    assert (ShuffledRows(rows, 3, 5, 1)(0) != order(0)).any()


def test_windows_share_one_purchase_and_cover_all():
    windows = cut_windows(np.array([0, 7, 7, 8]), 3)
    spans = sorted(zip(windows.start, windows.end, windows.first))
    assert spans == [(0, 4, True), (3, 7, False), (7, 8, True)]


def test_no_history_reaches_past_its_own_moment():
    rng = np.random.default_rng(0)
    lists = [list(rng.integers(0, 50, rng.integers(1, 30))) for _ in range(40)]
    days = [sorted(rng.integers(0, 10, len(x))) for x in lists]
    purchases = purchases_of(lists, days=days)
    moments = {(u, i): {d for j, d in zip(x, ds) if j == i} for u, (x, ds) in enumerate(zip(lists, days)) for i in x}
    maker = batches_of(purchases, length=6, shuffle="ties", batch_size=8)
    for step in range(maker.steps_per_epoch):
        batch = maker(step)
        assert (batch["gaps"] >= 0).all()
        for user, history, targets in zip(batch["user"], batch["history"], batch["targets"]):
            for place, target in enumerate(targets):
                if target >= 0:
                    latest = max(moments[user, target])
                    assert all(min(moments[user, i]) <= latest for i in history[:place] if i >= 0)


def test_shuffling_days_moves_only_purchases_of_one_day():
    purchases = purchases_of([[1, 2, 3, 4]], days=[[0, 0, 0, 5]])
    orders = set()
    for seed in range(30):
        maker = batches_of(purchases, batch_size=1, shuffle="ties", seed=seed)
        batch = maker(0)
        assert batch["targets"][0, -1] == 4
        orders.add(tuple(batch["history"][0]))
    assert len(orders) == 6


@pytest.mark.parametrize(("shuffle", "orders"), [("none", 1), ("ties", 2), ("days", 6)])
def test_times_of_a_day_are_kept_unless_the_whole_day_is_to_be_shuffled(shuffle, orders):
    purchases = purchases_of([[1, 2, 3, 4]], days=[[0.25, 0.5, 0.5, 5]])
    found = {
        tuple(batches_of(purchases, batch_size=1, shuffle=shuffle, seed=seed)(0)["history"][0]) for seed in range(40)
    }
    assert len(found) == orders


def test_gaps_are_days_to_the_next_purchase():
    batch = batches_of(purchases_of([[1, 2, 3]], days=[[0, 2, 7]]), batch_size=1)(0)
    np.testing.assert_array_equal(batch["history"][0], [-1, 1, 2])
    np.testing.assert_array_equal(batch["targets"][0], [1, -1, 2, 3])
    np.testing.assert_allclose(batch["gaps"][0], [0, 2, 5])


@pytest.mark.parametrize(("within", "kept"), [("never", [1, 1, 2, 1]), ("day", [1, 2, 1]), ("always", [1, 2])])
def test_repeats_collapse(within, kept):
    purchases = purchases_of([[1, 1, 2, 1]], days=[[0, 0, 0, 1]]).collapse_repeats(within)
    np.testing.assert_array_equal(purchases.item, kept)


def test_a_step_is_a_function_of_its_number():
    rng = np.random.default_rng(3)
    purchases = purchases_of([list(rng.integers(0, 50, 5)) for _ in range(20)])
    content = ItemContent(50, {"tokens": np.arange(50)[:, None], "has_photo": np.ones(50, bool)})
    options = {"content": content, "encode_items": 8, "negatives": 5, "modality_dropout": 0.2, "shuffle": "ties"}
    first, second = batches_of(purchases, **options), batches_of(purchases, **options)
    for step in (0, 7, 23):
        tf.nest.map_structure(np.testing.assert_array_equal, first(step), second(step))
    whole = [b["history"].numpy() for b in make_dataset(first, 0, 12)]
    resumed = [b["history"].numpy() for b in make_dataset(second, 5, 12)]
    np.testing.assert_array_equal(whole[5:], resumed)
    epoch = np.concatenate([b["user"].numpy() for b in make_dataset(first, 0, first.steps_per_epoch)])
    assert sorted(epoch) == sorted(2 * list(range(20)))  # five purchases make two windows of three


def test_nothing_waits_for_a_tuner_when_batches_are_dropped():
    """TensorFlow's thread that tunes may sleep for a minute, and whoever drops an iterator waits for it."""
    batches = make_dataset(batches_of(purchases_of([[1, 2], [3]])), 0, 2)
    labels = made_ahead(batches, lambda batch: batch["history"])
    assert batches.options().autotune.enabled is labels.options().autotune.enabled is False


AHEAD = """
import threading
import numpy as np
import tensorflow as tf
from pipelines.batches import make_dataset
tf.keras.utils.set_random_seed(0)
tf.config.experimental.enable_op_determinism()
made, third = [], threading.Event()
def make(step):
    made.append(step)
    if step == 2:
        third.set()
    return {"row": np.array([step])}
batches = iter(make_dataset(make, 0, 8))
assert int(next(batches)["row"][0]) == 0
assert third.wait(60), "no batch is made before it is asked for"
assert [int(batch["row"][0]) for batch in batches] == list(range(1, 8))
"""


def test_batches_are_made_ahead_and_in_order_where_ops_are_deterministic():
    subprocess.run([sys.executable, "-c", AHEAD], check=True)  # determinism cannot be switched off again


def test_rows_are_distinct_and_hold_histories_and_targets():
    rng = np.random.default_rng(4)
    purchases = purchases_of([list(rng.integers(0, 9, 6)) for _ in range(10)])
    content = ItemContent(50, {"tokens": np.zeros((50, 1))})
    batch = batches_of(purchases, negatives=7, content=content, encode_items=12, batch_size=4)(0)
    targets = set(batch["targets"][batch["targets"] >= 0])
    assert targets | set(batch["history"][batch["history"] >= 0]) <= set(batch["rows"])
    assert len(set(batch["rows"])) == len(batch["rows"])
    assert len(set(batch["encode_rows"])) == 12
    assert targets <= set(batch["encode_rows"])  # fewer targets than places: all are encoded


def test_one_modality_at_least_stays():
    items = {"has_photo": np.ones(4000, bool), "tokens": np.ones((4000, 3), np.int32)}
    dropped = drop_modalities(items, 0.2, np.random.default_rng(0).random(4000))
    text = dropped["tokens"].any(1)
    assert (dropped["has_photo"] | text).all()
    assert 0.17 < 1 - dropped["has_photo"].mean() < 0.23
    assert 0.17 < 1 - text.mean() < 0.23


def test_no_purchases_is_a_clear_error():
    with pytest.raises(ValueError, match="no training purchases"):
        batches_of(purchases_of([[]]))


def test_a_catalogue_without_photos_takes_no_memory_for_them():
    million = SimpleNamespace(items=range(1_000_000), images=None)
    arrays, photo_bytes = photo_arrays(million, (224, 168))
    assert photo_bytes is None
    content = ItemContent(1_000_000, arrays)
    assert content.arrays["photos"].base.nbytes == 1  # 113 GB, were it real
    batch = content.gather(np.array([0, 999_999]))
    assert (batch["photos"].shape, batch["photos"].any(), batch["has_photo"].any()) == ((2, 224, 168, 3), False, False)
