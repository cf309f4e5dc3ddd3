"""The served model: towers, index and catalogue as one `tf.Module` with the signatures that clients call.

Every signature that answers with items takes, besides its query:

* `k` int32, a scalar or one a row: how many items, 1 to `max_k`.
* `exclude` string `[B, E]`: item ids that must not be in the answer, "" = padding.
* `allow` string `[B, A]`: terms "field=value"; an item must match every field that is named, by any of its
  values.
* `allow_items` string `[B, M]`: if any is given, the answer holds these items only.

and returns `item_id` string `[B, k]` and `score` float32 `[B, k]`, best first. Where a filter leaves fewer
than k items, the rest of a row is "" with the lowest float as its score. One row of `exclude`, `allow` or
`allow_items` counts for all rows. All but the query have defaults, which TF Serving fills in. A query without
anything known in it (an empty history, unknown ids, a vector that is not finite) is answered with popular
items, scored by their recent sales.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfrec.catalogue import Catalogue, drop_excluded
from tfrec.evaluation.scores import LOWEST
from tfrec.index.indexes import ExactIndex, ScannIndex
from tfrec.neighbours import Neighbours
from tfrec.repeats import rescore, totals, whole_scores
from tfrec.runs.run import Run
from tfrec.serving.attribute_terms import AttributeInput, lookup
from tfrec.serving.loading import default_k

Tensors = dict[str, tf.Tensor]
Signature = Callable[..., Tensors]

STRINGS = tf.TensorSpec([None], tf.string)
STRING_ROWS = tf.TensorSpec([None, None], tf.string)
ROWS = tf.TensorSpec([None, None], tf.int32)
DAYS = tf.TensorSpec([None, None], tf.float32)
MOST_EXPLAINED = 1 << 18  # numbers of an explanation: customers times purchases times items
MOST_HISTORIES = 4096  # that are read for it: each customer's without each of the purchases
COUNT = tf.TensorSpec(None, tf.int32)  # of any rank: a scalar alone, one a row when a server merges requests

# Defaults of the inputs but `k`; TF Serving fills them in where a request leaves them out.
NONE = tf.constant([[""]])
NOW = tf.constant([[0.0]])
MISSING = tf.constant([""])


class Query(NamedTuple):
    """What an answer is looked for with.

    Attributes:
        vectors: query vectors `[B, D]`.
        known: whether anything is known of the customer, bool `[B]`.
        own_rows: the distinct items that are scored apart int32 `[B, W]` (-1 = none); W may be 0.
        own_scores: their scores `[B, W]`.
        fallen: how many of them at most score less than by their vectors alone: so many more must be found.
    """

    vectors: tf.Tensor
    known: tf.Tensor
    own_rows: tf.Tensor
    own_scores: tf.Tensor
    fallen: tf.Tensor


def plain_query(vectors: tf.Tensor, known: tf.Tensor) -> Query:
    """A query none of whose items are scored apart."""
    nothing = tf.zeros([tf.shape(vectors)[0], 0])
    return Query(vectors, known, tf.cast(nothing, tf.int32), nothing, tf.constant(0))


class ServingModel(tf.Module):
    """A run made ready to be served.

    Args:
        run: the trained run.
        index: over the run's item vectors.
        max_k: the largest k that is answered.
    """

    def __init__(self, run: Run, index: ExactIndex | ScannIndex, *, max_k: int = 500):
        super().__init__(name="serving_model")
        self.towers, self.index = run.towers, index
        self.catalogue = Catalogue(run.item_ids, run.popularity, run.item_attributes)
        self.item_ids = self.catalogue.item_ids  # by row; batch retrieval maps its own rows by them
        self._run, self._max_k = run, max_k
        self._readable = len(run.item_ids) if run.readable_items is None else run.readable_items
        self._attributes = AttributeInput(run.attributes) if run.attributes else None
        self._neighbours = [NeighbourGains(table) for table in run.neighbours]
        self._add_users()
        # One graph of their own for the answers of all signatures: traced, and written, once.
        vectors, known = tf.TensorSpec([None, run.item_vectors.shape[1]]), tf.TensorSpec([None], tf.bool)
        query = Query(vectors, known, ROWS, DAYS, tf.TensorSpec([], tf.int32))
        self._answer = tf.function(
            self._answer_query, input_signature=[query, COUNT, ROWS, *[STRING_ROWS] * 2], autograph=False
        )
        self.release = tf.function(self._release, input_signature=[], autograph=False)

    def _release(self) -> tf.Tensor:
        """Free what TensorFlow would keep when the model is gone; called by the process that loaded it."""
        self.index.release()
        return tf.constant(True)

    def _add_users(self) -> None:
        users = self._run.users
        if users is None:
            return
        self._user_of = lookup(users.ids, "user_rows")
        self.user_ids = tf.Variable(users.ids, dtype=tf.string, trainable=False, name="user_ids")
        self._user_history = tf.Variable(users.history, dtype=tf.int32, trainable=False, name="user_history")
        self._user_days = tf.Variable(users.days_ago, dtype=tf.float32, trainable=False, name="user_days")
        self._user_fields = tf.Variable(users.fields, dtype=tf.int32, trainable=False, name="user_fields")

    # -- signatures ------------------------------------------------------------------------------------------

    @property
    def _default_k(self) -> tf.Tensor:
        return tf.constant([default_k(self._max_k)])

    def signatures(self) -> dict[str, Signature]:
        """The signatures that this run's towers can answer, by name."""
        run = self._run
        named: dict[str, Signature] = {
            "serving_default": self._history_signature(),
            "recommend_rows": self._rows_signature(),
            "recommend_rows_among": self._rows_among_signature(),
            "similar": self._item_signature(),
            "embed_query": self._embed_query_signature(),
        }
        named["recommend"] = named["serving_default"]
        if run.query_kind == "history":
            named["explain_rows"] = self._explain_signature()
        if run.attends:
            named["attend_item"] = self._attend_signature()
        if run.rates:
            named["rate_rows"] = self._rate_signature()
        if run.users is not None:
            named["recommend_user"] = self._user_signature()
        if "text" in run.modalities:
            named["search_text"] = self._text_signature()
        if "photo" in run.modalities:
            named["search_photo"] = self._photo_signature()
        if run.modalities:
            named["embed_item"] = self._embed_item_signature()
        return named

    def _history_signature(self) -> Signature:
        @_answers(history=STRING_ROWS, days_ago=DAYS)
        def recommend(
            history: tf.Tensor,
            days_ago: tf.Tensor = NOW,
            k: tf.Tensor = self._default_k,
            exclude: tf.Tensor = NONE,
            allow: tf.Tensor = NONE,
            allow_items: tf.Tensor = NONE,
        ) -> Tensors:
            excluded = self.catalogue.rows(exclude)
            return self._answer(self._history_query(history, days_ago), k, excluded, allow, allow_items)

        return recommend

    def _user_signature(self) -> Signature:
        @_answers(user_id=STRINGS)
        def recommend_user(
            user_id: tf.Tensor,
            k: tf.Tensor = self._default_k,
            exclude: tf.Tensor = NONE,
            allow: tf.Tensor = NONE,
            allow_items: tf.Tensor = NONE,
        ) -> Tensors:
            user = self._user_of.lookup(user_id)
            row = tf.maximum(user, 0)
            history = tf.where(user[:, None] >= 0, tf.gather(self._user_history, row), -1)
            query = self._query(history, tf.gather(self._user_days, row), user, tf.gather(self._user_fields, row))
            query = query._replace(known=query.known & (user >= 0))
            return self._answer(query, k, self.catalogue.rows(exclude), allow, allow_items)

        return recommend_user

    def _item_signature(self) -> Signature:
        @_answers(item_id=STRINGS)
        def similar(
            item_id: tf.Tensor,
            k: tf.Tensor = self._default_k,
            exclude: tf.Tensor = NONE,
            allow: tf.Tensor = NONE,
            allow_items: tf.Tensor = NONE,
        ) -> Tensors:
            rows = self.catalogue.rows(item_id)
            vectors = tf.gather(self._vectors, tf.maximum(rows, 0))
            excluded = tf.concat([per_row(self.catalogue.rows(exclude), tf.shape(rows)[0]), rows[:, None]], 1)
            query = plain_query(self.towers.similar_query(vectors), rows >= 0)
            return self._answer(query, k, excluded, allow, allow_items)

        return similar

    def _text_signature(self) -> Signature:
        @_answers(text=STRINGS)
        def search_text(
            text: tf.Tensor,
            k: tf.Tensor = self._default_k,
            exclude: tf.Tensor = NONE,
            allow: tf.Tensor = NONE,
            allow_items: tf.Tensor = NONE,
        ) -> Tensors:
            known = tf.strings.length(tf.strings.strip(text)) > 0
            queries = self.towers.text_query(self.towers.tokens(text))
            return self._answer(plain_query(queries, known), k, self.catalogue.rows(exclude), allow, allow_items)

        return search_text

    def _photo_signature(self) -> Signature:
        @_answers(photo=STRINGS)
        def search_photo(
            photo: tf.Tensor,
            k: tf.Tensor = self._default_k,
            exclude: tf.Tensor = NONE,
            allow: tf.Tensor = NONE,
            allow_items: tf.Tensor = NONE,
        ) -> Tensors:
            pixels, readable = self.towers.pixels(photo)
            _check_photos(readable)
            query = plain_query(self.towers.photo_query(pixels), readable)
            return self._answer(query, k, self.catalogue.rows(exclude), allow, allow_items)

        return search_photo

    def _rows_signature(self) -> Signature:
        """Rows in, rows out, no strings: what batch retrieval calls. `user` counts only where queries are
        looked up.
        """

        @tf.function(input_signature=[*self._customer_rows, ROWS, COUNT], autograph=False)
        def recommend_rows(
            history: tf.Tensor,
            days_ago: tf.Tensor,
            user: tf.Tensor,
            user_fields: tf.Tensor,
            exclude: tf.Tensor,
            k: tf.Tensor,
        ) -> Tensors:
            query = self._rows_query(history, days_ago, user, user_fields)
            scores, rows = self._top_k(query, self._bounded(k), exclude)
            return {"item_row": rows, "score": scores}

        return recommend_rows

    def _rows_among_signature(self) -> Signature:
        """As `recommend_rows`, of the items `among` alone, by exact search: `[1, M]`, the same for all, such as what is in
        stock, or `[B, M]`, padded by -1 (a row of that alone allows all).
        """

        @tf.function(input_signature=[*self._customer_rows, ROWS, COUNT, ROWS], autograph=False)
        def recommend_rows_among(
            history: tf.Tensor,
            days_ago: tf.Tensor,
            user: tf.Tensor,
            user_fields: tf.Tensor,
            exclude: tf.Tensor,
            k: tf.Tensor,
            among: tf.Tensor,
        ) -> Tensors:
            query = self._rows_query(history, days_ago, user, user_fields)
            most, batch = self._bounded(k), tf.shape(history)[0]
            excluded = per_row(exclude, batch)
            terms = tuple(per_row(numbers, batch) for numbers in self.catalogue.filter.parse(NONE))
            scores, rows = tf.cond(
                (tf.size(among) > 0) & tf.reduce_all((among == among[:1]) & (among >= 0)),
                lambda: self._top_k_among(query, most, excluded, tf.unique(among[0])[0]),
                lambda: self._top_k_allowed(query, most, excluded, terms, per_row(among, batch)),
            )
            return {"item_row": rows, "score": scores}

        return recommend_rows_among

    def _explain_signature(self) -> Signature:
        """The scores of `items` `[B, K]`, and what they would be without each purchase: `without` `[B, K, L]`.

        Also the query vectors `[B, D]`, and their products with the items' vectors `[B, K]`: the score without what
        earlier purchases of the item itself add. Purchases that are not read change nothing by being left out.
        """
        fields = tf.TensorSpec([None, self._run.user_fields], tf.int32)

        @tf.function(input_signature=[ROWS, DAYS, fields, ROWS], autograph=False)
        def explain_rows(history: tf.Tensor, days_ago: tf.Tensor, user_fields: tf.Tensor, items: tf.Tensor) -> Tensors:
            # One more than is read: where a later purchase is left out, it takes that one's place.
            rows, days, places = self._compact(history, days_ago, self._run.history_length + 1)
            batch, length = tf.unstack(tf.shape(rows))
            self._check_explained(batch, length, tf.shape(history)[1], tf.shape(items)[1])
            vectors = tf.gather(self._vectors, tf.maximum(items, 0))  # (B, K, D)
            left_out = tf.where(tf.eye(length, dtype=tf.bool)[None], -1, rows[:, None])  # (B, L, L)
            histories = tf.reshape(tf.concat([rows[:, None], left_out], 1), [-1, length])  # (B (1 + L), L)
            each = {"repeats": 1 + length, "axis": 0}
            rows, days, _ = self._compact(histories, tf.repeat(days, **each))
            queries = self.towers.query(rows, days, tf.repeat(user_fields, **each), self._vectors)
            queries = tf.reshape(queries, [batch, 1 + length, tf.shape(queries)[1]])
            gains = self._gains_of(rows, days, tf.repeat(items, **each))
            product = tf.einsum("bld,bkd->blk", queries, vectors)
            score = product + tf.reshape(gains, [batch, 1 + length, -1])
            without = tf.repeat(score[:, :1], 1 + tf.shape(history)[1], 1)  # column 0: the padding of `_compact`
            customer = tf.repeat(tf.range(batch)[:, None], length, 1)
            without = tf.tensor_scatter_nd_update(without, tf.stack([customer, places], -1), score[:, 1:])
            return {
                "score": score[:, 0],
                "without": tf.transpose(without[:, 1:], [0, 2, 1]),
                "query": queries[:, 0],
                "product": product[:, 0],
            }

        return explain_rows

    def _check_explained(self, batch: tf.Tensor, read: tf.Tensor, given: tf.Tensor, items: tf.Tensor) -> None:
        numbers, histories = tf.cast(batch, tf.int64), tf.cast(batch, tf.int64) * tf.cast(1 + read, tf.int64)
        for size in (1 + given, items):
            numbers *= tf.cast(size, tf.int64)
        message = ["explain_rows takes fewer customers, purchases or items at once than", batch, given, items]
        tf.debugging.Assert((numbers <= MOST_EXPLAINED) & (histories <= MOST_HISTORIES), message)

    def _gains_of(self, history: tf.Tensor, days_ago: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        """What the purchases `[B, L]` add to the scores of `items` `[B, K]`: `[B, K]`."""
        rows, gains = self._gains(history, days_ago)
        same = (items[:, :, None] == rows[:, None]) & (rows >= 0)[:, None]
        return tf.reduce_sum(tf.where(same, gains[:, None], 0.0), 2)

    def _gains(self, history: tf.Tensor, days_ago: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """What items gain from the purchases `[B, L]`: rows int32 `[B, W]` (-1 = none) and gains `[B, W]`, of which those of
        one item add up."""
        found = [neighbours(history) for neighbours in self._neighbours]
        if self._run.repeats:
            found.append((history, self.towers.repeat_scores(days_ago)))
        rows, gains = zip(*found) if found else ([history[:, :0]], [days_ago[:, :0]])
        return tf.concat(rows, 1), tf.concat(gains, 1)

    def _attend_signature(self) -> Signature:
        @tf.function(input_signature=_named(photo=STRINGS, text=STRINGS, attributes=STRING_ROWS), autograph=False)
        def attend_item(photo: tf.Tensor, text: tf.Tensor = MISSING, attributes: tf.Tensor = NONE) -> Tensors:
            batch = tf.shape(photo)[0]
            pixels, readable, tokens = read_content(self._run, photo, text, batch)
            encoded = per_row(self._attribute_ids(attributes), batch)
            return {"attention": self.towers.attention(pixels, readable, tokens, encoded)}

        return attend_item

    def _rate_signature(self) -> Signature:
        """The ratings that the ranking head predicts for `items` `[B, K]`; 0 for the padding -1."""

        @tf.function(input_signature=[*self._customer_rows, ROWS], autograph=False)
        def rate_rows(
            history: tf.Tensor, days_ago: tf.Tensor, user: tf.Tensor, user_fields: tf.Tensor, items: tf.Tensor
        ) -> Tensors:
            query = self._rows_query(history, days_ago, user, user_fields)
            ratings = self.towers.rate(query.vectors, user, tf.maximum(items, 0), self._vectors)
            return {"rating": tf.where(items >= 0, ratings, 0.0)}

        return rate_rows

    def _embed_query_signature(self) -> Signature:
        @tf.function(input_signature=_named(history=STRING_ROWS, days_ago=DAYS), autograph=False)
        def embed_query(history: tf.Tensor, days_ago: tf.Tensor = NOW) -> Tensors:
            return {"embedding": self._finite(self._history_query(history, days_ago).vectors)}

        return embed_query

    def _embed_item_signature(self) -> Signature:
        @tf.function(input_signature=_named(photo=STRINGS, text=STRINGS, attributes=STRING_ROWS), autograph=False)
        def embed_item(photo: tf.Tensor = MISSING, text: tf.Tensor = MISSING, attributes: tf.Tensor = NONE) -> Tensors:
            batch = tf.reduce_max([tf.shape(photo)[0], tf.shape(text)[0], tf.shape(attributes)[0]])
            return {"embedding": self._finite(self._embed(photo, text, attributes, batch))}

        return embed_item

    # -- queries ---------------------------------------------------------------------------------------------

    def _history_query(self, history: tf.Tensor, days_ago: tf.Tensor) -> Query:
        days_ago = tf.broadcast_to(days_ago, tf.shape(history))
        rows, days_ago, _ = self._compact(self.catalogue.rows(history), days_ago)
        batch = tf.shape(rows)[0]
        return self._query(rows, days_ago, tf.fill([batch], -1), tf.zeros([batch, self._run.user_fields], tf.int32))

    @property
    def _customer_rows(self) -> list[tf.TensorSpec]:
        """What the signatures on rows read of customers: `_rows_query`'s arguments."""
        return [ROWS, DAYS, tf.TensorSpec([None], tf.int32), tf.TensorSpec([None, self._run.user_fields], tf.int32)]

    def _rows_query(self, history: tf.Tensor, days_ago: tf.Tensor, user: tf.Tensor, user_fields: tf.Tensor) -> Query:
        return self._query(*self._compact(history, days_ago)[:2], user, user_fields)

    def _compact(
        self, rows: tf.Tensor, days_ago: tf.Tensor, most: int | None = None
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Move padding and unknown items to the left, in place of the oldest, and keep the last `most` (None: L).

        Returns:
            Rows and days `[B, 1..most]`, and the column that each came from, counted from 1 (0 = padding).
        """
        rows = tf.where(rows < self._readable, rows, -1)
        rows = tf.pad(rows, [[0, 0], [1, 0]], constant_values=-1)
        days_ago = tf.pad(days_ago, [[0, 0], [1, 0]])
        order = tf.argsort(tf.cast(rows >= 0, tf.int32), axis=1, stable=True)[:, -(most or self._run.history_length) :]
        return tf.gather(rows, order, batch_dims=1), tf.gather(days_ago, order, batch_dims=1), order

    def _query(self, history: tf.Tensor, days_ago: tf.Tensor, user: tf.Tensor, user_fields: tf.Tensor) -> Query:
        if self._run.query_kind == "user":
            return plain_query(self.towers.user_query(user, user_fields), user >= 0)
        vectors = self.towers.query(history, days_ago, user_fields, self._vectors)
        known = tf.reduce_any(history >= 0, 1)
        if not (self._run.repeats or self._neighbours):
            return plain_query(vectors, known)
        rows, gains = totals(*self._gains(history, days_ago))
        own_scores = whole_scores(vectors, self._vectors, rows, gains)
        fallen = tf.shape(history)[1] if self._run.repeats else tf.constant(0)  # neighbours only gain
        return Query(vectors, known, rows, own_scores, fallen)

    def _embed(self, photo: tf.Tensor, text: tf.Tensor, attributes: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
        vectors, readable = encode_content(self._run, photo, text, self._attribute_ids(attributes), batch)
        if "photo" in self._run.modalities:
            _check_photos(readable | per_row(photo == "", batch))
        return vectors

    def _attribute_ids(self, terms: tf.Tensor) -> tf.Tensor:
        """Terms "field=value" string `[B, A]` as ids int32 `[B, F, V]`."""
        return self._attributes(terms) if self._attributes else tf.zeros([tf.shape(terms)[0], 0, 1], tf.int32)

    # -- answers ---------------------------------------------------------------------------------------------

    @property
    def _vectors(self) -> tf.Variable:
        return self.index.exact.vectors

    def _answer_query(
        self, query: Query, k: tf.Tensor, excluded: tf.Tensor, allow: tf.Tensor, allow_items: tf.Tensor
    ) -> Tensors:
        batch = tf.shape(query.vectors)[0]
        most = self._bounded(k)
        # Strings are looked up before they are spread: one row of megabytes would become gigabytes.
        excluded, listed = per_row(excluded, batch), per_row(self.catalogue.listed(allow_items), batch)
        terms = tuple(per_row(numbers, batch) for numbers in self.catalogue.filter.parse(allow))
        filtered = tf.reduce_any(allow != "") | tf.reduce_any(listed != -1)
        scores, rows = tf.cond(
            filtered,
            lambda: self._top_k_allowed(query, most, excluded, terms, listed),
            lambda: self._top_k(query, most, excluded),
        )
        wanted = tf.range(most)[None] < tf.reshape(k, [-1, 1])  # a row that asked for fewer than its batch
        return {
            "item_id": self.catalogue.ids(tf.where(wanted, rows, -1)),
            "score": tf.where(wanted, scores, LOWEST),
        }

    def _bounded(self, k: tf.Tensor) -> tf.Tensor:
        """The largest k of a batch, once it is known to be one that can be held in memory."""
        message = [f"k must be 1 to {self._max_k}, not", k]
        check = tf.debugging.Assert(tf.reduce_all((k >= 1) & (k <= self._max_k)), message)
        with tf.control_dependencies([check]):  # what depends on k must not run beside the check
            return tf.maximum(tf.reduce_max(tf.reshape(k, [-1])), 1)  # 1: of an empty batch

    def _top_k(self, query: Query, k: tf.Tensor, excluded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The k best items: scores and rows `[B, k]`."""
        fetch = self._fetch(k + query.fallen, excluded)
        found = self.index.search(self._finite(query.vectors), fetch)
        scores, rows = rescore(found, query.own_rows, query.own_scores, fetch)
        known, popular = self._known(query)[:, None], self.catalogue.popular(fetch)
        scores, rows = tf.where(known, scores, popular[0]), tf.where(known, rows, popular[1])
        return drop_excluded(scores, rows, excluded, k)

    def _top_k_allowed(
        self,
        query: Query,
        k: tf.Tensor,
        excluded: tf.Tensor,
        terms: tuple[tf.Tensor, tf.Tensor],
        listed: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The k best of the items that `terms` and `listed` allow (see `Catalogue.allowed`), by exact search."""
        exact, popularity = self.index.exact, self.catalogue.popularity

        def scores(part: tf.Tensor) -> tf.Tensor:
            """Of the customers `part` `[C]`, all items' scores `[C, N]`."""
            found = exact.scores(tf.gather(query.vectors, part))
            found = self._with_own_scores(found, query, part, tf.gather(query.own_rows, part), popularity)
            limits = (tf.gather(numbers, part) for numbers in (*terms, listed))
            return tf.where(self.catalogue.allowed(*limits), found, LOWEST)

        found = exact.top_k(scores, tf.shape(query.known)[0], self._fetch(k, excluded))
        return drop_excluded(*found, excluded, k)

    def _top_k_among(
        self, query: Query, k: tf.Tensor, excluded: tf.Tensor, items: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The k best of the distinct `items` `[M]`, by exact search."""
        count = tf.size(items)
        columns = tf.tensor_scatter_nd_update(tf.fill([self.catalogue.size], -1), items[:, None], tf.range(count))
        vectors, popularity = tf.gather(self._vectors, items), tf.gather(self.catalogue.popularity, items)

        def scores(part: tf.Tensor) -> tf.Tensor:
            """Of the customers `part` `[C]`, the items' scores `[C, M]`."""
            own_rows = tf.gather(query.own_rows, part)
            own = tf.where(own_rows >= 0, tf.gather(columns, tf.maximum(own_rows, 0)), -1)
            found = tf.matmul(tf.gather(query.vectors, part), vectors, transpose_b=True)
            return self._with_own_scores(found, query, part, own, popularity)

        fetch = tf.minimum(self._fetch(k, excluded), count)
        found, at = self.index.exact.top_k(scores, tf.shape(query.known)[0], fetch)
        return drop_excluded(found, tf.gather(items, at), excluded, k)

    def _with_own_scores(
        self, scores: tf.Tensor, query: Query, part: tf.Tensor, own: tf.Tensor, popularity: tf.Tensor
    ) -> tf.Tensor:
        """The `scores` `[C, M]` of the customers `part` `[C]` with those that the query has of its own items, in the columns
        `own` `[C, W]` (-1 = none); the items' `popularity` `[M]` for customers of whom nothing is known."""
        slots = tf.cast(tf.where(own >= 0), tf.int32)
        places = tf.stack([slots[:, 0], tf.gather_nd(own, slots)], 1)
        own_scores = tf.gather_nd(tf.gather(query.own_scores, part), slots)
        scores = tf.tensor_scatter_nd_update(scores, places, own_scores)
        return tf.where(tf.gather(self._known(query), part)[:, None], scores, popularity)

    def _fetch(self, k: tf.Tensor, excluded: tf.Tensor) -> tf.Tensor:
        """How many to find so that k are left without the excluded ones."""
        most = tf.reduce_max(tf.reduce_sum(tf.cast(excluded >= 0, tf.int32), 1))
        return tf.minimum(k + tf.maximum(most, 0), self.catalogue.size)

    def _known(self, query: Query) -> tf.Tensor:
        """Who is answered by the query, bool `[B]`; the others get what is popular."""
        return query.known & tf.reduce_all(tf.math.is_finite(query.vectors), 1)

    def _finite(self, queries: tf.Tensor) -> tf.Tensor:
        return tf.where(tf.math.is_finite(queries), queries, 0.0)  # ScaNN answers NaN with item 0, k times


class NeighbourGains(tf.Module):
    """A table of neighbours inside a served model.

    Args:
        table: the neighbours.
    """

    def __init__(self, table: Neighbours):
        super().__init__(name="neighbours")
        self._rows = tf.Variable(table.rows, trainable=False, name="rows")
        self._scores = tf.Variable(table.scores, trainable=False, name="scores")
        self._recent, self._older = table.recent, table.older

    def __call__(self, history: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The neighbours of purchases int32 `[B, L]` (-1 = none, right-aligned): rows `[B, W]`, -1 = none, and gains."""
        if self._recent is not None:
            history = history[:, -self._recent :]
        batch, length = tf.unstack(tf.shape(history))
        known, item = (history >= 0)[..., None], tf.maximum(history, 0)
        counts = self._older ** tf.cast(tf.range(length)[::-1], tf.float32)
        rows = tf.where(known, tf.gather(self._rows, item), -1)
        gains = tf.gather(self._scores, item) * counts[:, None]
        return tf.reshape(rows, [batch, -1]), tf.reshape(gains, [batch, -1])


def encode_content(
    run: Run, photo: tf.Tensor, text: tf.Tensor, attributes: tf.Tensor, batch: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Candidate vectors of `batch` items from raw content, of which one row may stand for all of them.

    Args:
        run: whose towers encode; what its modalities lack is passed over.
        photo: image file bytes `[B]`, "" = none.
        text: string `[B]`, "" = none.
        attributes: int32 `[B, F, V]`.
        batch: B, a scalar.

    Returns:
        Vectors `[B, D]`, and which photos could be read, bool `[B]`.
    """
    pixels, readable, tokens = read_content(run, photo, text, batch)
    return run.towers.item(pixels, readable, tokens, per_row(attributes, batch)), readable


def read_content(
    run: Run, photo: tf.Tensor, text: tf.Tensor, batch: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Photos and texts of `batch` items as a run's towers read them: pixels, which photos could be read, and token ids. One
    photo or text that stands for all of them is read once.
    """
    pixels, readable = tf.zeros([batch, 1, 1, 3], tf.uint8), tf.zeros([batch], tf.bool)
    tokens = tf.zeros([batch, 1], tf.int32)
    if "photo" in run.modalities:
        pixels, readable = (per_row(part, batch) for part in run.towers.pixels(photo))
    if "text" in run.modalities:
        tokens = per_row(run.towers.tokens(text), batch)
    return pixels, readable, tokens


def per_row(values: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
    """Spread one row over the batch; `[B, ...]` stays."""
    return tf.broadcast_to(values, tf.concat([[batch], tf.shape(values)[1:]], 0))


def _named(**specs: tf.TensorSpec) -> list[tf.TensorSpec]:
    return [tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in specs.items()]


def _answers(**query: tf.TensorSpec) -> Callable[..., Any]:
    """A signature that answers with items: its own inputs and the common ones."""
    return tf.function(
        input_signature=_named(**query, k=COUNT, exclude=STRING_ROWS, allow=STRING_ROWS, allow_items=STRING_ROWS),
        autograph=False,
    )


def _check_photos(readable: tf.Tensor) -> None:
    wrong = tf.where(~readable)[:, 0]
    message = "photo must be a readable JPEG or PNG file; rows that are not:"
    tf.debugging.Assert(tf.equal(tf.size(wrong), 0), [message, wrong[:5]])
