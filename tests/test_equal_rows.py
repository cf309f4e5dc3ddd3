"""Rows equal to earlier ones, against a plain loop."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.equal_rows import repeated


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=30))
def test_rows_that_stood_before_are_repeated(rows):
    columns = [np.array([row[at] for row in rows], np.int64) for at in range(2)]
    assert repeated(columns).tolist() == [row in rows[:at] for at, row in enumerate(rows)]
