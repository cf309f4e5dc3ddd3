"""Requests of one signature as one batch: padded to one width, joined, and the answers parted again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfrec.serve.signatures import RANKED, SPREAD, Arrays

PADDING = {"O": b"", "f": 0.0, "i": -1}  # what every signature reads as nothing, by kind of dtype


def merge(requests: Sequence[tuple[Arrays, int]]) -> Arrays:
    """Join complete inputs (`Signature.complete`) of several requests.

    Args:
        requests: inputs and number of rows of each.

    Returns:
        One array an input, with the rows of all requests in their order.
    """
    names = requests[0][0].keys()
    return {name: _join([_spread(name, inputs, rows) for inputs, rows in requests]) for name in names}


def part(outputs: Arrays, requests: Sequence[tuple[Arrays, int]]) -> list[Arrays]:
    """Give each request its own rows of the outputs, as wide as its own k."""
    parts, start = [], 0
    for inputs, rows in requests:
        width = int(np.max(inputs["k"], initial=1)) if "k" in inputs else None
        stop = start + rows
        parts.append(
            {
                name: array[start:stop, :width] if name in RANKED and width else array[start:stop]
                for name, array in outputs.items()
            }
        )
        start = stop
    return parts


def _spread(name: str, inputs: Arrays, rows: int) -> np.ndarray:
    """An input with one row for each of the request's, and one column for each of the input that it belongs to."""
    array = inputs[name]
    shape: tuple[int, ...] = (rows, *array.shape[1:])
    if name in SPREAD and SPREAD[name] in inputs:
        shape = (rows, inputs[SPREAD[name]].shape[1])
    return np.broadcast_to(array, shape)


def _join(arrays: list[np.ndarray]) -> np.ndarray:
    if arrays[0].ndim > 1:
        width = max(array.shape[1] for array in arrays)
        fill = PADDING[arrays[0].dtype.kind]
        arrays = [_pad(array, width, fill) for array in arrays]
    return np.concatenate(arrays)


def _pad(array: np.ndarray, width: int, fill: object) -> np.ndarray:
    missing = width - array.shape[1]
    if not missing:
        return array
    return np.concatenate([array, np.full((len(array), missing), fill, array.dtype)], axis=1)
