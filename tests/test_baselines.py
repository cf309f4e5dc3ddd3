"""Every rule on a shop so small that the right answer is known."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipelines.prepared import PreparedWriter, open_prepared
from tfrec.co_occurrence import keep_largest
from tfrec.csr import Csr
from tfrec.evaluation.baselines import (
    CHUNK_CANDIDATES,
    fill_up,
    item_cosine,
    popularity,
    repurchase,
    run_baselines,
    tfidf,
)
from tfrec.evaluation.protocol import DAY, build_protocol

CUTOFF = 1_600_214_400  # 2020-09-16
LONG_AGO, YESTERDAY = CUTOFF - 100 * DAY, CUTOFF - DAY


def shop(path, events, texts, *, kind="temporal", attributes=None):
    """Items named by their texts; events `(user, item, time, split)`."""
    frame = pd.DataFrame(events, columns=["user", "item", "time", "split"])
    items = pd.DataFrame({"item_id": [str(row) for row in range(len(texts))], "title": texts})
    if attributes is not None:
        items["attr.colour"] = attributes
    with PreparedWriter(path, dataset="tiny") as writer:
        writer.items(items)
        writer.users(pd.DataFrame({"user_id": [str(row) for row in range(frame["user"].max() + 1)]}))
        writer.events(frame.sort_values(["user", "time"], kind="stable"))
        writer.split = {"kind": kind, "cutoff": "2020-09-16", "test_days": 7, "val_days": 0}
    return open_prepared(path)


EVENTS = [
    # Item 3 sold most of all, but long ago; last week item 1 sold twice, item 2 once.
    (0, 3, LONG_AGO, 0),
    (0, 0, LONG_AGO, 0),
    (0, 0, LONG_AGO + DAY, 0),
    (0, 4, LONG_AGO + DAY, 0),
    (1, 3, LONG_AGO, 0),
    (1, 1, YESTERDAY, 0),
    (2, 3, LONG_AGO, 0),
    (2, 1, YESTERDAY, 0),
    (2, 2, YESTERDAY, 0),
    (0, 5, CUTOFF, 2),
    (3, 5, CUTOFF, 2),  # a cold user
]
TEXTS = ["red shirt", "blue jeans", "wool hat", "green socks", "red dress", "hat"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return shop(tmp_path_factory.mktemp("shop") / "data", EVENTS, TEXTS)


@pytest.fixture(scope="module")
def protocol(data):
    return build_protocol(data, "test", cold_users=True)


def test_popularity_is_last_weeks_then_all_times(protocol):
    assert popularity(protocol, 6).tolist() == [[1, 2, 3, 0, 4, 5]] * 2
    assert popularity(protocol, 2).tolist() == [[1, 2]] * 2


def test_popularity_of_leave_last_out_counts_everything_known(tmp_path):
    protocol = build_protocol(shop(tmp_path / "llo", EVENTS, TEXTS, kind="leave-last-out"), "test")
    assert popularity(protocol, 3).tolist() == [[3, 0, 1]]


def test_repurchase_is_own_items_latest_first_then_popular(protocol):
    # User 0: items 0 and 4 on the same last day, item 0 bought twice; item 3 earlier. The cold user:
    # popularity.
    assert repurchase(protocol, 5).tolist() == [[0, 4, 3, 1, 2], [1, 2, 3, 0, 4]]
    assert repurchase(protocol, 2).tolist() == [[0, 4], [1, 2]]


def test_seen_items_are_replaced_and_lists_stay_full(data):
    protocol = build_protocol(data, "test", cold_users=True, seen_filter=True)
    for _, ranked in run_baselines(data, protocol, 3):
        assert not set(ranked[0]) & {0, 3, 4}
        assert (ranked >= 0).all()
    assert popularity(protocol, 6).tolist() == [[1, 2, 5, -1, -1, -1], [1, 2, 3, 0, 4, 5]]
    assert repurchase(protocol, 3).tolist() == popularity(protocol, 3).tolist()


def test_rules_leave_out_what_was_bought_where_new_items_are_held_out(tmp_path):
    prepared = shop(tmp_path / "llo", EVENTS, TEXTS, kind="leave-last-out")
    protocol = build_protocol(prepared, "test")
    rules = dict(run_baselines(prepared, protocol, 6))
    own = set(protocol.history.items.tolist())
    assert protocol.excluded() is None  # the model's own lists are ranked with seen items
    for name in ("popularity", "item_cosine", "tfidf"):
        assert not own & set(rules[name][0].tolist()), name
    assert own <= set(rules["repurchase"][0].tolist())


def test_item_cosine_equals_the_formula(tmp_path):
    rng = np.random.default_rng(0)
    pairs = {(int(user), int(item)) for user, item in rng.integers(0, [20, 9], (90, 2))}
    events = [(user, item, LONG_AGO, 0) for user, item in sorted(pairs)]
    events += [(user, (user + 1) % 9, CUTOFF, 2) for user in range(20)]
    protocol = build_protocol(shop(tmp_path / "ids", events, [""] * 9), "test")

    bought = np.zeros((20, 9))
    bought[tuple(zip(*pairs))] = 1
    norm = np.sqrt(bought.sum(0))
    cosine = bought.T @ bought / np.outer(norm, norm)
    np.fill_diagonal(cosine, 0)
    expected = bought[protocol.users] @ cosine

    ranked = item_cosine(protocol, 9)
    assert (np.sort(ranked, axis=1) == np.arange(9)).all()
    found = np.take_along_axis(expected, ranked, 1)
    np.testing.assert_allclose(found, -np.sort(-expected, axis=1), atol=1e-6)


def test_item_cosine_keeps_the_latest_purchases_and_the_strongest_neighbours(tmp_path):
    # Buyers of 0 always take 1, sometimes 2; the hoarder's old purchase of 3 with everything is not counted.
    events = [(user, item, LONG_AGO, 0) for user in (0, 1, 2) for item in (0, 1)]
    events += [(1, 2, LONG_AGO, 0), (3, 3, LONG_AGO - DAY, 0), (3, 4, LONG_AGO, 0), (3, 5, LONG_AGO, 0)]
    events += [(4, 0, LONG_AGO, 0), (4, 6, CUTOFF, 2), (5, 3, LONG_AGO, 0), (5, 6, CUTOFF, 2)]
    protocol = build_protocol(shop(tmp_path / "n", events, [""] * 7), "test")
    strongest = item_cosine(protocol, 7, neighbours=1, max_purchases=2)
    assert strongest[0, 0] == 1
    np.testing.assert_array_equal(strongest[1], popularity(protocol, 7)[0])  # 3 has no neighbour left
    assert item_cosine(protocol, 7)[1, :2].tolist() == [4, 5]


def test_tfidf_finds_items_of_the_same_words_and_attributes(tmp_path):
    texts = ["red shirt", "blue jeans", "wool hat", "red shirt", "nothing", "hat of wool"]
    colours = [[], ["blue"], [], [], ["blue"], []]
    events = [(0, 0, LONG_AGO, 0), (1, 5, LONG_AGO, 0), (2, 1, LONG_AGO, 0)]
    events += [(user, 4, CUTOFF, 2) for user in range(3)]
    data = shop(tmp_path / "text", events, texts, attributes=colours)
    protocol = build_protocol(data, "test", seen_filter=True)
    ranked = dict(run_baselines(data, protocol, 3))["tfidf"]
    assert ranked[:, 0].tolist() == [3, 2, 4]  # same words; shared words; shared attribute alone


def test_data_without_words_have_no_text_baseline(tmp_path):
    data = shop(tmp_path / "ids", EVENTS, [""] * 6)
    names = [name for name, _ in run_baselines(data, build_protocol(data, "test"), 3)]
    assert names == ["popularity", "repurchase", "item_cosine"]


def test_tfidf_ranks_by_cosine_with_the_mean_history(tmp_path):
    """Against scikit-learn's vectors and a dense product."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    rng = np.random.default_rng(1)
    words = np.array(["ant", "bee", "cat", "dog", "elk", "fox"])
    tokens = [list(rng.choice(words, 3)) for _ in range(300)]
    events = [(user, int(item), LONG_AGO, 0) for user in range(150) for item in rng.choice(300, 2, replace=False)]
    events += [(user, 7, CUTOFF, 2) for user in range(150)]
    protocol = build_protocol(shop(tmp_path / "words", events, [""] * 300), "test")
    dense = TfidfVectorizer(analyzer=list, sublinear_tf=True).fit_transform(tokens).toarray()
    profile = np.stack([dense[protocol.history[row]].mean(axis=0) for row in range(150)])
    ranked = tfidf(protocol, tokens, 10)
    found = np.take_along_axis(profile @ dense.T, ranked, 1)
    np.testing.assert_allclose(found, -np.sort(-(profile @ dense.T), axis=1)[:, :10], atol=1e-6)


