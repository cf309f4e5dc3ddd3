"""The report's reasons, with a query that is the sum of the history's vectors."""

import numpy as np

from tfrec.csr import Csr
from tfrec.reports.reasons import add_reasons, add_regions, histories_without, regions_of


def test_each_purchase_is_left_out_once_and_the_rest_stands_right():
    rows, days = histories_without(np.array([-1, 4, 2], np.int32), np.array([0, 9, 1], np.float32))
    np.testing.assert_array_equal(rows, [[-1, 4, 2], [-1, 4, 2], [-1, -1, 2], [-1, -1, 4]])
    np.testing.assert_array_equal(days[2:, -1], [1, 9])


def test_the_purchase_that_counts_most_is_named():
    vectors = np.eye(4, dtype=np.float32)
    vectors[3] = [0.2, 0.9, 0, 0]  # the recommended item is most like item 1
    inputs = {
        "history": np.array([[-1, 2, 2], [-1, 0, 1], [-1, -1, -1]], np.int32),
        "days_ago": np.zeros((3, 3), np.float32),
        "user": np.arange(3, dtype=np.int32),
        "user_fields": np.zeros((3, 0), np.int32),
    }

    def queries_of(batch):
        assert batch["gaps"].shape == batch["history"].shape
        return (vectors[batch["history"]] * (batch["history"] >= 0)[..., None]).sum(1)

    examples = [{"recommended": [[3, 1.0]]}, {"recommended": [[3, 0.0], [2, 0.0]]}]
    titles = ["a", "b", "c", "d"]
    nothing = {"bonus_of": lambda history, days_ago: None, "vectors": vectors, "titles": titles}
    add_reasons(examples, inputs, [1, 2], queries_of=queries_of, **nothing)
    assert [example["reasons"] for example in examples] == [["like b"], ["", ""]]


def test_reasons_count_what_purchases_themselves_add():
    """Against the whole score of a history, made anew without each of its purchases."""
    rng, items, length = np.random.default_rng(0), 7, 4
    vectors, steps = rng.normal(size=(items, 3)).astype(np.float32), rng.exponential(size=(items, items)) * 2
    history = rng.integers(0, items, (5, length)).astype(np.int32)
    history[np.arange(length) < rng.integers(0, length, 5)[:, None]] = -1
    days = rng.integers(0, 9, history.shape).astype(np.float32)

    def query(rows):
        return sum((vectors[row] for row in rows if row >= 0), np.zeros(3))

    def bonus(rows, ago):
        """The last purchase adds its followers' values, and every one a value of its age to itself."""
        added = np.zeros(items)
        if rows[-1] >= 0:
            added += steps[rows[-1]]
        for row, since in zip(rows, ago):
            added[row] += (row >= 0) * (2.0 - since)
        return added

    def bonus_of(rows, ago):
        table = np.stack([bonus(*one) for one in zip(rows, ago)])
        return Csr.from_rows(*np.indices(table.shape).reshape(2, -1), len(rows)), table.ravel().astype(np.float32)

    examples = [{"recommended": [[item, 0.0] for item in range(items)]} for _ in range(5)]
    inputs = {"history": history, "days_ago": days, "user": np.arange(5), "user_fields": np.zeros((5, 0), np.int32)}
    told = {"queries_of": lambda batch: np.stack([query(rows) for rows in batch["history"]]), "bonus_of": bonus_of}
    add_reasons(examples, inputs, np.arange(5), **told, vectors=vectors, titles=list("abcdefg"))
    for rows, ago, example in zip(history, days, examples):
        for item in range(items):
            gains = {}
            for place in np.flatnonzero(rows >= 0):
                less = np.append(-1, np.delete(rows, place)), np.append(0, np.delete(ago, place))
                whole, rest = (query(of[0]) @ vectors[item] + bonus(*of)[item] for of in ((rows, ago), less))
                gains[place] = whole - rest
            best = max(gains, key=gains.get, default=None)
            expected = f"like {'abcdefg'[rows[best]]}" if gains and gains[best] > 0 else ""
            assert example["reasons"][item] == expected


def test_what_stands_out_of_the_attention_is_framed():
    weights = np.full((4, 2), 0.05)
    weights[3, 1], weights[0, 1] = 0.5, 0.2
    assert regions_of(weights) == [[0.5, 0.75, 0.5, 0.25], [0.5, 0, 0.5, 0.25]]
    assert regions_of(np.ones((4, 2))) == []


def test_regions_are_those_of_the_recommended_items_with_photos():
    asked = []

    def attention_of(rows):
        asked.append(rows.tolist())
        return np.eye(4)[rows].reshape(-1, 2, 2)

    examples = [{"recommended": [[3, 1.0], [1, 0.5]]}, {"recommended": [[1, 1.0]]}]
    add_regions(examples, np.array([True, False, True, True]), attention_of)
    assert asked == [[3]]
    assert [example["regions"] for example in examples] == [[[[0.5, 0.5, 0.5, 0.5]], []], [[]]]
    examples = [{"recommended": [[3, 1.0]]}]
    add_regions(examples, np.ones(4, bool), lambda rows: None)
    assert "regions" not in examples[0]
