"""The items of a served model, in the graph: ids to rows and back, popular items, filters, exclusions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfrec.evaluation.scores import LOWEST
from tfrec.popularity import best_sellers
from tfrec.repeats import among
from tfrec.saved_model.attribute_terms import AttributeFilter
from tfrec.saved_model.tensors import lookup, marked


class Catalogue(tf.Module):
    """Item ids and what an answer may hold.

    Args:
        item_ids: `N` distinct ids.
        popularity: float32 `[N]`; more is more popular.
        attributes: field -> the values of each of the `N` items.

    Raises:
        ValueError: ids that are empty or repeated, or inputs of different lengths.
    """

    def __init__(
        self,
        item_ids: Sequence[str],
        popularity: np.ndarray,
        attributes: Mapping[str, Sequence[Sequence[str]]] | None = None,
    ):
        super().__init__(name="catalogue")
        self.size = len(item_ids)
        _check_ids(item_ids, popularity)
        self.item_ids = tf.Variable(np.asarray(item_ids, object), dtype=tf.string, trainable=False, name="item_ids")
        self.row_of = lookup(item_ids, "item_rows")
        popularity = np.nan_to_num(np.asarray(popularity, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        self.popularity = tf.Variable(popularity, trainable=False, name="popularity")
        self.popular_rows = tf.Variable(
            best_sellers(popularity), trainable=False, name="popular_rows"
        )  # most popular first
        self.filter = AttributeFilter(attributes or {}, self.size)

    def rows(self, item_ids: tf.Tensor) -> tf.Tensor:
        """Rows int32 of item ids of any shape; -1 for unknown ids and for the padding ""."""
        return self.row_of.lookup(item_ids)

    def listed(self, item_ids: tf.Tensor) -> tf.Tensor:
        """Rows of a list that answers are limited to: -1 for the padding "", -2 for unknown ids."""
        return tf.where(item_ids == "", -1, tf.where((rows := self.rows(item_ids)) < 0, -2, rows))

    def ids(self, rows: tf.Tensor) -> tf.Tensor:
        """Item ids of rows of any shape; "" for -1."""
        return tf.where(rows >= 0, tf.gather(self.item_ids, tf.maximum(rows, 0)), "")

    def popular(self, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The k most popular items: scores `[k]` and rows `[k]`."""
        rows = self.popular_rows[:k]
        return tf.gather(self.popularity, rows), rows

    def allowed(self, terms: tf.Tensor, fields: tf.Tensor, allow_rows: tf.Tensor) -> tf.Tensor:
        """Which items each row's filters allow, bool `[B, N]`.

        Args:
            terms, fields: int32 `[B, A]` of attribute terms "field=value" (`AttributeFilter.parse`), -1 = padding. An item
                must match every field that is named, by any of the values named for it.
            allow_rows: int32 `[B, M]` item rows, -1 = padding, -2 = an id that is not known. An item must be
                one of them; all padding allows all.
        """
        request = tf.concat([terms, fields, allow_rows], 1)
        # A column of zeros: rows of no columns cannot be told apart.
        distinct, set_of = tf.raw_ops.UniqueV2(x=tf.pad(request, [[0, 0], [0, 1]]), axis=[0])
        width = tf.shape(terms)[1]
        sets = tf.map_fn(
            lambda row: self.filter.mask(row[:width], row[width : 2 * width]) & self._listed(row[2 * width : -1]),
            distinct,
            fn_output_signature=tf.TensorSpec([self.size], tf.bool),
        )
        return tf.gather(sets, set_of)

    def _listed(self, rows: tf.Tensor) -> tf.Tensor:
        """Items that a list of rows `[M]` names, bool `[N]`; all of them when the list is padding."""
        return marked(tf.boolean_mask(rows, rows >= 0), self.size) | tf.reduce_all(rows == -1)


def drop_excluded(scores: tf.Tensor, rows: tf.Tensor, excluded: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The first k answers of each query that are not excluded.

    Args:
        scores: float32 `[B, K]`, best first.
        rows: int32 `[B, K]`.
        excluded: int32 `[B, E]` rows, -1 = padding.
        k: int32 scalar.

    Returns:
        Scores `[B, k]` and rows `[B, k]`; `LOWEST` and -1 where nothing is left.
    """
    scores = tf.where(among(rows, excluded) | ~tf.math.is_finite(scores), LOWEST, scores)
    kept = tf.minimum(k, tf.shape(scores)[1])
    scores, order = tf.math.top_k(scores, kept)
    rows = tf.where(scores > LOWEST, tf.gather(rows, order, batch_dims=1), -1)
    missing = [[0, 0], [0, k - kept]]
    return tf.pad(scores, missing, constant_values=LOWEST), tf.pad(rows, missing, constant_values=-1)


def _check_ids(item_ids: Sequence[str], popularity: np.ndarray) -> None:
    if len(item_ids) != len(popularity):
        raise ValueError(f"popularity has {len(popularity)} entries for {len(item_ids)} items; give one an item")
    if "" in item_ids or len(set(item_ids)) < len(item_ids):
        raise ValueError('item ids must be distinct and not ""; prepare the data again')
