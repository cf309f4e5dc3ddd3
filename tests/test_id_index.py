"""Row numbers of ids against a plain dictionary, for ids of every length and ids that are nearly equal."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.id_index import GrowingIdIndex, IdIndex

ids = st.lists(st.text(st.characters(codec="utf-8"), max_size=20), max_size=30)


@settings(max_examples=50, deadline=None)
@given(ids, ids)
def test_rows_equal_a_dictionary(known, asked):
    known = list(dict.fromkeys(key for key in known if key))
    rows = {key: row for row, key in enumerate(known)}
    found = IdIndex(pa.array(known, pa.string())).rows(pa.array(asked + known, pa.string()))
    assert found.tolist() == [rows.get(key, -1) for key in asked + known]


@settings(max_examples=50, deadline=None)
@given(ids, st.lists(ids, max_size=3))
def test_growing_rows_equal_a_growing_dictionary(known, blocks):
    known = list(dict.fromkeys(key for key in known if key))
    blocks = [[key for key in block if key] for block in blocks]
    rows = {key: row for row, key in enumerate(known)}
    index = GrowingIdIndex(pa.array(known, pa.string()))
    for block in blocks:
        assert index.rows(pa.array(block, pa.string())).tolist() == [rows.setdefault(key, len(rows)) for key in block]
    assert [*known, *index.added] == list(rows)


@pytest.mark.parametrize("width", [8, 13, 64])
def test_numbered_ids_are_told_apart(width):
    """Ids that differ in few, late characters are the hard case for sums of products."""
    known = pa.array([f"{number:0{width}d}" for number in range(100_000)])
    assert np.array_equal(IdIndex(known).rows(known), np.arange(100_000))


def test_slices_of_arrays_and_huge_ids_are_no_trouble():
    known = pa.array(["aa", "b", "cc"])
    asked = pa.concat_arrays([known, pa.array(["x" * 10_000_000, "b", "a\0", "aa\0"])])[1:]
    assert IdIndex(known).rows(asked).tolist() == [1, 2, -1, 1, -1, -1]
