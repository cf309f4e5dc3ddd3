"""Terms "field=value" in the graph: filters of answers, and attributes of items to encode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import pandas as pd
import tensorflow as tf

from tfrec.attribute_vocabulary import FIRST, UNKNOWN, AttributeVocabulary
from tfrec.saved_model.tensors import lookup, marked


class AttributeFilter(tf.Module):
    """Which items match terms "field=value".

    Args:
        attributes: field -> the values of each of the N items.
        size: N.
    """

    def __init__(self, attributes: Mapping[str, Sequence[Sequence[str]]], size: int):
        super().__init__(name="attribute_filter")
        self.fields, self.size = list(attributes), size
        terms, starts, rows = _postings(attributes, size)
        self.term_of, self.field_of = lookup(terms, "terms"), lookup(self.fields, "fields")
        # An inverted index: the items of term t are rows[starts[t]:starts[t + 1]].
        self.starts = tf.Variable(starts, trainable=False, name="term_starts")
        self.rows = tf.Variable(rows, trainable=False, name="term_rows")

    def parse(self, allow: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Terms string `[B, A]` to term and field numbers int32 `[B, A]`, -1 for padding.

        A known field with a value that no item has keeps its field number: then nothing matches. An unknown field, or a
        field without "=", is an error (INVALID_ARGUMENT), since ignoring it would show what was to be hidden.
        """
        fields = self.field_of.lookup(tf.strings.regex_replace(allow, "(?s)=.*", ""))
        terms = tf.strings.regex_full_match(allow, "(?s)[^=]*=.*")
        wrong = tf.boolean_mask(allow, ~(terms & (fields >= 0)) & (allow != ""))
        message = f"allow takes terms field=value with a field of {list(self.fields)}, not"
        tf.debugging.Assert(tf.equal(tf.size(wrong), 0), [message, wrong[:3]])
        return self.term_of.lookup(allow), fields

    def mask(self, terms: tf.Tensor, fields: tf.Tensor) -> tf.Tensor:
        """Items that match terms int32 `[A]` of fields int32 `[A]`: bool `[N]`."""
        asked, _ = tf.unique(tf.boolean_mask(fields, fields >= 0))
        return tf.foldl(
            lambda matching, field: matching & self._with_any(tf.boolean_mask(terms, (fields == field) & (terms >= 0))),
            asked,
            initializer=tf.ones([self.size], tf.bool),
        )

    def _with_any(self, terms: tf.Tensor) -> tf.Tensor:
        """Items that have any of the terms int32 `[A]`: bool `[N]`."""
        terms, _ = tf.unique(terms)
        starts, stops = tf.gather(self.starts, terms), tf.gather(self.starts, terms + 1)
        return marked(tf.gather(self.rows, tf.ragged.range(starts, stops).values), self.size)


class AttributeInput(tf.Module):
    """Terms "field=value" of an item to the ids that the attribute encoder reads.

    Args:
        vocabulary: of the attribute encoder.
    """

    def __init__(self, vocabulary: AttributeVocabulary):
        super().__init__(name="attribute_input")
        self._max_values, self._fields = vocabulary.max_values, vocabulary.fields
        self._field_of = lookup(vocabulary.fields, "input_fields")
        terms: list[str] = []
        ids: list = []
        for field, values in vocabulary.values.items():
            terms += [f"{field}={value}" for value in values]
            ids += range(FIRST, len(values) + FIRST)
        self._term_of = lookup(terms, "input_terms")
        self._ids = tf.constant([*ids, UNKNOWN], tf.int32)

    def __call__(self, terms: tf.Tensor) -> tf.Tensor:
        """Terms string `[B, A]` ("" = padding; fields that the model does not read are ignored) to int32 `[B,
        F, V]`.
        """
        field = self._field_of.lookup(tf.strings.regex_replace(terms, "(?s)=.*", ""))
        found = self._term_of.lookup(terms)
        ids = tf.gather(self._ids, tf.where(found < 0, tf.size(self._ids) - 1, found))
        most = self._max_values
        of_field = [tf.where(field == number, ids, 0) for number in range(len(self._fields))]
        stacked = tf.stack(of_field, 1)  # (B, F, A)
        front = tf.argsort(tf.cast(stacked == 0, tf.int32), axis=2, stable=True)
        packed = tf.gather(stacked, front, batch_dims=2)[:, :, :most]
        return tf.pad(packed, [[0, 0], [0, 0], [0, most - tf.shape(packed)[2]]])


def _postings(attributes: Mapping[str, Sequence[Sequence[str]]], size: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """All terms, where each one's items start int64 `[T + 1]`, and the rows of the items, term by term, int32."""
    terms: list[str] = []
    counts, rows = [np.zeros(1, np.int64)], [np.zeros(0, np.int32)]
    for field, items in attributes.items():
        if len(items) != size:
            raise ValueError(f"attribute {field!r} has values of {len(items)} items, expected {size}")
        item = np.repeat(np.arange(size, dtype=np.int32), np.fromiter(map(len, items), np.int64, size))
        code, values = pd.factorize(np.array(list(chain.from_iterable(items)), object))
        terms += [f"{field}={value}" for value in values]
        counts.append(np.bincount(code, minlength=len(values)))
        rows.append(item[np.argsort(code, kind="stable")])
    return terms, np.cumsum(np.concatenate(counts)), np.concatenate(rows)
