"""Who is evaluated on what: splits, leaks, cohorts, sampling."""

import numpy as np
import pandas as pd
import pytest

from pipelines.prepared import PreparedWriter, open_prepared
from tfrec.csr import Csr
from tfrec.evaluation.protocol import DAY, ProtocolError, build_protocol

CUTOFF = 1_600_214_400  # 2020-09-16


def prepared_from(path, events, *, n_items, n_users, split):
    """A prepared dataset with the given events `(user, item, time, split)`, already in order."""
    frame = pd.DataFrame(events, columns=["user", "item", "time", "split"])
    with PreparedWriter(path, dataset="tiny") as writer:
        writer.items(pd.DataFrame({"item_id": [f"i{row}" for row in range(n_items)]}))
        writer.users(pd.DataFrame({"user_id": [f"u{row}" for row in range(n_users)]}))
        writer.events(frame)
        writer.split = split
    return open_prepared(path)


@pytest.fixture(scope="module")
def temporal(tmp_path_factory):
    """User 0: history and a repeat; 1: only a val purchase before; 2: cold; 3: buys nothing in the window."""
    before, window = CUTOFF - 3 * DAY, CUTOFF + 5 * DAY
    events = [
        (0, 0, before - 60 * DAY, 0),
        (0, 1, before - 50 * DAY, 0),
        (0, 1, before - 40 * DAY, 0),
        (0, 1, CUTOFF, 2),
        (0, 4, CUTOFF, 2),
        (0, 4, window, 2),
        (1, 3, before, 1),
        (1, 0, window, 2),
        (2, 2, window, 2),
        (3, 2, before - DAY, 1),
        (3, 0, before, 1),
    ]
    split = {"kind": "temporal", "cutoff": "2020-09-16", "test_days": 7, "val_days": 7}
    path = tmp_path_factory.mktemp("data") / "temporal"
    return prepared_from(path, events, n_items=6, n_users=5, split=split)


@pytest.fixture(scope="module")
def last_out(tmp_path_factory):
    """Times are days: user 0's held-out items share theirs with earlier items and with a later repeat."""
    events = [
        (0, 0, 0, 0),
        (0, 1, DAY, 0),
        (0, 2, DAY, 1),  # validation
        (0, 3, DAY, 2),  # test
        (0, 1, DAY, 0),  # bought again after the held-out items
        (1, 0, 0, 0),
        (1, 1, 0, 0),
    ]
    path = tmp_path_factory.mktemp("data") / "last-out"
    return prepared_from(path, events, n_items=4, n_users=2, split={"kind": "leave-last-out"})


def test_temporal_targets_are_the_distinct_items_of_the_window(temporal):
    protocol = build_protocol(temporal, "test")
    assert protocol.users.tolist() == [0, 1]
    assert [protocol.targets[row].tolist() for row in range(2)] == [[1, 4], [0]]
    assert [protocol.history[row].tolist() for row in range(2)] == [[0, 1, 1], [3]]
    assert protocol.query_time.tolist() == [CUTOFF, CUTOFF]
    assert protocol.target_repeat.tolist() == [True, False, False]
    assert protocol.target_cold.tolist() == [False, True, False]
    assert protocol.n_items == 6
    assert len(protocol.known) == 6


def test_validation_knows_the_training_events_only(temporal):
    protocol = build_protocol(temporal, "val", cold_users=True)
    assert protocol.users.tolist() == [1, 3]
    assert len(protocol.history.items) == 0
    assert protocol.query_time.tolist() == [CUTOFF - 7 * DAY] * 2
    assert len(protocol.known) == 3


def test_cold_users_are_a_cohort_of_their_own(temporal):
    protocol = build_protocol(temporal, "test", cold_users=True)
    assert protocol.users.tolist() == [0, 1, 2]
    assert protocol.warm.tolist() == [True, True, False]
    cohorts = protocol.user_cohorts()
    assert {name: np.flatnonzero(mask).tolist() for name, mask in cohorts.items()} == {
        "history 1": [1],
        "history 2-4": [0],
        "cold users": [2],
    }
    targets = protocol.target_cohorts()
    assert targets["repeat items"].tolist() == [True, False, False, False]
    assert targets["new items"].tolist() == [False, True, True, False]  # not the cold user's
    assert targets["cold items"].tolist() == [False, True, False, False]
    said = protocol.describe()
    assert (said["users"], said["cold_users"], said["targets"], said["candidates"]) == (2, 1, 3, 6)
    assert (said["split_kind"], said["cutoff"], said["seen_filter"]) == ("temporal", "2020-09-16", False)