def test_fill_up_closes_gaps_without_repeating(protocol):
    ranked = np.array([[5, -1, 1, -1], [-1, -1, -1, 2]], np.int32)
    assert fill_up(ranked, protocol, 5).tolist() == [[5, 1, 2, 3, 0], [2, 1, 3, 0, 4]]
    assert fill_up(ranked, protocol, 8).tolist() == [[5, 1, 2, 3, 0, 4, -1, -1], [2, 1, 3, 0, 4, 5, -1, -1]]


def test_one_long_list_of_seen_items_does_not_widen_those_of_all(monkeypatch):
    items, users, k = 6_000, 5_000, 3
    history = [np.arange(user % 3) for user in range(users)]
    history[7] = np.arange(items - 1)
    seen = Csr.from_rows(np.repeat(np.arange(users), [len(row) for row in history]), np.concatenate(history), users)
    known = SimpleNamespace(item=np.repeat(np.arange(items), 2), time=None)
    protocol = SimpleNamespace(excluded=lambda: seen, known=known, n_items=items, temporal=False)
    asked, contains = [], Csr.contains
    monkeypatch.setattr(Csr, "contains", lambda rows, ids: (asked.append(ids.size), contains(rows, ids))[1])
    filled = fill_up(np.full((users, 2), -1, np.int32), protocol, k)
    assert max(asked) <= CHUNK_CANDIDATES
    assert filled[7].tolist() == [items - 1, -1, -1]
    expected = [list(range(user % 3, user % 3 + k)) for user in range(users) if user != 7]
    np.testing.assert_array_equal(np.delete(filled, 7, 0), expected)


def test_keep_largest_keeps_the_first_of_equal_values():
    values = np.array([2.0, 1, 3, 1, 1, 0])
    keep_largest(values, 4)
    assert values.tolist() == [2, 1, 3, 1, 0, 0]


def test_a_large_catalogue_is_scored_for_few_customers_at_a_time(protocol, monkeypatch):
    expected = item_cosine(protocol, 3)
    monkeypatch.setattr("tfrec.evaluation.baselines.DENSE_SCORES", 1)
    monkeypatch.setattr("tfrec.co_occurrence.PAIRS_AT_ONCE", 1)
    np.testing.assert_array_equal(item_cosine(protocol, 3), expected)
