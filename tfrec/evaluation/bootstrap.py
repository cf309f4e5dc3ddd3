"""95 % confidence intervals over users: how much would the figures move with another sample of users?"""

from __future__ import annotations

import numpy as np

Interval = dict[str, float]  # value, low, high

LEVEL = 0.95
BATCH_CELLS = 8_000_000  # resampled counts held at once: 64 MB


def shown(entry: Interval) -> str:
    """A value with its interval, as text: `0.1234 [0.1198, 0.1271]`."""
    return f"{entry['value']:.4f} [{entry['low']:.4f}, {entry['high']:.4f}]"


def bootstrap_means(values: dict[str, np.ndarray], *, resamples: int = 1000, seed: int = 0) -> dict[str, Interval]:
    """Percentile bootstrap of the mean of every metric, users drawn with replacement.

    Most users share their row of values with many others (no hit at all; one hit at position 3), so users
    are drawn as counts of distinct rows: the same draw, at a cost that grows with distinct rows only.

    Args:
        values: name -> float `[U]`, all of the same users; NaN = undefined for that user, left out of that
            mean.
        resamples: how many samples.
        seed: of the draw.

    Returns:
        Name -> `{"value", "low", "high"}`; a metric undefined for everybody is left out.
    """
    names = [name for name, value in values.items() if not np.isnan(value).all()]
    if not names:
        return {}
    rows, counts = _distinct_rows(np.stack([values[name] for name in names], axis=1).astype(np.float64))
    defined = (~np.isnan(rows)).astype(np.float64)  # [D, M]
    rows = np.nan_to_num(rows)
    with np.errstate(invalid="ignore"):
        point = counts @ rows / (counts @ defined)
        means = _resampled_means(rows, defined, counts, resamples, np.random.default_rng(seed))
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.nanpercentile(means, [tail, 100 - tail], axis=0)
    return {name: interval(point[i], low[i], high[i]) for i, name in enumerate(names)}


def _resampled_means(
    rows: np.ndarray, defined: np.ndarray, counts: np.ndarray, resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """float64 `[resamples, M]`: the means of each resample, drawn in batches of bounded memory."""
    means = []
    batch = max(1, min(resamples, BATCH_CELLS // len(counts)))
    for start in range(0, resamples, batch):
        drawn = _draw(counts, min(batch, resamples - start), rng).astype(np.float64)
        means.append(drawn @ rows / (drawn @ defined))
    return np.concatenate(means)


def _draw(counts: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """int64 `[resamples, D]`: how often each distinct row is drawn in as many draws as there are users.

    A multinomial draw costs about ten times as much a row as drawing and counting costs a user.
    """
    users = int(counts.sum())
    if 10 * len(counts) < users:
        return rng.multinomial(users, counts / users, size=resamples)
    row_of_user = np.repeat(np.arange(len(counts)), counts)
    draws = (row_of_user[rng.integers(0, users, users)] for _ in range(resamples))
    return np.stack([np.bincount(draw, minlength=len(counts)) for draw in draws])


def _distinct_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows of a matrix, compared as bytes (faster than by columns), and their counts."""
    rows = np.ascontiguousarray(rows)
    as_bytes = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1])))[:, 0]
    _, first, counts = np.unique(as_bytes, return_index=True, return_counts=True)
    return rows[first], counts


def jackknife_distinct(ranked: np.ndarray, n_items: int) -> Interval:
    """Share of `n_items` that occurs in any list, with a normal interval from the jackknife over users.

    A bootstrap would draw fewer distinct users, hence fewer distinct items, and be biased low. Leaving out
    one user loses exactly the items that only this user's list holds, so the jackknife needs one count.

    Args:
        ranked: int `[U, K]`, distinct item indices in a row, -1 = no item.
        n_items: size of the catalogue.
    """
    lists = np.bincount(ranked[ranked >= 0], minlength=n_items)  # lists that hold each item
    value = np.count_nonzero(lists) / n_items
    own = np.where(ranked >= 0, lists[ranked] == 1, False).sum(axis=1)  # items in this user's list alone
    error = np.sqrt(len(ranked) - 1) * own.std() / n_items
    return interval(value, max(value - 1.96 * error, 0.0), min(value + 1.96 * error, 1.0))


def exact(value: float) -> Interval:
    """A value that no sample stands behind, in the form of an interval."""
    return interval(value, value, value)


def interval(value: float, low: float, high: float) -> Interval:
    """A value with its bounds, as metrics.json has it."""
    return {"value": float(value), "low": float(low), "high": float(high)}
