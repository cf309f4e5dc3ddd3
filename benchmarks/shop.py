"""Purchases of a made-up shop of any size, as uneven as H&M's: a few articles and customers make much of the trade."""

import numpy as np

from pipelines.batches import DAY, Purchases

# An article of rank r is bought in proportion to (r + OFFSET * N) ** -EXPONENT: of 105,000 articles the first has .18 %
# of the purchases and 8,192 purchases name about 5,970 different ones, as in H&M's log.
EXPONENT, OFFSET = 0.9, 45e-5


def popularity(items: int) -> np.ndarray:
    """Share of the purchases that each item has, the most popular first, float64 `[N]`."""
    share = (np.arange(items) + OFFSET * items) ** -EXPONENT
    return share / share.sum()


def make_purchases(users: int, items: int, count: int, *, seed: int = 0) -> Purchases:
    """`count` purchases by `users` customers (a log-normal number each: half of them make a seventh of the purchases)."""
    rng = np.random.default_rng(seed)
    activity = np.cumsum(rng.lognormal(0.0, 1.1, users))
    user = np.searchsorted(activity / activity[-1], np.sort(rng.random(count)), side="right").astype(np.int32)
    curve = np.cumsum(popularity(items))
    rows = rng.permutation(items)[np.minimum(np.searchsorted(curve, rng.random(count)), items - 1)]
    time = rng.integers(0, 700 * DAY, count)
    return Purchases(user, rows.astype(np.int32), time[np.lexsort((time, user))], users)


def frequency(purchases: Purchases, items: int) -> np.ndarray:
    """Share of the purchases that each item really has, float64 `[N]`."""
    return np.bincount(purchases.item, minlength=items) / len(purchases)
