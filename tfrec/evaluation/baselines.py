"""The rules a model has to beat, under its own protocol: ranked lists `[U, K]` for the same users.

* `popularity`: what sold best in the last week (temporal), or in everything known (leave-last-out).
* `repurchase`: what the user bought before, latest first.
* `item_cosine`: items bought by the same customers as the history's, cosine of co-occurrence.
* `tfidf`: items whose text and attributes resemble the history's.

Where ratings are given and low ones are no targets (`min_rating`), the rules neither count them nor read them, `repurchase`
apart. Where the split holds out new items alone, they leave out what the user has, whether or not seen items are filtered
(`repurchase` apart again, which would be nothing then).

Every list is filled up with popular items, so cold users get the popular ones. All work runs in chunks of
bounded memory; for very many users, sample them in the protocol (`max_users`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pipelines.processor import cores
from pipelines.time_bounds import DAY
from tfrec.co_occurrence import cosines, indicator, latest_items
from tfrec.csr import Csr
from tfrec.evaluation.protocol import Protocol
from tfrec.index.search import ScoreBoard
from tfrec.popularity import POPULAR_DAYS, best_sellers, sales_scores

if TYPE_CHECKING:
    import pandas as pd
    from scipy import sparse

    from pipelines.prepared import Prepared

CHUNK_USERS = 4_096
CHUNK_CANDIDATES = 1 << 20  # of all users of a chunk that are filled up at once
DENSE_USERS = 128  # columns of a dense score matrix `[N, users]`, at most
DENSE_SCORES = 1 << 28  # numbers of those matrices of all threads: of ten million items a thread gets a few columns
MAX_PURCHASES = 100  # of a user, latest ones; co-occurrence grows with their square
NEIGHBOURS = 400  # kept of each item
WORD = re.compile(r"\w\w+")

Ranked = np.ndarray


def run_baselines(prepared: Prepared, protocol: Protocol, k: int) -> Iterator[tuple[str, Ranked]]:
    """Yield the name and the ranked lists int32 `[U, k]` of every baseline the data allow.

    Args:
        prepared: the dataset the protocol was built from (for texts and attributes).
        protocol: who is evaluated on what.
        k: length of the lists.
    """
    # Where each customer's last *new* item is held out, no purchase of before can be right. A model learns that from its
    # training; rules that kept the history among the candidates would only be handicapped.
    new = replace(protocol, seen_filter=True) if prepared.holds_out_new_items else protocol
    yield "popularity", popularity(new, k)
    yield "repurchase", repurchase(protocol, k)
    yield "item_cosine", item_cosine(new, k)
    tokens = item_tokens(prepared.items)
    if any(tokens):
        yield "tfidf", tfidf(new, tokens, k)


def popularity(protocol: Protocol, k: int, *, days: int = POPULAR_DAYS) -> Ranked:
    """Rank by number of sales, the same list for everybody (seen items apart).

    Args:
        protocol: who is evaluated on what.
        k: length of the lists.
        days: count the sales of so many days before the window (temporal); leave-last-out counts all known.
    """
    return fill_up(np.empty((len(protocol.users), 0), np.int32), protocol, k, days=days)


def sales(protocol: Protocol, days: int = POPULAR_DAYS) -> np.ndarray:
    """How well each item sold, float32 `[N]` (`sales_scores`): in the days before the window (temporal), or in all known."""
    known = protocol.known
    recent = np.ones(len(known.item), bool)
    if protocol.temporal:
        recent = known.time >= protocol.query_time.min() - days * DAY
    return sales_scores(known.item, recent, protocol.n_items)


def repurchase(protocol: Protocol, k: int) -> Ranked:
    """Rank the user's own items that count (`liked`) by last purchase, then by number of purchases; then popular items.

    Where seen items are filtered nothing of this is left, and the lists are those of `popularity`.
    """
    history = protocol.liked
    rows, n_items = history.rows, protocol.n_items
    keys, inverse, counts = np.unique(rows * n_items + history.items, return_inverse=True, return_counts=True)
    last = np.zeros(len(keys), np.int64)
    np.maximum.at(last, inverse, np.arange(len(rows)))  # entries are in order of time
    assert history.times is not None
    order = np.lexsort((-last, -counts, -history.times[last], keys // n_items))
    own = Csr.from_rows(keys[order] // n_items, keys[order] % n_items, len(history))
    rank = np.arange(len(own.items)) - own.offsets[own.rows]
    first = own.where(rank < k)
    ranked = np.full((len(history), k), -1, np.int32)
    ranked[first.rows, rank[rank < k]] = first.items
    return fill_up(ranked, protocol, k)


def item_cosine(
    protocol: Protocol, k: int, *, neighbours: int = NEIGHBOURS, max_purchases: int = MAX_PURCHASES
) -> Ranked:
    """Rank by the sum, over the history's items, of the cosine between the sets of their buyers.

    Args:
        protocol: who is evaluated on what; all its known events make the co-occurrences.
        k: length of the lists.
        neighbours: most similar items kept of each item; bounds the memory.
        max_purchases: distinct items counted of each buyer, the latest ones; bounds the time.
    """
    known = protocol.known
    buyers = latest_items(known.user, known.item, int(known.user.max(initial=-1)) + 1, max_purchases)
    similarity = cosines(indicator(buyers, protocol.n_items), neighbours)
    to_others = similarity.T.tocsr()
    return _rank(protocol, k, lambda history: (to_others @ history.T).toarray())


def tfidf(protocol: Protocol, tokens: list[list[str]], k: int) -> Ranked:
    """Rank by cosine between an item's TF-IDF vector and the mean of the history's.

    Args:
        protocol: who is evaluated on what.
        tokens: the words and attribute values of each item (`item_tokens`).
        k: length of the lists.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer=list, sublinear_tf=True, dtype=np.float32)
    vectors = vectorizer.fit_transform(tokens).tocsr()  # [N, words], rows of length 1
    # The sum of the history's vectors ranks as their mean does.
    return _rank(protocol, k, lambda history: vectors @ (history @ vectors).T.toarray())


