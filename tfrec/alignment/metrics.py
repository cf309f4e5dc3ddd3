"""How well photos and attributes find each other, and what a linear model reaches."""

from collections.abc import Sequence

import numpy as np

from tfrec.evaluation.bootstrap import bootstrap_means
from tfrec.evaluation.matching import match_both_ways, match_metrics
from tfrec.evaluation.ridge import best_strength, fit_ridge

SIDES = ("photo", "attributes")
MAIN = ("photo_top@5", "photo_mrr", "attributes_top@5", "attributes_mrr")  # first in every table


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
    values = match_both_ways(photos, attributes, SIDES)
    values["positive_cosine"] = np.einsum("nd,nd->n", attributes, photos).astype(float)
    found = bootstrap_means(values, seed=seed)
    return {name: found[name] for name in (*MAIN, *(name for name in found if name not in MAIN))}


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

    def evaluated(strength: float, fitted: np.ndarray, evaluated_on: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        predict = fit_ridge(pixels[fitted], one_hot[fitted], strength)
        centre = one_hot[fitted].mean(0)
        return unit(one_hot[evaluated_on] - centre), unit(predict(pixels[evaluated_on]) - centre)

    def quality(strength: float, fitted: np.ndarray, evaluated_on: np.ndarray) -> float:
        return match_metrics(*evaluated(strength, fitted, evaluated_on))["mrr"].mean()

    attributes, photos = evaluated(best_strength(strengths, train, quality, seed=seed), train, test)
    return alignment_metrics(attributes, photos, seed=seed)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of unit length; zeros stay zeros."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
