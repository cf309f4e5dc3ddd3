"""Seeded samples of rows, for what is too large to do on all of them."""

import numpy as np


def sample_rows(rows: np.ndarray | int, most: int | None, seed: int | np.random.Generator) -> np.ndarray:
    """All rows, or a sample of `most` of them without replacement, in rising order.

    Args:
        rows: `[N]`, rising, or how many there are.
        most: None takes all.
        seed: of the draw, or what draws it.
    """
    rows = np.arange(rows) if isinstance(rows, int) else rows
    if most is None or len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
