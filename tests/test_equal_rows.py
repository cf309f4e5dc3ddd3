"""Rows equal to earlier ones, against a plain loop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.equal_rows import packed, repeated

FEW = st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 1)), max_size=30)
WIDE = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([-(2**62), 0, 2**62, 2**62 + 1])), max_size=30)


@given(FEW | WIDE)
def test_rows_that_stood_before_are_repeated(rows):
    columns = [np.array([row[at] for row in rows], np.int64) for at in range(2)]
    assert repeated(columns).tolist() == [row in rows[:at] for at, row in enumerate(rows)]


def test_ratings_are_told_apart_by_halves():
    columns = [np.array([1, 1, 1, 2]), np.array([4.0, 4.5, 4.0, 4.0], np.float32)]
    assert repeated(columns).tolist() == [False, False, True, False]


@pytest.mark.parametrize(("most", "keys"), [(2**20, 1), (2**62, 2)])
def test_columns_are_packed_where_they_fit(most, keys):
    columns = [np.array([5, -3, 5, 7]), np.array([most, 0, 1, 0])]
    found = packed(columns)
    assert len(found) == keys
    assert np.lexsort(found).tolist() == np.lexsort(columns).tolist() == [1, 3, 2, 0]
