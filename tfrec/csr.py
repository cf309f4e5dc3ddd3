"""Rows of different lengths (a user's history, targets, excluded items) as two flat arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CHUNK_ROWS = 16_384


@dataclass(frozen=True)
class Csr:
    """Item indices of many rows, end to end: row `r` is `items[offsets[r]:offsets[r + 1]]`.

    Args:
        offsets: int64 `[R + 1]`, rising, from 0 to `len(items)`.
        items: int32 `[N]`, item indices.
        times: int64 `[N]`, seconds since 1970 of each entry, or None.

    Raises:
        ValueError: the arrays don't fit together.
    """

    offsets: np.ndarray
    items: np.ndarray
    times: np.ndarray | None = None

    def __post_init__(self) -> None:
        offsets = self.offsets
        if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(self.items) or np.any(np.diff(offsets) < 0):
            raise ValueError(
                f"offsets must rise from 0 to len(items) = {len(self.items)}; got {len(offsets)} offsets "
                f"from {offsets[:1]} to {offsets[-1:]}"
            )
        if self.times is not None and len(self.times) != len(self.items):
            raise ValueError(f"times has {len(self.times)} entries for {len(self.items)} items; give one for each")

    @classmethod
    def from_rows(cls, rows: np.ndarray, items: np.ndarray, n_rows: int, times: np.ndarray | None = None) -> Csr:
        """Build from parallel arrays; entries keep their order within a row.

        Args:
            rows: int `[N]`, the row of each entry, in any order.
            items: int `[N]`.
            n_rows: number of rows, empty ones included.
            times: int64 `[N]` or None.
        """
        if len(rows) and np.any(np.diff(rows) < 0):
            order = np.argsort(rows, kind="stable")
            rows, items = rows[order], items[order]
            times = None if times is None else times[order]
        offsets = np.zeros(n_rows + 1, np.int64)
        np.cumsum(np.bincount(rows, minlength=n_rows), out=offsets[1:])
        return cls(offsets, np.asarray(items, np.int32), times)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.items[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """int64 `[R]`, entries of each row."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> np.ndarray:
        """int64 `[N]`, the row of each entry."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def slice(self, start: int, stop: int) -> Csr:
        """Rows `start` to `stop` (exclusive), without copying entries."""
        stop = min(stop, len(self))
        low, high = self.offsets[start], self.offsets[stop]
        times = None if self.times is None else self.times[low:high]
        return Csr(self.offsets[start : stop + 1] - low, self.items[low:high], times)

    def where(self, keep: np.ndarray) -> Csr:
        """The same rows with only the entries where `keep` (bool `[N]`) is true."""
        times = None if self.times is None else self.times[keep]
        return Csr.from_rows(self.rows[keep], self.items[keep], len(self), times)

    def take(self, rows: np.ndarray) -> Csr:
        """The given rows (int indices or bool `[R]`) in their given order."""
        rows = np.arange(len(self))[rows]
        lengths = self.lengths[rows]
        offsets = np.r_[0, np.cumsum(lengths)]
        entries = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return Csr(offsets, self.items[entries], None if self.times is None else self.times[entries])

    def distinct(self) -> Csr:
        """Each row's distinct items in the order of their first entry (times: of that first entry)."""
        width = int(self.items.max(initial=0)) + 1
        _, first = np.unique(self.rows * width + self.items, return_index=True)
        keep = np.zeros(len(self.items), bool)
        keep[first] = True
        return self.where(keep)

    def contains(self, ids: np.ndarray) -> np.ndarray:
        """Which of `ids` (int `[R, K]`, -1 = none) occur in the row they stand in: bool `[R, K]`."""
        if len(ids) != len(self):
            raise ValueError(f"ids has {len(ids)} rows, expected {len(self)}: one row of ids for each row")
        found = np.zeros(ids.shape, bool)
        for start in range(0, len(self), CHUNK_ROWS):
            part = self.slice(start, start + CHUNK_ROWS)
            asked = ids[start : start + CHUNK_ROWS]
            if len(part.items) == 0 or asked.size == 0:
                continue
            width = max(int(part.items.max()), int(asked.max())) + 1
            keys = np.sort(part.rows * width + part.items)
            wanted = np.arange(len(asked))[:, None] * width + asked
            at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            found[start : start + CHUNK_ROWS] = (keys[at] == wanted) & (asked >= 0)
        return found
