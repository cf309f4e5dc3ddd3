"""How well two sides of the same items find each other, and what chance and a linear model reach."""

from collections.abc import Callable, Sequence

import numpy as np

from tfrec.evaluation.bootstrap import bootstrap_means, exact

TOP = (1, 5)
BLOCK = 1 << 26  # similarities that are held at once
MAIN = ("photo_top@5", "photo_mrr", "attributes_top@5", "attributes_mrr")  # first in every table


def match_ranks(similarity: np.ndarray, first: int = 0) -> np.ndarray:
    """The place of each query's own target, from 1: float64 `[Q]`.

    Args:
        similarity: `[Q, N]`, the target of row i in column `first` + i. Equal scores share their mean place, so that a model
            that gives all the same score is no better than chance.
        first: column of the first row's target.
    """
    own = np.diagonal(similarity, first)[:, None]
    above, equal = (similarity > own).sum(1), (similarity == own).sum(1)
    return 1.0 + above + (equal - 1) / 2.0


def match_metrics(queries: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """Per-query metrics of finding `targets` `[N, D]` by `queries` `[N, D]`, matched row by row: name -> `[N]`."""
    rows = max(1, BLOCK // max(1, len(targets)))
    blocks = [match_ranks(queries[start : start + rows] @ targets.T, start) for start in range(0, len(queries), rows)]
    ranks = np.concatenate(blocks) if blocks else np.zeros(0)
    return {**{f"top@{k}": (ranks <= k).astype(float) for k in TOP}, "mrr": 1.0 / ranks}


def alignment_metrics(attributes: np.ndarray, photos: np.ndarray, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Metrics in both directions with 95 % bootstrap intervals.

    Args:
        attributes: unit vectors `[N, D]`.
        photos: of the same items, unit vectors `[N, D]`.
        seed: of the bootstrap.

    Returns:
        `photo_top@5`, `photo_mrr`, `photo_top@1` (attributes find the photo), the same with `attributes_` (the photo
        finds the attributes), and `positive_cosine`: name -> value, low, high.
    """
    values = {f"photo_{name}": value for name, value in match_metrics(attributes, photos).items()}
    values |= {f"attributes_{name}": value for name, value in match_metrics(photos, attributes).items()}
    values["positive_cosine"] = np.einsum("nd,nd->n", attributes, photos).astype(float)
    found = bootstrap_means(values, seed=seed)
    return {name: found[name] for name in (*MAIN, *(name for name in found if name not in MAIN))}


def chance(count: int) -> dict[str, dict[str, float]]:
    """What a random order of `count` candidates reaches on average."""
    mrr = float((1.0 / np.arange(1, count + 1)).mean())
    values = {f"top@{k}": min(1.0, k / count) for k in TOP} | {"mrr": mrr}
    return {f"{side}_{name}": exact(value) for side in ("photo", "attributes") for name, value in values.items()}


def linear_baseline(
    pixels: np.ndarray,
    one_hot: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    *,
    strengths: Sequence[float] = (1e1, 1e2, 1e3, 1e4, 1e5),
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Ridge regression from raw pixels to one-hot attributes, compared by cosine about the training mean.

    The strength of the ridge is the one with the best mean reciprocal rank on a fifth of the training items.

    Args:
        pixels: flattened photos `[N, P]`.
        one_hot: attributes `[N, A]`.
        train: rows to fit on.
        test: rows to evaluate on.
        strengths: of the ridge.
        seed: of the held-out fifth and of the bootstrap.
    """
    shuffled = np.random.default_rng(seed).permutation(train)
    held, kept = shuffled[: len(train) // 5], shuffled[len(train) // 5 :]

    def evaluated(strength: float, fitted: np.ndarray, evaluated_on: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        predict = fit_ridge(pixels[fitted], one_hot[fitted], strength)
        centre = one_hot[fitted].mean(0)
        return unit(one_hot[evaluated_on] - centre), unit(predict(pixels[evaluated_on]) - centre)

    def quality(strength: float) -> float:
        return match_metrics(*evaluated(strength, kept, held))["mrr"].mean()

    attributes, photos = evaluated(max(strengths, key=quality), train, test)
    return alignment_metrics(attributes, photos, seed=seed)


def fit_ridge(inputs: np.ndarray, outputs: np.ndarray, strength: float) -> Callable[[np.ndarray], np.ndarray]:
    """A function from inputs `[N, P]` to predicted outputs `[N, A]`, solved for the smaller of N and P."""
    x_mean, y_mean = inputs.mean(0), outputs.mean(0)
    x, y = inputs - x_mean, outputs - y_mean
    if len(x) < x.shape[1]:
        weights = x.T @ np.linalg.solve(x @ x.T + strength * np.eye(len(x)), y)
    else:
        weights = np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ y)
    return lambda values: (values - x_mean) @ weights + y_mean


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of unit length; zeros stay zeros."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
