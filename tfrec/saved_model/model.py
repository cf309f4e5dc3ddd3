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
from typing import Any

import tensorflow as tf

from tfrec.index.indexes import ExactIndex, ScannIndex
from tfrec.runs.run import Run
from tfrec.saved_model.attribute_terms import AttributeInput
from tfrec.saved_model.catalogue import Catalogue
from tfrec.saved_model.content import checked_photos, encode_content, read_content
from tfrec.saved_model.loading import DEFAULTS, default_k
from tfrec.saved_model.queries import DAYS, ROWS, CustomerQueries, Query, plain_query
from tfrec.saved_model.search import COUNT, NONE, STRING_ROWS, CatalogueSearch, finite
from tfrec.saved_model.tensors import lookup, per_row

Tensors = dict[str, tf.Tensor]
Signature = Callable[..., Tensors]

STRINGS = tf.TensorSpec([None], tf.string)
# Defaults of the inputs but `k` (`NONE` is that of lists); TF Serving fills them in where a request leaves them out.
NOW, MISSING, ALL = (tf.constant(DEFAULTS[name]) for name in ("days_ago", "text", "among"))


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
        self.search = CatalogueSearch(index, self.catalogue, max_k=max_k)
        self._vectors = index.exact.vectors
        self.queries = CustomerQueries(run, self._vectors)
        self._run, self._default_k = run, tf.constant([default_k(max_k)])
        self._attributes = AttributeInput(run.attributes) if run.attributes else None
        self._add_users()
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
            return self.search.answer(self._history_query(history, days_ago), k, excluded, allow, allow_items)

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
            query = self.queries(history, tf.gather(self._user_days, row), user, tf.gather(self._user_fields, row))
            query = query._replace(known=query.known & (user >= 0))
            return self.search.answer(query, k, self.catalogue.rows(exclude), allow, allow_items)

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
            return self.search.answer(query, k, excluded, allow, allow_items)

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
            return self.search.answer(plain_query(queries, known), k, self.catalogue.rows(exclude), allow, allow_items)

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
            pixels, given = self.towers.pixels(checked_photos(photo, required=True))
            query = plain_query(self.towers.photo_query(pixels), given)
            return self.search.answer(query, k, self.catalogue.rows(exclude), allow, allow_items)

        return search_photo

    def _rows_signature(self) -> Signature:
        """Rows in, rows out, no strings: what batch retrieval calls. `user` counts only where queries are
        looked up.
        """

        @tf.function(input_signature=[*self.queries.inputs, ROWS, COUNT], autograph=False)
        def recommend_rows(
            history: tf.Tensor,
            days_ago: tf.Tensor,
            user: tf.Tensor,
            user_fields: tf.Tensor,
            exclude: tf.Tensor,
            k: tf.Tensor,
        ) -> Tensors:
            query = self.queries(history, days_ago, user, user_fields)
            scores, rows = self.search.best(query, k, exclude)
            return {"item_row": rows, "score": scores}

        return recommend_rows

    def _rows_among_signature(self) -> Signature:
        """As `recommend_rows`, of the items `among` alone, by exact search: `[1, M]`, the same for all, such as what is in
        stock, or `[B, M]`, padded by -1 (a row of that alone allows all).
        """

        @tf.function(input_signature=[*self.queries.inputs, ROWS, COUNT, ROWS], autograph=False)
        def recommend_rows_among(
            history: tf.Tensor,
            days_ago: tf.Tensor,
            user: tf.Tensor,
            user_fields: tf.Tensor,
            exclude: tf.Tensor,
            k: tf.Tensor,
            among: tf.Tensor = ALL,
        ) -> Tensors:
            query = self.queries(history, days_ago, user, user_fields)
            scores, rows = self.search.best_among(query, k, exclude, among)
            return {"item_row": rows, "score": scores}

        return recommend_rows_among

    def _explain_signature(self) -> Signature:
        history, days_ago, _, fields = self.queries.inputs

        @tf.function(input_signature=[history, days_ago, fields, ROWS], autograph=False)
        def explain_rows(history: tf.Tensor, days_ago: tf.Tensor, user_fields: tf.Tensor, items: tf.Tensor) -> Tensors:
            return self.queries.explain(history, days_ago, user_fields, items)

        return explain_rows

    def _attend_signature(self) -> Signature:
        @tf.function(input_signature=_named(photo=STRINGS, text=STRINGS, attributes=STRING_ROWS), autograph=False)
        def attend_item(photo: tf.Tensor, text: tf.Tensor = MISSING, attributes: tf.Tensor = NONE) -> Tensors:
            batch = tf.shape(photo)[0]
            pixels, has_photo, tokens = read_content(self._run, photo, text, batch)
            encoded = per_row(self._attribute_ids(attributes), batch)
            return {"attention": self.towers.attention(pixels, has_photo, tokens, encoded)}

        return attend_item

    def _rate_signature(self) -> Signature:
        """The ratings that the ranking head predicts for `items` `[B, K]`, within the scale; 0 for the padding -1. `order`
        is what they were before: several of a customer's may lie beyond the scale's end, and are ranked by it.
        """

        @tf.function(input_signature=[*self.queries.inputs, ROWS], autograph=False)
        def rate_rows(
            history: tf.Tensor, days_ago: tf.Tensor, user: tf.Tensor, user_fields: tf.Tensor, items: tf.Tensor
        ) -> Tensors:
            query = self.queries(history, days_ago, user, user_fields)
            ratings = self.towers.rate(query.vectors, user, tf.maximum(items, 0), self._vectors)
            return {"rating": tf.where(items >= 0, self.towers.bounded_ratings(ratings), 0.0), "order": ratings}

        return rate_rows

    def _embed_query_signature(self) -> Signature:
        @tf.function(input_signature=_named(history=STRING_ROWS, days_ago=DAYS), autograph=False)
        def embed_query(history: tf.Tensor, days_ago: tf.Tensor = NOW) -> Tensors:
            return {"embedding": finite(self._history_query(history, days_ago).vectors)}

        return embed_query

    def _embed_item_signature(self) -> Signature:
        @tf.function(input_signature=_named(photo=STRINGS, text=STRINGS, attributes=STRING_ROWS), autograph=False)
        def embed_item(photo: tf.Tensor = MISSING, text: tf.Tensor = MISSING, attributes: tf.Tensor = NONE) -> Tensors:
            rows = tf.stack([tf.shape(part)[0] for part in (photo, text, attributes)])
            batch = tf.where(tf.reduce_any(rows == 0), 0, tf.reduce_max(rows))  # one row counts for all, or for none
            return {"embedding": finite(self._embed(photo, text, attributes, batch))}

        return embed_item

    # -- inputs ----------------------------------------------------------------------------------------------

    def _history_query(self, history: tf.Tensor, days_ago: tf.Tensor) -> Query:
        return self.queries.anonymous(self.catalogue.rows(history), days_ago)

    def _embed(self, photo: tf.Tensor, text: tf.Tensor, attributes: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
        return encode_content(self._run, photo, text, self._attribute_ids(attributes), batch)

    def _attribute_ids(self, terms: tf.Tensor) -> tf.Tensor:
        """Terms "field=value" string `[B, A]` as ids int32 `[B, F, V]`."""
        return self._attributes(terms) if self._attributes else tf.zeros([tf.shape(terms)[0], 0, 1], tf.int32)


def _named(**specs: tf.TensorSpec) -> list[tf.TensorSpec]:
    return [tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in specs.items()]


def _answers(**query: tf.TensorSpec) -> Callable[..., Any]:
    """A signature that answers with items: its own inputs and the common ones."""
    return tf.function(
        input_signature=_named(**query, k=COUNT, exclude=STRING_ROWS, allow=STRING_ROWS, allow_items=STRING_ROWS),
        autograph=False,
    )
