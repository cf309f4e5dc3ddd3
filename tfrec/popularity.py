"""What sells best: what customers are shown of whom nothing is known, when served and, by the same order, in evaluation."""

import numpy as np

POPULAR_DAYS = 7  # the last ones, whose sales count


def sales_scores(items: np.ndarray, recent: np.ndarray, count: int) -> np.ndarray:
    """Recent sales of each item; what was sold as often recently stands in order of all sales.

    Args:
        items: the items sold, int `[n]`.
        recent: which of the sales are recent, bool `[n]`.
        count: size of the catalogue N.

    Returns:
        float32 `[N]`: a number of recent sales, and a fraction for all (which is lost in 100,000 recent sales and more).
    """
    overall = np.bincount(items, minlength=count)
    fraction = overall / (1 + overall.max(initial=0))
    return (np.bincount(items[recent], minlength=count) + fraction).astype(np.float32)


def best_sellers(scores: np.ndarray) -> np.ndarray:
    """Items by falling score, int32 `[N]`; equal ones in the catalogue's order."""
    return np.argsort(-scores, kind="stable").astype(np.int32)
