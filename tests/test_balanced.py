"""Class-balanced batches: their make-up, coverage and repeatability."""

import numpy as np
import pytest

from pipelines.balanced import balanced_batches


def _labels(seed=0):
    return np.repeat(np.array(["a", "b", "c", "d", "e"]), [7, 12, 12, 1, 9])[
        np.random.default_rng(seed).permutation(41)
    ]


def test_every_batch_is_p_by_k():
    labels = _labels()
    batches = balanced_batches(labels, classes=3, per_class=4, epoch=0)
    assert batches.shape[1] == 12
    for batch in labels[batches]:
        by_class = batch.reshape(3, 4)
        assert (by_class == by_class[:, :1]).all()
        assert len(set(by_class[:, 0])) == 3


def test_an_epoch_covers_the_items_but_a_last_batch():
    labels = _labels()
    seen = set(balanced_batches(labels, classes=3, per_class=4, epoch=0).ravel())
    assert len(labels) - len(seen) < 12


def test_a_class_commoner_than_all_others_is_spread_over_epochs():
    labels = np.repeat(np.arange(10), [1000, *[8] * 9])
    first, second = (set(balanced_batches(labels, classes=4, per_class=4, epoch=e).ravel()) for e in (0, 1))
    assert [len(first & set(np.flatnonzero(labels == c))) for c in range(10)] == [24, *[8] * 9]
    assert len({*first, *second} & set(range(1000))) > 40


def test_with_equal_classes_every_item_comes_once():
    rows = balanced_batches(np.arange(60) % 6, classes=3, per_class=5, epoch=2).ravel()
    assert sorted(rows) == list(range(60))


def test_epochs_and_seeds_differ_and_repeat():
    def draw(**arguments):
        return balanced_batches(_labels(), classes=2, per_class=3, **arguments).tolist()

    assert draw(epoch=1) == draw(epoch=1)
    assert draw(epoch=1) != draw(epoch=2)
    assert draw(epoch=1, seed=1) != draw(epoch=1)


def test_a_class_of_one_item_repeats_it():
    batch = balanced_batches(np.array([0, 1, 1, 1]), classes=2, per_class=3, epoch=0)
    assert batch.shape == (1, 6)
    assert sorted(batch[0]) == [0, 0, 0, 1, 2, 3]


def test_errors_say_what_to_change():
    with pytest.raises(ValueError, match="have 2"):
        balanced_batches(np.array([0, 1]), classes=3, per_class=2, epoch=0)
    with pytest.raises(ValueError, match="at least 1"):
        balanced_batches(np.array([0, 1]), classes=2, per_class=0, epoch=0)
