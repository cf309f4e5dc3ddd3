"""The report's reasons, with a query that is the sum of the history's vectors."""

import numpy as np

from tfrec.reasons import add_reasons, add_regions, histories_without, regions_of


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
    add_reasons(examples, inputs, [1, 2], queries_of=queries_of, vectors=vectors, titles=titles)
    assert [example["reasons"] for example in examples] == [["like b"], ["", ""]]


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
