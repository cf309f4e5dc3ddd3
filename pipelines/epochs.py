"""Which examples each training step takes: a seeded permutation for every epoch, cut into whole batches."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


class ShuffledRows:
    """Rows in batches; calling it with a step number gives that step's, so that a resumed run goes on exactly.

    Args:
        rows: `[N]` rows, or how many there are.
        size: B, rows of a batch.
        seed: numbers that the order depends on, beside the epoch.

    Attributes:
        steps_per_epoch: whole batches in a pass over the rows; what is left over is not read in that pass.
    """

    def __init__(self, rows: np.ndarray | int, size: int, *seed: int):
        self.rows, self.size, self.seed = rows, size, seed
        self.steps_per_epoch = (rows if isinstance(rows, int) else len(rows)) // size
        # Steps on both sides of an epoch's end are made at the same time.
        self.permutation = lru_cache(maxsize=2)(self._permutation)

    def __call__(self, step: int) -> np.ndarray:
        """Rows of `step`, `[B]`."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return self.permutation(epoch)[place * self.size : (place + 1) * self.size]

    def _permutation(self, epoch: int) -> np.ndarray:
        """The epoch's permutation of the rows, `[N]`."""
        return np.random.default_rng([*self.seed, epoch]).permutation(self.rows)