def test_seen_filter_drops_unreachable_targets_and_excludes_the_history(temporal):
    protocol = build_protocol(temporal, "test", seen_filter=True)
    assert [protocol.targets[row].tolist() for row in range(2)] == [[4], [0]]
    assert protocol.target_repeat.tolist() == [False, False]
    assert [protocol.excluded()[row].tolist() for row in range(2)] == [[0, 1], [3]]
    assert build_protocol(temporal, "test").excluded() is None
    said = protocol.describe()
    assert (said["dropped_repeat_targets"], said["dropped_users"], said["missed_repeat_targets"]) == (1, 0, 0)
    assert build_protocol(temporal, "test").describe()["dropped_repeat_targets"] == 0


@pytest.mark.parametrize(
    ("held_out", "users", "misses", "dropped"), [(None, [1], 0, 1), ("last interaction", [0, 1], 1, 0)]
)
def test_a_held_out_repeat_is_a_miss_where_the_last_interaction_is_held_out(tmp_path, held_out, users, misses, dropped):
    """As in S3-Rec's evaluation, which zeroes the scores of seen items and averages over all users."""
    events = [(0, 0, 0, 0), (0, 1, 1, 1), (0, 0, 2, 2), (1, 0, 0, 0), (1, 1, 1, 1), (1, 2, 2, 2)]
    split = {"kind": "leave-last-out"} | ({"held_out": held_out} if held_out else {})
    data = prepared_from(tmp_path / "repeats", events, n_items=3, n_users=2, split=split)
    protocol = build_protocol(data, "test", seen_filter=True)
    assert protocol.users.tolist() == users
    said = protocol.describe()
    assert (said["missed_repeat_targets"], said["dropped_repeat_targets"]) == (misses, dropped)
    assert said["dropped_users"] == dropped
    assert protocol.target_repeat.sum() == misses
    assert protocol.excluded()[0].tolist() == [0, 1]  # among them the first user's target


def test_leave_last_out_cuts_the_history_at_the_held_out_position(last_out):
    test = build_protocol(last_out, "test")
    assert (test.users.tolist(), test.history[0].tolist(), test.targets[0].tolist()) == ([0], [0, 1, 2], [3])
    val = build_protocol(last_out, "val")
    assert (val.users.tolist(), val.history[0].tolist(), val.targets[0].tolist()) == ([0], [0, 1], [2])
    assert test.query_time.tolist() == [DAY]


def test_events_held_out_at_random_are_asked_for_after_all_that_is_known(tmp_path):
    events = [
        (0, 0, 0, 0),
        (0, 1, DAY, 2),
        (0, 2, 2 * DAY, 2),
        (0, 3, 5 * DAY, 0),
        (1, 0, 3 * DAY, 0),
        (1, 1, 4 * DAY, 2),
    ]
    data = prepared_from(tmp_path / "random", events, n_items=4, n_users=2, split={"kind": "random"})
    protocol = build_protocol(data, "test")
    assert protocol.history[0].tolist() == [0, 3]
    assert protocol.query_time.tolist() == [5 * DAY, 4 * DAY]


