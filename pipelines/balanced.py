"""P x K batches for metric learning: P classes with K items each, so that every batch holds positive pairs."""

from __future__ import annotations

import numpy as np


def balanced_batches(labels: np.ndarray, *, classes: int, per_class: int, epoch: int, seed: int = 0) -> np.ndarray:
    """One epoch of class-balanced batches (Hermans et al., In Defense of the Triplet Loss, 2017).

    Each class is cut into groups of K; one with fewer items, or a rest, is filled up with draws from the same class. An
    epoch ends when fewer than P classes have a group left. Where no class has more than 1/P of all groups, it holds every
    item but for less than a batch; a commoner class keeps the rest of its items for other epochs, which shuffle anew (of
    1,000 items beside nine classes of 8, P = K = 4, an epoch holds 24). The result depends on nothing but the arguments,
    so the data position of a checkpoint is the epoch and a batch number.

    Args:
        labels: `[N]` class of each item, of any type.
        classes: P, different classes in a batch.
        per_class: K, items of each.
        epoch: which epoch.
        seed: of the order.

    Returns:
        int32 `[batches, P * K]` item rows, the K of a class side by side.

    Raises:
        ValueError: P or K is below 1, or there are fewer classes than P.
    """
    if classes < 1 or per_class < 1:
        raise ValueError(f"classes={classes} and per_class={per_class} must be at least 1")
    codes = np.unique(np.asarray(labels), return_inverse=True)[1]
    count = int(codes.max()) + 1 if len(codes) else 0
    if count < classes:
        raise ValueError(f"a batch of classes={classes} needs as many classes, the items have {count}; lower it")
    rng = np.random.default_rng([seed, epoch])
    groups = [_groups(np.flatnonzero(codes == code), per_class, rng) for code in range(count)]
    left = np.array([len(group) for group in groups])
    batches = []
    while np.count_nonzero(left) >= classes:
        # Most groups left first, or the commonest classes would remain alone at the end; ties at random.
        chosen = np.lexsort((rng.random(count), -left))[:classes]
        left[chosen] -= 1
        batches.append(np.concatenate([groups[code][left[code]] for code in chosen]))
    if not batches:
        return np.empty((0, classes * per_class), np.int32)
    return np.stack(batches)[rng.permutation(len(batches))].astype(np.int32)


def _groups(rows: np.ndarray, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """A class's rows, shuffled and cut into groups of `size`; the last one is filled up with draws from the class."""
    rows = rng.permutation(rows)
    missing = -len(rows) % size
    fill = rng.choice(rows, missing, replace=missing > len(rows))
    return list(np.concatenate([rows, fill]).reshape(-1, size))
