"""Requests of one signature as one batch: padded to one width, joined, and the answers parted again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfrec.serve.signatures import RANKED, SPREAD, Arrays

MAX_SPREAD = 2_000_000  # values that an input may have once it is spread over its rows, in a request or in a batch
MAX_SPREAD_BYTES = 64 << 20  # of the strings of a request or a batch, spread likewise
PADDING = {"O": b"", "f": 0.0, "i": -1}  # what every signature reads as nothing, by kind of dtype


def spread_bytes(inputs: Arrays, rows: int) -> int:
    """Bytes of the strings of a request once one row of an input stands for each of its rows."""
    strings = (array for array in inputs.values() if array.dtype == object)
    return sum(sum(map(len, array.flat)) * (rows if len(array) == 1 else 1) for array in strings if array.ndim)


def width(inputs: Arrays) -> int:
    """Columns of the widest input."""
    return max((array.shape[1] for array in inputs.values() if array.ndim > 1), default=1)


def may_join(first: Arrays, other: Arrays) -> bool:
    """Whether the answers of two requests can be parted again: answers as wide as `items`, and as `history` beside it, are
    not narrowed, so that such requests must not be padded.
    """
    return "items" not in first or all(
        first[name].shape[1] == other[name].shape[1] for name in ("items", "history") if name in first
    )


def merge(requests: Sequence[tuple[Arrays, int]]) -> Arrays:
    """Join complete inputs (`Signature.complete`) of several requests.

    Args:
        requests: inputs and number of rows of each.

    Returns:
        One array an input, with the rows of all requests in their order.
    """
    total = sum(rows for _, rows in requests)
    return {name: _joined(name, requests, total) for name in requests[0][0]}


def part(outputs: Arrays, requests: Sequence[tuple[Arrays, int]]) -> list[Arrays]:
    """Give each request its own rows of the outputs, as wide as its own k."""
    parts, start = [], 0
    for inputs, rows in requests:
        width = int(inputs["k"].max(initial=1)) if "k" in inputs else None
        stop = start + rows
        parts.append(
            {
                name: array[start:stop, :width] if name in RANKED and width else array[start:stop]
                for name, array in outputs.items()
            }
        )
        start = stop
    return parts


def _joined(name: str, requests: Sequence[tuple[Arrays, int]], total: int) -> np.ndarray:
    """An input of all requests: a row for each of theirs, as wide as the widest, and where it belongs to another input,
    a column for each of that one's. Written in place: a batch is of many small arrays, and each NumPy call costs more
    than its copying."""
    first, start = requests[0][0][name], 0
    if first.ndim < 2:  # one value for each row, or one for all
        joined = np.empty(total, first.dtype)
        for inputs, rows in requests:
            joined[start : start + rows] = inputs[name]
            start += rows
        return joined
    other = SPREAD.get(name, name)
    widths = [inputs.get(other, inputs[name]).shape[1] for inputs, _ in requests]
    joined = np.full((total, max(widths), *first.shape[2:]), PADDING[first.dtype.kind], first.dtype)
    for (inputs, rows), width in zip(requests, widths, strict=True):
        joined[start : start + rows, :width] = inputs[name]
        start += rows
    return joined
