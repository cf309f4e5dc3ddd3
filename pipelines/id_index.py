"""Finds the row numbers of string ids, a block at a time: what costs most in reading a large purchase log."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

WORD = 8  # bytes
LONGEST_ID = 200  # bytes; H&M's customers have 64


def proper_ids(ids: pa.Array) -> np.ndarray:
    """Return which strings can be ids, `[n]` bool: not empty, and not so long that an index of them grows huge."""
    lengths = pc.binary_length(ids).to_numpy()
    return (lengths > 0) & (lengths <= LONGEST_ID)


class IdIndex:
    """Row numbers of known ids; built once and asked block by block.

    Ids are compared by two 64-bit hashes: one is the key in pandas' hash table of integers, the other is
    compared after the look-up. That is several times as fast as a table of 64-character strings, and for a
    false match two ids would have to agree in both.

    Args:
        known: `[n]` distinct strings; an id's row number is its position.
    """

    def __init__(self, known: pa.Array):
        longest = pc.max(pc.binary_length(known)).as_py() or 1
        words = -(-longest // WORD)
        random = np.random.default_rng(0).integers(0, 1 << 63, (words + 1, 2), dtype=np.uint64)
        self._factors = random * np.uint64(2) + np.uint64(1)  # odd: multiplying by them loses nothing
        self._width = words * WORD
        hashes = self._hashes(known)
        self._table, self._checks = pd.Index(hashes[:, 0]), hashes[:, 1]

    def rows(self, ids: pa.Array) -> np.ndarray:
        """Return the row number of each id, `[n]` int32; -1 for ids that are not known."""
        if not len(self._table) or not len(ids):
            return np.full(len(ids), -1, np.int32)
        hashes = self._hashes(ids)
        is_new = (hashes[1:, 0] != hashes[:-1, 0]) | (hashes[1:, 1] != hashes[:-1, 1])
        starts = np.append(0, np.flatnonzero(is_new) + 1)  # logs list a visit's purchases together: ask once
        found = self._table.get_indexer(hashes[starts, 0])
        found = np.where(self._checks[found] == hashes[starts, 1], found, -1)
        return np.repeat(found.astype(np.int32), np.diff(starts, append=len(ids)))

    def _hashes(self, ids: pa.Array) -> np.ndarray:
        """Return two sums over each id's 8-byte words and its length, weighted at random, `[n, 2]` uint64.

        A product's low bits depend on low bits alone, so each word's upper half is folded into its lower.
        """
        characters, lengths = _padded(ids, self._width)
        words = characters.view(np.uint64)
        mixed = words ^ (words >> np.uint64(32))
        return mixed @ self._factors[:-1] + lengths.astype(np.uint64)[:, None] * self._factors[-1]


class GrowingIdIndex:
    """An `IdIndex` that gives unknown ids the next row numbers, in the order in which it meets them."""

    def __init__(self, known: pa.Array):
        self._known, self._size = IdIndex(known), len(known)
        self._added: dict[str, int] = {}

    @property
    def added(self) -> list[str]:
        """The ids that were unknown, in the order of their row numbers."""
        return list(self._added)

    def rows(self, ids: pa.Array) -> np.ndarray:
        """Return the row number of each id, `[n]` int32."""
        rows = self._known.rows(ids)
        unknown = np.flatnonzero(rows < 0)
        if len(unknown):
            distinct = ids.take(pa.array(unknown)).dictionary_encode()
            numbers = [
                self._added.setdefault(key, self._size + len(self._added)) for key in distinct.dictionary.to_pylist()
            ]
            rows[unknown] = np.array(numbers, np.int32)[distinct.indices.to_numpy()]
        return rows


def _padded(ids: pa.Array, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids' bytes padded with zeros, `[n, width]` uint8, and their lengths, `[n]` int32.

    Longer ids cannot be known; they count as empty ones, lest a single huge one make the whole array huge.
    """
    lengths = pc.binary_length(ids).to_numpy()
    if lengths.max(initial=0) > width:
        ids = pc.if_else(pa.array(lengths > width), "", ids)
    _, offsets, data = ids.buffers()
    ends = np.frombuffer(offsets, np.int32)[ids.offset : ids.offset + len(ids) + 1]
    flat = np.frombuffer(data or b"", np.uint8)[ends[0] : ends[-1]]
    sizes = np.diff(ends)
    if (sizes == width).all():
        return flat.reshape(-1, width), sizes
    padded = np.zeros((len(ids), width), np.uint8)
    if len(sizes) and (sizes == sizes[0]).all():
        padded[:, : sizes[0]] = flat.reshape(len(sizes), sizes[0])
    else:
        padded[np.arange(width) < sizes[:, None]] = flat
    return padded, sizes
