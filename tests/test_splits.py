"""The split rules against plain-Python loops, and the promise that training sees nothing held out."""

import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.schema import TEST, TRAIN, VAL, PreparedError
from pipelines.splits import DAY, DROPPED, leave_last_out, temporal_window

histories = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=12), min_size=1, max_size=6)


def columns(histories):
    """Contiguous `user` and `item` columns; user numbers have gaps, as users without events do."""
    user = np.concatenate([np.full(len(items), 3 * row, np.int32) for row, items in enumerate(histories)])
    return user, np.concatenate([np.array(items, np.int32) for items in histories])


def marks_by_hand(items, min_items):
    """One user's marks, read off the rule with plain loops."""
    distinct = list(dict.fromkeys(items))
    if len(distinct) < min_items:
        return [TRAIN] * len(items)
    val_item, test_item = distinct[-2:]
    marks = []
    for position, item in enumerate(items):
        if position >= items.index(test_item):
            marks.append(TEST if item == test_item else DROPPED)
        elif position >= items.index(val_item):
            marks.append(VAL if item == val_item else DROPPED)
        else:
            marks.append(TRAIN)
    return marks


@settings(max_examples=50, deadline=None)
@given(histories, st.integers(3, 5))
def test_leave_last_out_equals_the_rule_in_loops(histories, min_items):
    expected = [mark for items in histories for mark in marks_by_hand(items, min_items)]
    assert leave_last_out(*columns(histories), min_items=min_items).tolist() == expected


@settings(max_examples=50, deadline=None)
@given(histories)
def test_leave_last_out_lets_training_see_nothing_held_out_or_later(histories):
    user, item = columns(histories)
    mark = leave_last_out(user, item)
    for row in np.unique(user):
        marks, items = mark[user == row], item[user == row]
        kept = marks[marks != DROPPED]
        assert (np.diff(kept) >= 0).all()
        held_out = set(items[marks >= VAL])
        assert not held_out & set(items[marks == TRAIN])
        if len(set(items)) >= 3:
            assert [len(set(items[marks == split])) for split in (VAL, TEST)] == [1, 1]
            assert (marks == TRAIN).any()


def test_leave_last_out_by_example():
    #        new new rep new new rep-of-val rep-of-test rep-of-old
    items = [7, 8, 7, 9, 4, 9, 4, 7]
    assert leave_last_out(np.zeros(8, np.int32), np.array(items)).tolist() == [0, 0, 0, 1, 2, -1, 2, -1]


def test_leave_last_out_of_no_events_and_of_a_useless_threshold():
    assert leave_last_out(np.zeros(0, np.int32), np.zeros(0, np.int32)).shape == (0,)
    with pytest.raises(PreparedError, match="--min-items is 2"):
        leave_last_out(np.zeros(1, np.int32), np.zeros(1, np.int32), min_items=2)


def seconds(day):
    return int(datetime.datetime.fromisoformat(day + "T00:00:00+00:00").timestamp())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 40 * DAY), min_size=1, max_size=50), st.integers(1, 9), st.integers(0, 9))
def test_temporal_marks_equal_comparisons_of_dates(times, test_days, val_days):
    first = seconds("2020-01-01")
    cutoff = datetime.date(2020, 1, 20)
    window = temporal_window(first, first + 40 * DAY, cutoff=cutoff, test_days=test_days, val_days=val_days)
    for time, mark in zip(times, window.mark(np.array(times) + first)):
        day = (datetime.datetime(2020, 1, 1) + datetime.timedelta(seconds=time)).date()
        if day >= cutoff + datetime.timedelta(days=test_days):
            expected = DROPPED
        elif day >= cutoff:
            expected = TEST
        else:
            expected = VAL if day >= cutoff - datetime.timedelta(days=val_days) else TRAIN
        assert mark == expected


@pytest.mark.parametrize(
    ("first", "last", "options", "cutoff", "val_days"),
    [
        ("2018-09-20", "2020-09-22", {}, "2020-09-16", 7),
        ("2018-09-20", "2020-09-22", {"cutoff": datetime.date(2020, 6, 1)}, "2020-06-01", 7),
        ("2020-09-16", "2020-09-22", {"test_days": 2}, "2020-09-21", 2),
        (
            "2020-09-16",
            "2020-09-22",
            {"test_days": 3},
            "2020-09-20",
            1,
        ),  # four days before: a fifth, at least one
        ("2020-09-01", "2020-09-22", {"test_days": 12}, "2020-09-11", 2),
    ],
)
def test_temporal_defaults_leave_days_to_train(first, last, options, cutoff, val_days):
    window = temporal_window(seconds(first), seconds(last), **options)
    assert (window.cutoff.isoformat(), window.val_days) == (cutoff, val_days)


@pytest.mark.parametrize(
    "options",
    [
        {"test_days": 7},  # the whole log
        {"cutoff": datetime.date(2020, 9, 16), "test_days": 1},
        {"cutoff": datetime.date(2020, 9, 23), "test_days": 1},
        {"test_days": 2, "val_days": 5},
        {"test_days": 0},
        {"test_days": 2, "val_days": -1},
    ],
)
def test_temporal_refuses_to_leave_nothing(options):
    with pytest.raises(PreparedError, match="-days"):
        temporal_window(seconds("2020-09-16"), seconds("2020-09-22"), **options)
