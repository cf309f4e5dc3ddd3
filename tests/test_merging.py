"""Requests joined to a batch and parted again, against one row at a time in plain Python."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrec.serve.merging import merge, part


@st.composite
def requests(draw):
    """Complete inputs of a few requests: some give one row for all of theirs, and one time for a whole history."""
    found = []
    for _ in range(draw(st.integers(1, 5))):
        rows, width = draw(st.integers(1, 3)), draw(st.integers(0, 4))
        history = np.empty((rows, width), object)
        history[:] = [[f"{row}-{column}".encode() for column in range(width)] for row in range(rows)]
        columns = draw(st.sampled_from([1, width]))
        inputs = {
            "history": history,
            "days_ago": np.arange(1, columns + 1, dtype=np.float32)[None].repeat(draw(st.sampled_from([1, rows])), 0),
            "k": np.array([draw(st.integers(1, 6))], np.int32).repeat(draw(st.sampled_from([1, rows]))),
        }
        if draw(st.booleans()):
            inputs["k"] = inputs["k"][0, ...]  # a scalar, for all rows
        found.append((inputs, rows))
    return found


@settings(max_examples=150, deadline=None)
@given(requests())
def test_every_request_has_its_rows_and_nothing_of_others(found):
    joined = merge(found)
    total = sum(rows for _, rows in found)
    widest = max(inputs["history"].shape[1] for inputs, _ in found)
    assert {name: array.shape for name, array in joined.items()} == {
        "history": (total, widest),
        "days_ago": (total, widest),
        "k": (total,),
    }
    row = 0
    for inputs, rows in found:
        width = inputs["history"].shape[1]
        for own in range(rows):
            assert list(joined["history"][row]) == [*inputs["history"][own], *[b""] * (widest - width)]
            days = inputs["days_ago"][min(own, len(inputs["days_ago"]) - 1)]
            days = list(days) if len(days) == width else [days[0]] * width
            assert list(joined["days_ago"][row]) == [*days, *[0.0] * (widest - width)]
            assert joined["k"][row] == np.broadcast_to(inputs["k"], rows)[own]
            row += 1
    outputs = {"score": np.arange(6.0 * total).reshape(total, 6), "days": np.arange(total)}
    parts = part(outputs, found)
    assert np.concatenate([answer["days"] for answer in parts]).tolist() == list(range(total))
    for answer, (inputs, rows) in zip(parts, found, strict=True):
        assert answer["score"].shape == (rows, min(6, inputs["k"].max()))
