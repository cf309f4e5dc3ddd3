"""Splits of a ratings log by share: at random, at random within each user, or at two moments in time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipelines.schema import TEST, TRAIN, VAL, PreparedError


def check_shares(test_share: float, val_share: float) -> None:
    """Raise unless the shares leave something for training.

    Raises:
        PreparedError: a share is negative, or both together take everything.
    """
    if min(test_share, val_share) < 0 or test_share + val_share >= 1:
        raise PreparedError(
            f"--test-share {test_share} and --val-share {val_share} leave nothing to train on; "
            "both must be >= 0 and their sum below 1"
        )


def random_split(events: int, *, test_share: float, val_share: float, seed: int) -> np.ndarray:
    """Draw exactly the asked shares from all interactions alike.

    Returns:
        `[events]` int8: 0 train, 1 val, 2 test.
    """
    order = np.random.default_rng(seed).permutation(events)
    tests, vals = round(events * test_share), round(events * val_share)
    split = np.full(events, TRAIN, np.int8)
    split[order[:tests]] = TEST
    split[order[tests : tests + vals]] = VAL
    return split


def random_split_by_user(user: np.ndarray, *, test_share: float, val_share: float, seed: int) -> np.ndarray:
    """Draw the shares within each user, rounded down, so that short histories stay in training.

    This is RecBole's default protocol (`split: {RS: [0.8, 0.1, 0.1]}`, `group_by: user`).

    Args:
        user: `[E]` user of each event, a user's events contiguous.
        test_share: of each user's events.
        val_share: the same for validation.
        seed: of the draw.

    Returns:
        `[E]` int8: 0 train, 1 val, 2 test.
    """
    shuffled = np.lexsort((np.random.default_rng(seed).random(len(user)), user))
    count = np.bincount(user)
    first = np.cumsum(count) - count
    rank = np.arange(len(user)) - first[user]  # users stay in place, so this is the draw's rank within the user
    tests = np.floor(count * test_share + 1e-9).astype(np.int64)[user]
    vals = np.floor(count * val_share + 1e-9).astype(np.int64)[user]
    split = np.empty(len(user), np.int8)
    split[shuffled] = np.select([rank < tests, rank < tests + vals], [TEST, VAL], TRAIN)
    return split


def by_pair(user: np.ndarray, item: np.ndarray, draw: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Draw a split of the distinct pairs of user and item, and mark all events of a pair alike.

    Args:
        user: `[E]` user of each event.
        item: `[E]` item of each event.
        draw: from the user of each pair `[P]`, pairs in the order of their first events, to their splits `[P]` int8.

    Returns:
        `[E]` int8: 0 train, 1 val, 2 test.
    """
    order = np.lexsort((item, user))  # stable: a pair's first event comes first
    begins = np.ones(len(user), bool)
    begins[1:] = (user[order][1:] != user[order][:-1]) | (item[order][1:] != item[order][:-1])
    if begins.all():
        return draw(user)
    is_first = np.zeros(len(user), bool)
    is_first[order[begins]] = True
    split = np.empty(len(user), np.int8)
    split[is_first] = draw(user[is_first])
    split[order] = split[order[begins]][np.cumsum(begins) - 1]
    return split


def time_edges(time: np.ndarray, *, test_share: float, val_share: float) -> tuple[int, int]:
    """Find the first seconds of validation and of test, so that about the asked shares lie after them.

    Interactions of one second are never cut apart, hence "about".

    Returns:
        `(validation, test)`, seconds since 1970.
    """
    last = len(time) - 1
    places = [
        min(last, round(len(time) * (1 - test_share - val_share))),
        min(last, round(len(time) * (1 - test_share))),
    ]
    ordered = np.partition(time, sorted(set(places)))
    return int(ordered[places[0]]), int(ordered[places[1]])


def split_at(time: np.ndarray, edges: tuple[int, int]) -> np.ndarray:
    """Mark events before, between and from `edges` on as train, val and test.

    Returns:
        `[E]` int8: 0 train, 1 val, 2 test.
    """
    return np.array([TRAIN, VAL, TEST], np.int8)[np.searchsorted(edges, time, side="right")]
