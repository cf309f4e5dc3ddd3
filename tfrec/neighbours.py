"""Items that gain from a purchase of another one, by a fixed table beside the vectors: exact in every search.

A vector of a few hundred numbers cannot hold whom each item's buyers turned to next, nor that two items are one product in
two colours; a short list for each item can. The lists are counted or solved for, not learned beside the vectors: of the
purchases that a model was trained on its vectors explain too much to leave a list its weight.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from pipelines.batches import Purchases
from pipelines.processor import cores
from tfrec.co_occurrence import cosines, indicator, latest_items, ranges

VARIANTS = 15  # of an item that are looked at; H&M's products have 2.2 items on average
FOLLOWERS = 32  # kept of each item: twice as many rank no better
AT_ONCE = 1 << 20  # purchases whose followers are counted at a time, which takes some 300 MB at most
APART = 4  # purchases between an item and its follower, at most, the follower included
NEARER = 0.5  # what a follower one purchase later counts
RECENT = 5  # purchases of a customer whose followers count
OLDER = 0.5  # what those of the purchase before count
COMPANIONS = 32  # kept of each item
EXPLAINING = 64  # items that an item's purchases are explained by
RIDGE = 200.0  # purchases; the usual penalty of such regressions, of small logs and large ones alike
LATEST = 500  # purchases of a customer that are counted; co-occurrence grows with their square
SOLVED_AT_ONCE = 256  # items


@dataclass(frozen=True)
class Neighbours:
    """For each item the items that gain from its purchase.

    Attributes:
        rows: int32 `[N, S]`, -1 = none; no item twice in a row.
        scores: what each gains, in logits, float32 `[N, S]`; not negative.
        recent: how many of a customer's last purchases count; None: all that are read.
        older: what the purchase before counts, compared with a purchase.
    """

    rows: np.ndarray
    scores: np.ndarray
    recent: int | None = None
    older: float = 1.0

    def places(self, length: int) -> np.ndarray:
        """What a purchase counts at each place of a right-aligned history, the most recent one last: float32 `[L]`."""
        back = np.arange(length)[::-1]
        counts = back < (length if self.recent is None else self.recent)
        return np.where(counts, self.older**back, 0.0).astype(np.float32)

    def gains(self, history: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What items gain from purchases int32 `[U, L]` (-1 = none, right-aligned), entry by entry, in no order.

        Returns:
            Customer, item and gain, `[E]` each; gains of one item add up.
        """
        counts = self.places(history.shape[1])
        customer, place = np.nonzero((history >= 0) & (counts > 0))
        items = history[customer, place]
        entry, slot = np.nonzero(self.rows[items] >= 0)
        item = items[entry]
        return customer[entry], self.rows[item, slot], self.scores[item, slot] * counts[place[entry]]

    def extended(self, items: int) -> Neighbours:
        """The same for a catalogue that has grown to so many items, of which the new ones have no neighbours."""
        more = ((0, items - len(self.rows)), (0, 0))
        return replace(self, rows=np.pad(self.rows, more, constant_values=-1), scores=np.pad(self.scores, more))


def products_of(items: pd.DataFrame) -> list[str]:
    """The product that each item is a variant of, "" where it names none."""
    return list(items["group"].fillna("")) if "group" in items else [""] * len(items)


def product_neighbours(groups: pd.Series, sales: np.ndarray, score: float, most: int = VARIANTS) -> Neighbours:
    """An item itself and the other items of its product gain from its purchase, however long ago.

    Args:
        groups: product of each of `N` items; "" or missing where it has none.
        sales: of each item `[N]`; where a product has too many items, those that sold best count.
        score: what each gains.
        most: other items that are kept.
    """
    own = np.arange(len(groups), dtype=np.int32)[:, None]
    rows = np.concatenate([own, variant_table(groups, sales, most)], 1)
    return Neighbours(rows, np.where(rows >= 0, np.float32(score), np.float32(0.0)))


def variant_table(groups: pd.Series, sales: np.ndarray, most: int = VARIANTS) -> np.ndarray:
    """The other items of each item's product, the best-selling first.

    Args:
        groups: product of each of `N` items; "" or missing where it has none.
        sales: of each item `[N]`.
        most: how many are kept.

    Returns:
        Item rows int32 `[N, S]`, -1 = none; S is at most `most`, and 0 where no product has two items.
    """
    known = np.flatnonzero((groups.notna() & (groups != "")).to_numpy())
    codes = pd.factorize(groups.iloc[known])[0]
    order = np.lexsort((known, -np.asarray(sales)[known], codes))
    rows, codes = known[order], codes[order]
    counts = np.bincount(codes)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    place = np.arange(len(rows)) - first
    width = int(np.clip(counts.max(initial=1) - 1, 0, most))
    table = np.full((len(groups), width), -1, np.int32)
    for nth in range(width):
        other = nth + (place <= nth)  # the nth other item of a product: its own place is passed over
        there = other < counts[codes]
        table[rows[there], nth] = rows[first[there] + other[there]]
    return table


