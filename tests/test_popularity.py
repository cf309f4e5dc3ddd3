"""Popular items: recent sales first, all sales between equals."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tfrec.popularity import best_sellers, sales_scores


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=60))
def test_recent_sales_go_before_any_number_of_old_ones(sold):
    items = np.array([item for item, _ in sold], np.int64)
    recent = np.array([is_recent for _, is_recent in sold], bool)
    scores = sales_scores(items, recent, 10)
    all_of, recent_of = (np.bincount(x, minlength=10) for x in (items, items[recent]))
    assert best_sellers(scores).tolist() == np.lexsort((np.arange(10), -all_of, -recent_of)).tolist()
    np.testing.assert_array_equal(scores.astype(int), recent_of)


def test_thousands_of_old_sales_are_not_worth_a_recent_one():
    items = np.repeat([0, 1], [5000, 2])
    assert best_sellers(sales_scores(items, items == 1, 3)).tolist() == [1, 0, 2]
