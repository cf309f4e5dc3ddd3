"""What a served model answers queries with: the best items of its catalogue, of those that a request allows."""

from __future__ import annotations

import tensorflow as tf

from tfrec.evaluation.scores import LOWEST
from tfrec.index.indexes import ExactIndex, ScannIndex
from tfrec.repeats import rescore
from tfrec.saved_model.catalogue import Catalogue, drop_excluded
from tfrec.saved_model.loading import DEFAULTS
from tfrec.saved_model.queries import DAYS, ROWS, Query
from tfrec.saved_model.tensors import per_row

COUNT = tf.TensorSpec(None, tf.int32)  # of any rank: a scalar alone, one a row when a server merges requests
STRING_ROWS = tf.TensorSpec([None, None], tf.string)
NONE = tf.constant(DEFAULTS["allow"])


class CatalogueSearch(tf.Module):
    """Search of a catalogue by queries.

    Args:
        index: over the items' vectors.
        catalogue: the items.
        max_k: the largest k that is answered.
    """

    def __init__(self, index: ExactIndex | ScannIndex, catalogue: Catalogue, *, max_k: int):
        super().__init__(name="catalogue_search")
        self.index, self.catalogue, self._max_k = index, catalogue, max_k
        # One graph of their own for the answers of all signatures: traced, and written, once.
        vectors, known = tf.TensorSpec([None, index.dim]), tf.TensorSpec([None], tf.bool)
        query = Query(vectors, known, ROWS, DAYS, tf.TensorSpec([], tf.int32))
        self.answer = tf.function(
            self._answer, input_signature=[query, COUNT, ROWS, *[STRING_ROWS] * 2], autograph=False
        )

    def _answer(
        self, query: Query, k: tf.Tensor, excluded: tf.Tensor, allow: tf.Tensor, allow_items: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        batch = tf.shape(query.vectors)[0]
        most = self._bounded(k)
        # Strings are looked up before they are spread: one row of megabytes would become gigabytes.
        excluded, listed = per_row(excluded, batch), per_row(self.catalogue.listed(allow_items), batch)
        terms = tuple(per_row(numbers, batch) for numbers in self.catalogue.filter.parse(allow))
        filtered = per_row(tf.reduce_any(allow != "", 1), batch) | tf.reduce_any(listed != -1, 1)
        scores, rows = tf.cond(
            tf.reduce_any(filtered),
            lambda: self._top_k_apart(query, most, excluded, filtered, (*terms, listed)),
            lambda: self._top_k(query, most, excluded),
        )
        wanted = tf.range(most)[None] < tf.reshape(k, [-1, 1])  # a row that asked for fewer than its batch
        return {
            "item_id": self.catalogue.ids(tf.where(wanted, rows, -1)),
            "score": tf.where(wanted, scores, LOWEST),
        }

    def best(self, query: Query, k: tf.Tensor, excluded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The best items of the whole catalogue.

        Args:
            query: of B customers.
            k: how many, int32: a scalar or one a row, of which the largest counts.
            excluded: item rows that must not be found `[B, E]`, -1 = padding.

        Returns:
            Scores `[B, k]`, best first, and item rows `[B, k]`; `LOWEST` and -1 where nothing is left.
        """
        return self._top_k(query, self._bounded(k), excluded)

    def best_among(
        self, query: Query, k: tf.Tensor, excluded: tf.Tensor, among: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """As `best`, of the item rows `among` alone, by exact search: `[1, M]`, the same for all, as of what is in stock, or
        `[B, M]`, padded by -1 (a row of that alone allows all).
        """
        most, batch = self._bounded(k), tf.shape(query.known)[0]
        excluded = per_row(excluded, batch)
        terms = tuple(per_row(numbers, batch) for numbers in self.catalogue.filter.parse(NONE))
        return tf.cond(
            (tf.size(among) > 0) & tf.reduce_all((among == among[:1]) & (among >= 0)),
            lambda: self._top_k_among(query, most, excluded, tf.unique(among[0])[0]),
            lambda: self._top_k_allowed(query, most, excluded, *terms, per_row(among, batch)),
        )

    def _bounded(self, k: tf.Tensor) -> tf.Tensor:
        """The largest k of a batch, once it is known to be one that can be held in memory."""
        message = [f"k must be 1 to {self._max_k}, not", k]
        check = tf.debugging.Assert(tf.reduce_all((k >= 1) & (k <= self._max_k)), message)
        with tf.control_dependencies([check]):  # what depends on k must not run beside the check
            return tf.maximum(tf.reduce_max(tf.reshape(k, [-1])), 1)  # 1: of an empty batch

    def _top_k(self, query: Query, k: tf.Tensor, excluded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The k best items: scores and rows `[B, k]`."""
        fetch = self._fetch(k + query.fallen, excluded)
        found = self.index.search(finite(query.vectors), fetch)
        scores, rows = rescore(found, query.own_rows, query.own_scores, fetch)
        known, popular = self._known(query)[:, None], self.catalogue.popular(fetch)
        scores, rows = tf.where(known, scores, popular[0]), tf.where(known, rows, popular[1])
        return drop_excluded(scores, rows, excluded, k)

    def _top_k_apart(
        self, query: Query, k: tf.Tensor, excluded: tf.Tensor, filtered: tf.Tensor, limits: tuple[tf.Tensor, ...]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The k best of what each row may be answered with: of all items for those that are not `filtered` `[B]`, by the
        index, so that a filter neither slows the rest of its batch down nor changes its answers."""
        free, limited = (tf.cast(tf.where(which)[:, 0], tf.int32) for which in (~filtered, filtered))
        found = (
            self._top_k(query.of(free), k, tf.gather(excluded, free)),
            self._top_k_allowed(
                query.of(limited), k, tf.gather(excluded, limited), *(tf.gather(limit, limited) for limit in limits)
            ),
        )
        place = tf.math.invert_permutation(tf.concat([free, limited], 0))
        scores, rows = (tf.gather(tf.concat(parts, 0), place) for parts in zip(*found, strict=True))
        return scores, rows

    def _top_k_allowed(
        self,
        query: Query,
        k: tf.Tensor,
        excluded: tf.Tensor,
        *limits: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The k best of the items that the `limits` allow (see `Catalogue.allowed`), by exact search."""
        exact, popularity = self.index.exact, self.catalogue.popularity

        def scores(part: slice) -> tf.Tensor:
            """Of the customers `part`, C of them, all items' scores `[C, N]`."""
            found = exact.scores(query.vectors[part])
            found = self._with_own_scores(found, query, part, query.own_rows[part], popularity)
            allowed = self.catalogue.allowed(*(numbers[part] for numbers in limits))
            return tf.where(allowed, found, LOWEST)

        found = exact.top_k(scores, tf.shape(query.known)[0], self._fetch(k, excluded))
        return drop_excluded(*found, excluded, k)

    def _top_k_among(
        self, query: Query, k: tf.Tensor, excluded: tf.Tensor, items: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The k best of the distinct `items` `[M]`, by exact search."""
        count = tf.size(items)
        columns = tf.tensor_scatter_nd_update(tf.fill([self.catalogue.size], -1), items[:, None], tf.range(count))
        vectors, popularity = tf.gather(self.index.exact.vectors, items), tf.gather(self.catalogue.popularity, items)

        def scores(part: slice) -> tf.Tensor:
            """Of the customers `part`, C of them, the items' scores `[C, M]`."""
            own_rows = query.own_rows[part]
            own = tf.where(own_rows >= 0, tf.gather(columns, tf.maximum(own_rows, 0)), -1)
            found = tf.matmul(query.vectors[part], vectors, transpose_b=True)
            return self._with_own_scores(found, query, part, own, popularity)

        fetch = tf.minimum(self._fetch(k, excluded), count)
        found, at = self.index.exact.top_k(scores, tf.shape(query.known)[0], fetch)
        return drop_excluded(found, tf.gather(items, at), excluded, k)

    def _with_own_scores(
        self, scores: tf.Tensor, query: Query, part: slice, own: tf.Tensor, popularity: tf.Tensor
    ) -> tf.Tensor:
        """The `scores` `[C, M]` of the C customers `part` with those that the query has of its own items, in the columns
        `own` `[C, W]` (-1 = none); the items' `popularity` `[M]` for customers of whom nothing is known."""
        slots = tf.cast(tf.where(own >= 0), tf.int32)
        places = tf.stack([slots[:, 0], tf.gather_nd(own, slots)], 1)
        own_scores = tf.gather_nd(query.own_scores[part], slots)
        scores = tf.tensor_scatter_nd_update(scores, places, own_scores)
        return tf.where(self._known(query)[part][:, None], scores, popularity)

    def _fetch(self, k: tf.Tensor, excluded: tf.Tensor) -> tf.Tensor:
        """How many to find so that k are left without the excluded ones."""
        most = tf.reduce_max(tf.reduce_sum(tf.cast(excluded >= 0, tf.int32), 1))
        return tf.minimum(k + tf.maximum(most, 0), self.catalogue.size)

    def _known(self, query: Query) -> tf.Tensor:
        """Who is answered by the query, bool `[B]`; the others get what is popular."""
        return query.known & tf.reduce_all(tf.math.is_finite(query.vectors), 1)


def finite(queries: tf.Tensor) -> tf.Tensor:
    """Queries with 0 in place of NaN and infinity: ScaNN answers NaN with item 0, k times."""
    return tf.where(tf.math.is_finite(queries), queries, 0.0)