def _rank(protocol: Protocol, k: int, score: Callable[[sparse.csr_array], np.ndarray]) -> Ranked:
    """Rank all items by a score of the history; items without a positive score are left to `fill_up`.

    Args:
        protocol: who is evaluated on what.
        k: length of the lists.
        score: from the distinct items of some users' histories that count, 0/1 `[B, N]`, to scores `[N, B]`.
    """
    history, excluded = protocol.liked.distinct(), protocol.excluded()

    size = int(np.clip(DENSE_SCORES // (protocol.n_items * cores()), 1, DENSE_USERS))

    def chunk(start: int) -> Ranked:
        part = history.slice(start, start + size)
        board = ScoreBoard(protocol.n_items, len(part), k)
        board.fill(score(indicator(part, protocol.n_items)))
        if excluded is not None:
            board.exclude(excluded.slice(start, start + size))
        ids, scores = board.best()
        return np.where(scores > 0, ids, -1)

    return fill_up(_in_chunks(chunk, len(history), size), protocol, k)


def item_tokens(items: pd.DataFrame) -> list[list[str]]:
    """Each item's words of title and text in lower case, and a token `field=value` for each attribute."""
    tokens = [WORD.findall(f"{title} {text}".lower()) for title, text in zip(items["title"], items["text"])]
    for column in items.columns:
        if column.startswith("attr."):
            field = column.removeprefix("attr.")
            for words, values in zip(tokens, items[column]):
                words.extend(f"{field}={value}" for value in values)
    return tokens


def fill_up(ranked: Ranked, protocol: Protocol, k: int, *, days: int = POPULAR_DAYS) -> Ranked:
    """`filled_up` for a protocol's customers, with what is popular in it (`sales`)."""
    return filled_up(ranked, best_sellers(sales(protocol, days)), protocol.excluded(), k)


def filled_up(ranked: Ranked, popular: np.ndarray, excluded: Csr | None, k: int) -> Ranked:
    """Close the gaps (-1) of ranked lists and fill them up to k with popular items not yet in them.

    Args:
        ranked: int32 `[U, any]`, best first, -1 = no item.
        popular: the items by popularity `[N]`.
        excluded: items that each user must not get; None: any may be.
        k: length of the result.

    Returns:
        int32 `[U, k]`; -1 only where the catalogue has no further item.
    """

    def chunk(start: int) -> Ranked:
        stop = min(start + CHUNK_USERS, len(ranked))
        longest = 0 if excluded is None else int(excluded.lengths[start:stop].max(initial=0))
        size = max(1, CHUNK_CANDIDATES // (ranked.shape[1] + k + longest))  # one long list must not widen all others
        return np.concatenate([block(at, min(at + size, stop)) for at in range(start, stop, size)])

    def block(start: int, stop: int) -> Ranked:
        seen = None if excluded is None else excluded.slice(start, stop)
        return _filled(ranked[start:stop], popular, seen, k)

    return _in_chunks(chunk, len(ranked), CHUNK_USERS)


def _filled(own: Ranked, popular: np.ndarray, seen: Csr | None, k: int) -> Ranked:
    """`filled_up` of some users, given the items `[N]` by popularity and those that each user must not get."""
    enough = k if seen is None else k + int(seen.lengths.max(initial=0))
    filler = np.broadcast_to(popular[:enough], (len(own), len(popular[:enough])))
    row, place = np.nonzero(own >= 0)
    listed = Csr.from_rows(row, own[row, place], len(own))
    candidates = np.concatenate([own, filler], axis=1)
    out = np.concatenate([own < 0, listed.contains(filler)], axis=1)
    if seen is not None:
        out |= seen.contains(candidates)
    order = np.argsort(out, axis=1, kind="stable")[:, :k]
    filled = np.where(np.take_along_axis(out, order, 1), -1, np.take_along_axis(candidates, order, 1))
    return np.pad(filled, ((0, 0), (0, k - filled.shape[1])), constant_values=-1)


def _in_chunks(chunk: Callable[[int], Ranked], n_rows: int, size: int) -> Ranked:
    """Run `chunk(start)` for every chunk of rows on all cores; join the results in order."""
    with ThreadPoolExecutor(cores()) as pool:
        return np.concatenate(list(pool.map(chunk, range(0, n_rows, size))))