@pytest.mark.parametrize("kind", ["temporal", "leave-last-out"])
@pytest.mark.parametrize("split", ["val", "test"])
def test_nothing_at_or_after_the_held_out_point_is_known(tmp_path, kind, split):
    """On random shops: every history is exactly the user's rows above the first held-out one."""
    rng = np.random.default_rng(7)
    user = np.sort(rng.integers(0, 40, 600))
    time = CUTOFF + rng.integers(-60, 7, 600) * DAY
    frame = pd.DataFrame({"user": user, "item": rng.integers(0, 25, 600), "time": time})
    frame = frame.sort_values(["user", "time"], kind="stable", ignore_index=True)
    if kind == "temporal":
        frame["split"] = np.select([frame.time >= CUTOFF, frame.time >= CUTOFF - 7 * DAY], [2, 1], 0)
    else:
        from_end = frame.groupby("user").cumcount(ascending=False)
        frame["split"] = np.select([from_end == 0, from_end == 1], [2, 1], 0)
    info = {"kind": kind, "cutoff": "2020-09-16", "val_days": 7}
    data = prepared_from(tmp_path / "shop", frame.to_numpy(), n_items=25, n_users=40, split=info)
    code = {"val": 1, "test": 2}[split]

    protocol = build_protocol(data, split, cold_users=True)

    for row, who in enumerate(protocol.users):
        mine = frame[frame.user == who].reset_index(drop=True)
        held = mine.index[mine.split == code]
        assert protocol.history[row].tolist() == mine.item[: held[0]].tolist()
        assert set(protocol.targets[row]) == set(mine.item[held])
        low, high = protocol.history.offsets[row : row + 2]
        times = protocol.history.times[low:high]
        if kind == "temporal":
            assert (times < protocol.query_time[row]).all()
        else:
            assert (times <= protocol.query_time[row]).all()
    assert len(protocol.known) == (frame.split < code).sum()


def test_items_of_the_validation_split_are_cold_unless_it_was_trained_on(temporal):
    cold = build_protocol(temporal, "test", cold_users=True).target_cold
    assert cold.tolist() == [False, True, False, True]  # items 1 and 4, 0, 2
    cold = build_protocol(temporal, "test", cold_users=True, final=True).target_cold
    assert cold.tolist() == [False, True, False, False]


def test_sampling_is_seeded_and_keeps_everything_aligned(tmp_path):
    events = [(user, item, CUTOFF + (item - 2) * DAY, 2 * (item >= 2)) for user in range(30) for item in range(3)]
    info = {"kind": "temporal", "cutoff": "2020-09-16", "val_days": 0}
    data = prepared_from(tmp_path / "many", events, n_items=3, n_users=30, split=info)
    first, again, other = (build_protocol(data, "test", max_users=10, seed=seed) for seed in (1, 1, 2))
    assert len(first.users) == len(set(first.users.tolist())) == 10
    np.testing.assert_array_equal(first.users, again.users)
    assert first.users.tolist() != other.users.tolist()
    assert first.eligible_users == 30
    assert len(first.targets) == len(first.history) == len(first.query_time) == 10
    assert len(first.target_repeat) == len(first.target_cold) == len(first.targets.items) == 10


def test_errors(temporal, tmp_path):
    with pytest.raises(ProtocolError, match="choose 'val' or 'test'"):
        build_protocol(temporal, "train")
    with pytest.raises(ProtocolError, match="max_users=0"):
        build_protocol(temporal, "test", max_users=0)
    nothing = prepared_from(tmp_path / "none", [(0, 0, 0, 0)], n_items=1, n_users=1, split={})
    with pytest.raises(ProtocolError, match=r"no user of .* can be evaluated on split='test'"):
        build_protocol(nothing, "test")


def test_csr_rows_survive_every_operation():
    rows = Csr.from_rows(np.array([2, 0, 2, 2]), np.array([5, 1, 4, 5]), 4, np.array([10, 20, 30, 40]))
    assert [rows[row].tolist() for row in range(4)] == [[1], [], [5, 4, 5], []]
    assert rows.times.tolist() == [20, 10, 30, 40]
    assert rows.lengths.tolist() == [1, 0, 3, 0]
    taken = rows.take(np.array([2, 3, 0]))
    assert [taken[row].tolist() for row in range(3)] == [[5, 4, 5], [], [1]]
    assert taken.times.tolist() == [10, 30, 40, 20]
    assert rows.take(np.array([False, False, True, False]))[0].tolist() == [5, 4, 5]
    assert rows.distinct()[2].tolist() == [5, 4]
    assert rows.slice(1, 3).lengths.tolist() == [0, 3]
    assert rows.contains(np.array([[1, 5], [1, -1], [4, 6], [5, 0]])).tolist() == [
        [True, False],
        [False, False],
        [True, False],
        [False, False],
    ]
    with pytest.raises(ValueError, match="offsets must rise"):
        Csr(np.array([0, 2]), np.array([1]))
