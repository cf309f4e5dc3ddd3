"""Ridge regression, in closed form."""

from __future__ import annotations

from collections.abc import Callable

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
