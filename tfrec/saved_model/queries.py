"""Queries: what of a customer an answer is looked for with."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfrec.neighbours import Neighbours
from tfrec.repeats import totals, whole_scores
from tfrec.runs.run import Run

ROWS = tf.TensorSpec([None, None], tf.int32)
DAYS = tf.TensorSpec([None, None], tf.float32)
MOST_EXPLAINED = 1 << 18  # numbers of an explanation: customers times purchases times items
MOST_HISTORIES = 4096  # that are read for it: each customer's without each of the purchases


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

    def of(self, rows: tf.Tensor) -> Query:
        """Those of the customers `rows` int32 `[C]`."""
        vectors, known, own_rows, own_scores = (tf.gather(part, rows) for part in self[:4])
        return Query(vectors, known, own_rows, own_scores, self.fallen)


def plain_query(vectors: tf.Tensor, known: tf.Tensor) -> Query:
    """A query none of whose items are scored apart."""
    nothing = tf.zeros([tf.shape(vectors)[0], 0])
    return Query(vectors, known, tf.cast(nothing, tf.int32), nothing, tf.constant(0))


class CustomerQueries(tf.Module):
    """Queries of customers, who are known by their purchases, their fields or their place in the training data.

    Args:
        run: the trained run.
        vectors: its item vectors `[N, D]`.
    """

    def __init__(self, run: Run, vectors: tf.Variable):
        super().__init__(name="customer_queries")
        self._run, self._towers, self._vectors = run, run.towers, vectors
        self._readable = len(run.item_ids) if run.readable_items is None else run.readable_items
        self._neighbours = [NeighbourGains(table) for table in run.neighbours]

    @property
    def inputs(self) -> tuple[tf.TensorSpec, ...]:
        """The specs of a call's arguments."""
        return ROWS, DAYS, tf.TensorSpec([None], tf.int32), tf.TensorSpec([None, self._run.user_fields], tf.int32)

    def __call__(self, history: tf.Tensor, days_ago: tf.Tensor, user: tf.Tensor, user_fields: tf.Tensor) -> Query:
        """Queries of B customers.

        Args:
            history: item rows `[B, L]`, the most recent last; -1 and items that the query tower cannot read are passed
                over.
            days_ago: days since each purchase, `[B, L]` or spread to it.
            user: rows of the customers that training saw `[B]`, -1 = none; it counts only where queries are looked up.
            user_fields: ids of their fields' values `[B, F]`.
        """
        if self._run.query_kind == "user":
            return plain_query(self._towers.user_query(user, user_fields), user >= 0)
        days_ago = tf.broadcast_to(days_ago, tf.shape(history))
        history, days_ago, _ = self._compact(history, days_ago, self._run.history_length)
        vectors = self._towers.query(history, days_ago, user_fields, self._vectors)
        known = tf.reduce_any(history >= 0, 1)
        if not (self._run.repeats or self._neighbours):
            return plain_query(vectors, known)
        rows, gains = totals(*self._gains(history, days_ago))
        own_scores = whole_scores(vectors, self._vectors, rows, gains)
        fallen = tf.shape(history)[1] if self._run.repeats else tf.constant(0)  # neighbours only gain
        return Query(vectors, known, rows, own_scores, fallen)

    def anonymous(self, history: tf.Tensor, days_ago: tf.Tensor) -> Query:
        """Queries of customers of whom the purchases alone are known: item rows and days as above."""
        batch = tf.shape(history)[0]
        return self(history, days_ago, tf.fill([batch], -1), tf.zeros([batch, self._run.user_fields], tf.int32))

    def explain(
        self, history: tf.Tensor, days_ago: tf.Tensor, user_fields: tf.Tensor, items: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """The scores of `items` `[B, K]`, and what they would be without each purchase: `without` `[B, K, L]`.

        Also the query vectors `[B, D]`, and their products with the items' vectors `[B, K]`: the score without what
        earlier purchases of the item itself add. Purchases that are not read change nothing by being left out.
        """
        # One more than is read: where a later purchase is left out, it takes that one's place.
        rows, days, places = self._compact(history, days_ago, self._run.history_length + 1)
        batch, length = tf.unstack(tf.shape(rows))
        self._check_explained(batch, length, tf.shape(history)[1], tf.shape(items)[1])
        vectors = tf.gather(self._vectors, tf.maximum(items, 0))  # (B, K, D)
        left_out = tf.where(tf.eye(length, dtype=tf.bool)[None], -1, rows[:, None])  # (B, L, L)
        histories = tf.reshape(tf.concat([rows[:, None], left_out], 1), [-1, length])  # (B (1 + L), L)
        each = {"repeats": 1 + length, "axis": 0}
        rows, days, _ = self._compact(histories, tf.repeat(days, **each))
        queries = self._towers.query(rows, days, tf.repeat(user_fields, **each), self._vectors)
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
            found.append((history, self._towers.repeat_scores(days_ago)))
        rows, gains = zip(*found) if found else ([history[:, :0]], [days_ago[:, :0]])
        return tf.concat(rows, 1), tf.concat(gains, 1)

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