def followers(purchases: Purchases, items: int, weight: float, most: int = FOLLOWERS) -> Neighbours:
    """What other customers bought soon after an item gains from its purchase.

    Sequential rules (Ludewig and Jannach 2018, https://arxiv.org/abs/1803.09587), divided like a cosine, so that what
    everybody buys follows nothing in particular: with n(i, j, d) the number of times that j was the d-th purchase after i,
    j gains `weight` * sum_d NEARER^(d - 1) n(i, j, d) / (sqrt(n(i) n(j)) + 1). Purchases of one moment have no order: each
    follows the other.

    Args:
        purchases: what is counted.
        items: size of the catalogue N.
        weight: logits a unit of that.
        most: followers that are kept of each item.
    """
    sales = np.bincount(purchases.item, minlength=items).astype(np.float64)
    by_item, first = np.argsort(purchases.item, kind="stable"), np.concatenate([[0], np.cumsum(sales)]).astype(np.int64)
    lists = _Lists(items, most)
    # A log of 30 million purchases has hundreds of millions of pairs, of which each item's best are all that is kept.
    for start, stop in ranges(sales, AT_ONCE):
        item, follower, count = _following(purchases, by_item[first[start] : first[stop]], items)
        lists.add(item, follower, weight * count / (np.sqrt(sales[item] * sales[follower]) + 1.0))
    return lists.neighbours(RECENT, OLDER)


def companions(purchases: Purchases, items: int, weight: float, most: int = COMPANIONS) -> Neighbours:
    """What the same customers bought, before or after, gains from an item's purchase.

    A sparse linear method: whether customers bought item j is regressed on whether they bought the `EXPLAINING` items
    that are nearest to it by the cosine of their buyers (fsSLIM, Ning and Karypis 2011,
    https://doi.org/10.1109/ICDM.2011.134; squared penalty as in EASE, Steck 2019, https://arxiv.org/abs/1905.03375). A
    purchase of i adds `weight` times i's coefficient to j, where that is positive. Unlike a cosine, coefficients of items
    that are bought together share what they explain.

    Args:
        purchases: what is counted, the latest `LATEST` distinct items of a customer.
        items: size of the catalogue N.
        weight: logits a unit of a coefficient, which is a share of the customers.
        most: companions that are kept of each item.
    """
    if not items:
        return _Lists(items, most).neighbours()
    buyers = latest_items(purchases.user, purchases.item, purchases.users, LATEST)
    sets = indicator(buyers, items)
    nearest, bought = cosines(sets, EXPLAINING), sets.tocsc().astype(np.float64)  # float32 counts to 16 million alone

    def solve(start: int) -> tuple[np.ndarray, ...]:
        found = []
        for item in range(start, min(start + SOLVED_AT_ONCE, items)):
            near = nearest.indices[nearest.indptr[item] : nearest.indptr[item + 1]]
            counts = (bought[:, near].T @ bought[:, [*near, item]]).toarray()
            counts[np.diag_indices(len(near))] += RIDGE
            gain = weight * np.linalg.solve(counts[:, :-1], counts[:, -1])
            found.append((near[gain > 0], np.full((gain > 0).sum(), item), gain[gain > 0]))
        return tuple(np.concatenate(part) for part in zip(*found))

    with ThreadPoolExecutor(cores()) as pool:
        item, companion, gain = (
            np.concatenate(part) for part in zip(*pool.map(solve, range(0, items, SOLVED_AT_ONCE)))
        )
    lists = _Lists(items, most)
    lists.add(item, companion, gain)
    return lists.neighbours()


class _Lists:
    """The `most` strongest neighbours of each of `items` items."""

    def __init__(self, items: int, most: int):
        self._rows, self._scores = np.full((items, most), -1, np.int32), np.zeros((items, most), np.float32)
        self._width = 0

    def add(self, item: np.ndarray, other: np.ndarray, gain: np.ndarray) -> None:
        """List what `other` `[E]` gain from `item` `[E]`: all of these items' neighbours at once, each once."""
        items, most = self._rows.shape
        order = np.lexsort((other, -gain, item))
        counts = np.bincount(item, minlength=items)
        place = np.arange(len(item)) - np.repeat(np.cumsum(counts) - counts, counts)
        kept, place = order[place < most], place[place < most]
        self._rows[item[kept], place] = other[kept]
        self._scores[item[kept], place] = gain[kept]
        self._width = max(self._width, min(most, int(counts.max(initial=0))))

    def neighbours(self, recent: int | None = None, older: float = 1.0) -> Neighbours:
        """All that was listed."""
        rows, scores = (np.ascontiguousarray(array[:, : self._width]) for array in (self._rows, self._scores))
        return Neighbours(rows, scores, recent, older)


def _following(purchases: Purchases, places: np.ndarray, items: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often items follow those bought at `places` `[P]` of the log, weighted by distance.

    Returns:
        Item, follower and count, `[E]` each, the items and each one's followers rising.
    """
    user, item, time = purchases.user, purchases.item, purchases.time
    found = []
    for apart in (sign * distance for distance in range(1, APART + 1) for sign in (1, -1)):
        inside = (places + apart >= 0) & (places + apart < len(item))
        one, other = places[inside], places[inside] + apart
        follows = (user[one] == user[other]) & (item[one] != item[other])
        if apart < 0:  # what was bought before follows only where it was bought in the same moment
            follows &= time[one] == time[other]
        pair = item[one[follows]].astype(np.int64) * items + item[other[follows]]
        found.append(pair * APART + abs(apart) - 1)  # one number for all three, which is sorted the fastest
    keys, number = np.unique(np.concatenate(found), return_counts=True)
    pair, nearer = keys // APART, number * NEARER ** (keys % APART)
    first = np.flatnonzero(np.diff(pair, prepend=-1))
    return pair[first] // items, pair[first] % items, np.add.reduceat(nearer, first)
