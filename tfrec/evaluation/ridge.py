"""Ridge regression, in closed form."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def fit_ridge(inputs: np.ndarray, outputs: np.ndarray, strength: float) -> Callable[[np.ndarray], np.ndarray]:
    """A function from inputs `[N, P]` to predicted outputs `[N, A]`, solved for the smaller of N and P."""
    x_mean, y_mean = inputs.mean(0), outputs.mean(0)
    x, y = inputs - x_mean, outputs - y_mean
    if len(x) < x.shape[1]:
        weights = x.T @ np.linalg.solve(x @ x.T + strength * np.eye(len(x)), y)
    else:
        weights = np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ y)
    return lambda values: (values - x_mean) @ weights + y_mean


def best_strength(
    strengths: Sequence[float],
    rows: np.ndarray,
    quality: Callable[[float, np.ndarray, np.ndarray], float],
    *,
    seed: int,
) -> float:
    """The strength that does best on a fifth of the training rows.

    Args:
        strengths: to choose from.
        rows: `[N]`, at least two for a choice; of fewer the largest strength is taken.
        quality: (strength, rows to fit on, rows to evaluate on) -> the more, the better.
        seed: of the fifth.
    """
    if len(rows) < 2:
        return max(strengths)
    shuffled, held = np.random.default_rng(seed).permutation(rows), max(1, len(rows) // 5)
    return max(strengths, key=lambda strength: quality(strength, shuffled[held:], shuffled[:held]))
